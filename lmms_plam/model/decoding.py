"""Decoding: the next tokens of many answers from one forward of the model, each row reading what its variant may.

A row is an answer, of one variant to one prompt. The model runs as it always does; only its attention function is
wrapped meanwhile: rows that have computed a layer alike share one copy of the prompt's keys and values there, the
others have their own. The model's own attention then does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from lmms_plam.model.batch import Batch
from lmms_plam.model.host import Attention, attention_replaced, attention_silenced
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.reader import Ledger
from lmms_plam.model.rows import RowWeights
from lmms_plam.model.variants import WeightSet

ShelfKind = Literal["common", "whole", "text"]

Index = slice | Tensor

SIDE_BY_SIDE = 64
"""How many answers read one copy at most: each brings columns to it that are hidden from all others."""


@dataclass(slots=True)
class Shelf:
    """Keys and values that answers of a lineup read at a layer.

    Attributes:
        rows: the answers.
        states: those of the prompt, and of new tokens as they come: one copy in common, followed at each step by every
            answer's new one, of which a mask leaves each its own; or as many copies as answers.
        kind: whether they are common to these answers, or their own, and then whether vision is among them.
        index: what picks the answers among a lineup's, kept by the lineup.
    """

    rows: list[int]
    states: KeysValues
    kind: ShelfKind
    index: Index = field(init=False)


@dataclass(slots=True)
class _Columns:
    """What the columns of shelves hold, the same at all layers where the same answers share one.

    Attributes:
        rows: the answers that read one copy side by side, by their places in the lineup, which change as others leave;
            None: each reads a copy of its own.
        positions: [length], of each column.
        owners: [length], whose each is, by the answer's number, which stays; -1: everybody's.
        own: bool [answers, length], which columns each answer may read; None: all.
    """

    rows: list[int] | None
    positions: Tensor
    owners: Tensor
    own: Tensor | None = None

    def advance(self, numbers: Tensor, new: Tensor) -> None:
        """Add columns of new positions; `numbers` [rows] are those of the lineup's answers."""
        mine = numbers[self.rows] if self.rows is not None else self.owners[:1]
        self.positions = torch.cat([self.positions, new.repeat(len(mine))])
        self.owners = torch.cat([self.owners, mine.repeat_interleave(len(new))])
        if self.rows is not None:
            self.own = (self.owners == -1) | (self.owners == mine[:, None])


class Lineup:
    """Answers to one prompt.

    At a layer, those that come from one node and have never been kept from vision read one copy of the prompt's keys
    and values; the others have their own, short ones where vision is hidden, or none where attention is silent.

    Args:
        prompt: index of the prompt.
        rows: the number of answers.
        shelves: by layer, keys and values; each answer is on one shelf of each layer, or silent there.
        positions: by kind of shelf, the positions [length] of the prompt's keys.
        ledger: where what the answers give to vision is written down, if it is to be read.
    """

    def __init__(
        self,
        prompt: int,
        rows: int,
        shelves: Sequence[Sequence[Shelf]],
        positions: Mapping[ShelfKind, Tensor],
        ledger: Ledger | None = None,
    ):
        self.prompt = prompt
        self.rows = rows
        self._numbers = torch.arange(rows, device=positions["common"].device)  # of the answers, for life
        self._ledger = ledger
        columns: dict[tuple[ShelfKind, tuple[int, ...]], _Columns] = {}

        def columns_of(shelf: Shelf) -> _Columns:
            """Those of its answers where they share a copy; all other shelves of a kind have the same columns."""
            shelf.index = _index(shelf.rows, self._numbers.device)
            shared = tuple(shelf.rows) if shelf.kind == "common" and len(shelf.rows) > 1 else ()
            own = positions[shelf.kind]
            return columns.setdefault(
                (shelf.kind, shared), _Columns([*shared] if shared else None, own, torch.full_like(own, -1))
            )

        self._shelves = [[(shelf, columns_of(shelf)) for shelf in own] for own in shelves]
        self._columns = list(columns.values())

    def advance(self, position: int, count: int) -> None:
        """Make room for the next tokens of every answer, so many from this position on."""
        new = torch.arange(position, position + count, device=self._numbers.device)
        for columns in self._columns:
            columns.advance(self._numbers, new)

    def keep(self, rows: list[int]) -> None:
        """Drop all other answers."""
        places = {row: place for place, row in enumerate(rows)}
        for layer, shelves in enumerate(self._shelves):
            kept = []
            for shelf, columns in shelves:
                left = [place for place, row in enumerate(shelf.rows) if row in places]
                if left and columns.rows is None and len(left) < len(shelf.rows):
                    shelf.states = shelf.states[0][left], shelf.states[1][left]
                if left:
                    shelf.rows = [places[shelf.rows[place]] for place in left]
                    shelf.index = _index(shelf.rows, self._numbers.device)
                    kept.append((shelf, columns))
            self._shelves[layer] = kept
        for columns in self._columns:
            if columns.rows is not None:
                columns.rows = [places[row] for row in columns.rows if row in places]
        self._columns = [columns for columns in self._columns if columns.rows != []]
        self.rows = len(rows)
        self._numbers = self._numbers[rows]
        if self._ledger is not None:
            self._ledger.keep(rows)

    def attend(
        self, layer: int, attention: Attention, mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend from the answers' new tokens.

        Args:
            layer: index of the decoder layer.
            attention: the model's own.
            mask: the model's own for a row, [1, 1, tokens, positions so far], boolean or additive; None: all visible.
                It is the same for all rows of a prompt.
            query: [rows, heads, tokens, dim].
            key: [rows, key heads, tokens, dim], kept for later steps.
            value: the same.

        Returns:
            [rows, tokens, heads, dim].
        """
        rows, heads, count, _ = query.shape
        attention_of = query.new_zeros(rows, count, heads, value.shape[-1])
        for shelf, columns in self._shelves[layer]:
            queries, new = query[shelf.index], (key[shelf.index], value[shelf.index])
            visible = None if mask is None else mask[..., columns.positions]
            if columns.own is not None:
                queries, new = _side_by_side(queries), (_side_by_side(new[0]), _side_by_side(new[1]))
                visible = _both(columns.own.repeat_interleave(count, dim=0), visible, len(shelf.rows))
            shelf.states = torch.cat([shelf.states[0], new[0]], dim=2), torch.cat([shelf.states[1], new[1]], dim=2)
            found = attention(queries, *shelf.states, visible)
            attention_of[shelf.index] = found.reshape(-1, count, heads, value.shape[-1])
            if self._ledger is not None and shelf.kind != "text":
                self._ledger.read(layer, shelf.rows, attention, queries, shelf.states[0], visible)
        return attention_of

    def silent(self, layer: int) -> list[int]:
        """Return the answers to which attention adds nothing at a layer."""
        return sorted(set(range(self.rows)).difference(*(shelf.rows for shelf, _ in self._shelves[layer])))


def _index(rows: list[int], device: torch.device) -> Index:
    """Return what picks rows: where they are neighbours in order, a slice, which copies nothing."""
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


def _side_by_side(states: Tensor) -> Tensor:
    """Lay the tokens of all rows [rows, heads, tokens, dim] into one, row by row."""
    return states.transpose(0, 1).flatten(1, 2)[None]


def _both(own: Tensor, visible: Tensor | None, rows: int) -> Tensor:
    """Combine a boolean mask [rows x tokens, length] with the model's of a row, which is boolean or additive."""
    if visible is None:
        return own[None, None]
    visible = visible.repeat(1, 1, rows, 1)
    return own & visible if visible.dtype == torch.bool else visible.masked_fill(~own, torch.finfo(visible.dtype).min)


def keep_rows(parts: Sequence[DecodingBatch], rows: list[int]) -> list[DecodingBatch]:
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
        lineups: the answers, prompt by prompt.
        prompts: by row, the prompt; a lineup's answers are its prompt's rows, in order.
        weights: by row, the weight set; None: the weights as loaded.
    """

    def __init__(
        self,
        batch: Batch,
        lineups: Sequence[Lineup],
        prompts: Sequence[int],
        weights: Sequence[WeightSet | None],
    ):
        self._batch = batch
        self._lineups = list(lineups)
        self._line_up(list(prompts), list(weights))

    @property
    def rows(self) -> int:
        """The number of answers."""
        return len(self._prompts)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        left = set(rows)
        for lineup, own in zip(self._lineups, self._rows, strict=True):
            lineup.keep([place for place, row in enumerate(own) if row in left])
        self._lineups = [lineup for lineup in self._lineups if lineup.rows]
        self._line_up([self._prompts[row] for row in rows], [self._weights[row] for row in rows])

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
        rows = self._batch.for_rows(inputs, self._prompts)
        rows["input_ids"] = tokens
        decoder = self._batch.decoder
        with (
            self._row_weights.installed(),
            attention_replaced(decoder, self._attend),
            attention_silenced(decoder, self._silent),
        ):
            logits: Tensor = self._batch.model(**rows, return_dict=True).logits
        return logits.float()

    def _line_up(self, prompts: list[int], weights: list[WeightSet | None]) -> None:
        """Say which rows are whose."""
        self._prompts, self._weights = prompts, weights
        self._rows = [[row for row, one in enumerate(prompts) if one == lineup.prompt] for lineup in self._lineups]
        self._index = [_index(own, self._batch.input_ids.device) for own in self._rows]
        shares = [(own[0], len(own)) for own in (list(own) for _, own in groupby(weights, key=id))]
        self._row_weights = RowWeights(shares, self._batch.decoder.by_index())
        lineups = list(zip(self._lineups, self._rows, strict=True))
        silent = {
            layer: [own[row] for lineup, own in lineups for row in lineup.silent(layer)]
            for layer in range(self._batch.decoder.depth)
        }
        self._silent = {layer: rows for layer, rows in silent.items() if rows}

    def _attend(
        self, layer: int, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Compute a layer's attention prompt by prompt."""
        rows, heads, count, _ = query.shape
        mask = None if mask is None else mask.expand(rows, -1, -1, -1)
        attention_of = query.new_empty(rows, count, heads, value.shape[-1])
        for lineup, own, index in zip(self._lineups, self._rows, self._index, strict=True):
            visible = None if mask is None else mask[own[0] : own[0] + 1]
            attention_of[index] = lineup.attend(layer, attention, visible, query[index], key[index], value[index])
        return attention_of
