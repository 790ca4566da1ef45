"""Decoding: the next tokens of many answers from one forward of the model, each row reading what its variant may.

A row is an answer, of one variant to one prompt. The model runs as it always does; only its attention function is
wrapped meanwhile: rows that have seen all along share one copy of the prompt's keys and values at a layer, the others
have their own. The model's own attention then does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from lmms_plam.model.batch import Batch
from lmms_plam.model.host import Attention, attention_replaced, attention_silenced
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.reader import Ledger
from lmms_plam.model.rows import installed_by_rows
from lmms_plam.model.variants import WeightSet

ShelfKind = Literal["common", "whole", "text"]

Part = TypeVar("Part", "Lineup", "DecodingBatch")


@dataclass(slots=True)
class Shelf:
    """Keys and values that answers of a lineup read at a layer.

    Attributes:
        rows: the answers.
        states: those of the prompt, and of new tokens as they come: one copy in common, followed at each step by every
            answer's new one, of which a mask leaves each its own; or as many copies as answers.
        kind: whether they are common to these answers, or their own, and then whether vision is among them.
    """

    rows: list[int]
    states: KeysValues
    kind: ShelfKind


class Lineup:
    """Answers to one prompt that go on with the same weights.

    At a layer, those that have never been kept from vision read one copy of the prompt's keys and values; the others
    have their own, short ones where vision is hidden, or none where attention is silent.

    Args:
        prompt: index of the prompt.
        weights: the weight set; None: the weights as loaded.
        rows: the number of answers.
        shelves: by layer, keys and values; each answer is on one shelf of each layer, or silent there.
        positions: by kind of shelf, the positions [length] of the prompt's keys.
        ledger: where what the answers give to vision is written down, if it is to be read.
    """

    def __init__(
        self,
        prompt: int,
        weights: WeightSet | None,
        rows: int,
        shelves: Sequence[Sequence[Shelf]],
        positions: Mapping[ShelfKind, Tensor],
        ledger: Ledger | None = None,
    ):
        self.prompt = prompt
        self.weights = weights
        self.rows = rows
        self._shelves = [list(own) for own in shelves]
        self._positions = dict(positions)
        self._names = torch.arange(rows, device=positions["common"].device)  # of the answers, for life
        self._owners = torch.full_like(positions["common"], -1)  # of the common columns; -1: the prompt's, for all
        self._ledger = ledger
        self._alone = rows == 1
        self._own: Tensor | None = None

    def advance(self, position: int, count: int) -> None:
        """Make room for the next tokens of every answer, so many from this position on."""
        self._owners = torch.cat([self._owners, self._names.repeat_interleave(count)])
        new = torch.arange(position, position + count, device=self._owners.device)
        for kind, positions in self._positions.items():
            self._positions[kind] = torch.cat([positions, new.repeat(self.rows if kind == "common" else 1)])
        if not self._alone:
            self._own = (self._owners == -1) | (self._owners == self._names[:, None])

    def keep(self, rows: list[int]) -> None:
        """Drop all other answers."""
        places = {row: place for place, row in enumerate(rows)}
        for layer, shelves in enumerate(self._shelves):
            kept = []
            for shelf in shelves:
                left = [place for place, row in enumerate(shelf.rows) if row in places]
                if left and shelf.kind != "common" and len(left) < len(shelf.rows):
                    shelf.states = shelf.states[0][left], shelf.states[1][left]
                if left:
                    shelf.rows = [places[shelf.rows[place]] for place in left]
                    kept.append(shelf)
            self._shelves[layer] = kept
        self.rows = len(rows)
        self._names = self._names[rows]
        if self._ledger is not None:
            self._ledger.keep(rows)

    def attend(
        self, layer: int, attention: Attention, mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend from the answers' new tokens.

        Args:
            layer: index of the decoder layer.
            attention: the model's own.
            mask: the model's own, [rows, 1, tokens, positions so far], boolean or additive; None: all visible. It is
                the same for all rows of a prompt.
            query: [rows, heads, tokens, dim].
            key: [rows, key heads, tokens, dim], kept for later steps.
            value: the same.

        Returns:
            [rows, tokens, heads, dim].
        """
        rows, heads, count, _ = query.shape
        attention_of = query.new_zeros(rows, count, heads, value.shape[-1])
        for shelf in self._shelves[layer]:
            visible = None if mask is None else mask[:1, ..., self._positions[shelf.kind]]
            queries = query[shelf.rows]
            if shelf.kind == "common":
                shelf.states = _joined(shelf.states, _side_by_side(key), _side_by_side(value))
                if self._own is not None:
                    own = self._own[shelf.rows].repeat_interleave(count, dim=0)[None, None]
                    visible = _both(own, None if visible is None else visible.repeat(1, 1, len(shelf.rows), 1))
                queries = _side_by_side(queries)
                attention_of[shelf.rows] = attention(queries, *shelf.states, visible).reshape(
                    -1, count, heads, value.shape[-1]
                )
            else:
                shelf.states = _joined(shelf.states, key[shelf.rows], value[shelf.rows])
                attention_of[shelf.rows] = attention(queries, *shelf.states, visible)
            if self._ledger is not None and shelf.kind != "text":
                self._ledger.read(layer, shelf.rows, attention, queries, shelf.states[0], visible)
        return attention_of

    def silent(self, layer: int) -> list[int]:
        """Return the answers to which attention adds nothing at a layer."""
        return sorted(set(range(self.rows)).difference(*(shelf.rows for shelf in self._shelves[layer])))


def _side_by_side(states: Tensor) -> Tensor:
    """Lay the tokens of all rows [rows, heads, tokens, dim] into one, row by row."""
    return states.transpose(0, 1).flatten(1, 2)[None]


def _joined(old: KeysValues, key: Tensor, value: Tensor) -> KeysValues:
    return torch.cat([old[0], key], dim=2), torch.cat([old[1], value], dim=2)


def _both(own: Tensor | None, visible: Tensor | None) -> Tensor | None:
    """Combine a boolean mask with the model's, which is boolean or additive."""
    if own is None or visible is None:
        return own if visible is None else visible
    return own & visible if visible.dtype == torch.bool else visible.masked_fill(~own, torch.finfo(visible.dtype).min)


def keep_rows(parts: Sequence[Part], rows: list[int]) -> list[Part]:
    """Drop all other rows, numbered through from part to part, and the parts that are left with none."""
    left, first = [], 0
    for part in parts:
        own = [row - first for row in rows if first <= row < first + part.rows]
        first += part.rows
        if own:
            part.keep(own)
            left.append(part)
    return left


class DecodingBatch:
    """Answers that share the model's forward, whatever their weights.

    Args:
        batch: the prompts.
        lineups: the answers, by weights and prompt.
    """

    def __init__(self, batch: Batch, lineups: Sequence[Lineup]):
        self._batch = batch
        self._lineups = list(lineups)
        self._silent = self._silent_rows()

    @property
    def rows(self) -> int:
        """The number of answers."""
        return sum(lineup.rows for lineup in self._lineups)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        self._lineups = keep_rows(self._lineups, rows)
        self._silent = self._silent_rows()

    def step(self, tokens: Tensor, position: int, inputs: Mapping[str, Any]) -> Tensor:
        """Read more tokens of each answer.

        Args:
            tokens: [rows, tokens].
            position: the first one's.
            inputs: arguments of the model's forward for as many tokens of each prompt, from `Batch.next_inputs`.

        Returns:
            Logits [rows, tokens, vocabulary], float32.
        """
        for lineup in self._lineups:
            lineup.advance(position, tokens.shape[1])
        rows = self._batch.for_rows(inputs, [lineup.prompt for lineup in self._lineups for _ in range(lineup.rows)])
        rows["input_ids"] = tokens
        decoder = self._batch.decoder
        with (
            installed_by_rows([(lineup.weights, lineup.rows) for lineup in self._lineups], decoder.by_index()),
            attention_replaced(decoder, self._attend),
            attention_silenced(decoder, self._silent),
        ):
            logits: Tensor = self._batch.model(**rows, return_dict=True).logits
        return logits.float()

    def _silent_rows(self) -> dict[int, list[int]]:
        """By layer, the rows to which attention adds nothing."""
        firsts = list(accumulate((lineup.rows for lineup in self._lineups), initial=0))
        found = {
            layer: [
                first + row
                for first, lineup in zip(firsts, self._lineups, strict=False)
                for row in lineup.silent(layer)
            ]
            for layer in range(self._batch.decoder.depth)
        }
        return {layer: rows for layer, rows in found.items() if rows}

    def _attend(
        self, layer: int, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Compute a layer's attention lineup by lineup."""
        sizes = [lineup.rows for lineup in self._lineups]
        masks = [None] * len(sizes) if mask is None else mask.expand(len(query), -1, -1, -1).split_with_sizes(sizes)
        parts = zip(*(tensor.split_with_sizes(sizes) for tensor in (query, key, value)), strict=True)
        outputs = [
            lineup.attend(layer, attention, visible, *part)
            for lineup, visible, part in zip(self._lineups, masks, parts, strict=True)
        ]
        return torch.cat(outputs)
