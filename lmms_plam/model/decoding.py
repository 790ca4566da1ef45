"""Decoding: the next tokens of many answers from one forward of the model, each row reading what its variant may.

A row is an answer, of one variant to one prompt. The model runs as it always does; only its attention function is
wrapped meanwhile: rows that still see at a layer share one copy of the prompt's keys and values, blind rows have short
ones of their own. The model's own attention then does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from lmms_plam.model.batch import Batch
from lmms_plam.model.host import attention_replaced
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.variants import WeightSet, installed

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Queries, keys and values [rows, heads, length, dim] and a mask, to attention [rows, length, heads, dim]."""

Part = TypeVar("Part", "Lineup", "DecodingBatch")


class Lineup:
    """Answers to one prompt that go on with the same weights, ordered by falling cut.

    At a layer, the rows with a higher cut see; they come first. They all read one copy of the prompt's keys, followed
    step by step by every row's new one, of which a mask leaves each row its own. The other rows are blind and read
    short keys of their own.

    Args:
        prompt: index of the prompt.
        cuts: by row, the cut layer; the depth for rows that always see.
        seen: by layer, keys and values of the whole prompt, one row; None where no row sees.
        seen_positions: [length], their positions.
        blind: by layer, keys and values of the text, as many rows as are blind; None where every row sees.
        blind_positions: [length], their positions.
    """

    def __init__(
        self,
        prompt: int,
        cuts: Sequence[int],
        seen: Sequence[KeysValues | None],
        seen_positions: Tensor,
        blind: Sequence[KeysValues | None],
        blind_positions: Tensor,
    ):
        self.prompt = prompt
        self._cuts = list(cuts)
        self._seen, self._seen_positions = list(seen), seen_positions
        self._blind, self._blind_positions = list(blind), blind_positions
        self._names = torch.arange(len(cuts), device=seen_positions.device)  # of the rows, for life
        self._owners = torch.full_like(seen_positions, -1)  # of the columns of `seen`; -1: the prompt's, for all
        self._alone = len(cuts) == 1
        self._own: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of answers."""
        return len(self._cuts)

    def advance(self, position: int) -> None:
        """Make room for the next token of every row, at this position."""
        self._owners = torch.cat([self._owners, self._names])
        self._seen_positions = _extended(self._seen_positions, position, self.rows)
        self._blind_positions = _extended(self._blind_positions, position, 1)
        if not self._alone:
            self._own = ((self._owners == -1) | (self._owners == self._names[:, None]))[None, None]

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        for layer, blind in enumerate(self._blind):
            seeing = self._seeing(layer)
            if blind is not None:
                left = torch.tensor([row - seeing for row in rows if row >= seeing], device=self._names.device)
                self._blind[layer] = (blind[0][left], blind[1][left]) if len(left) else None
            if rows[0] >= seeing:
                self._seen[layer] = None
        self._cuts = [self._cuts[row] for row in rows]
        self._names = self._names[rows]

    def attend(
        self, layer: int, attention: Attention, mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend from the rows' new tokens.

        Args:
            layer: index of the decoder layer.
            attention: the model's own.
            mask: the model's own, [rows, 1, 1, positions so far], boolean or additive; None: all visible. It is the
                same for all rows of a prompt.
            query: [rows, heads, 1, dim].
            key: [rows, key heads, 1, dim], kept for later steps.
            value: the same.

        Returns:
            [rows, 1, heads, dim].
        """
        seeing = self._seeing(layer)
        outputs = []
        if (seen := self._seen[layer]) is not None:
            seen = self._seen[layer] = _joined(seen, key.transpose(0, 2), value.transpose(0, 2))
            own = None if self._own is None else self._own[:, :, :seeing]
            visible = None if mask is None else mask[:1, ..., self._seen_positions]
            output, _ = attention(query[:seeing].transpose(0, 2), *seen, _both(own, visible))
            outputs.append(output.transpose(0, 1))
        if (blind := self._blind[layer]) is not None:
            blind = self._blind[layer] = _joined(blind, key[seeing:], value[seeing:])
            visible = None if mask is None else mask[:1, ..., self._blind_positions]
            outputs.append(attention(query[seeing:], *blind, visible)[0])
        return torch.cat(outputs)

    def _seeing(self, layer: int) -> int:
        """Count the rows that see at this layer."""
        return sum(cut > layer for cut in self._cuts)


def _extended(positions: Tensor, position: int, times: int) -> Tensor:
    return torch.cat([positions, positions.new_full((times,), position)])


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
    """All answers that go on with the same weights: they share the model's forward.

    Args:
        batch: the prompts.
        weights: the weight set; None: the weights as loaded.
        lineups: the answers, prompt by prompt.
    """

    def __init__(self, batch: Batch, weights: WeightSet | None, lineups: Sequence[Lineup]):
        self._batch = batch
        self._weights = weights
        self._lineups = list(lineups)

    @property
    def rows(self) -> int:
        """The number of answers."""
        return sum(lineup.rows for lineup in self._lineups)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        self._lineups = keep_rows(self._lineups, rows)

    def step(self, tokens: Tensor, position: int, inputs: Mapping[str, Any]) -> Tensor:
        """Read one more token of each answer.

        Args:
            tokens: [rows].
            position: theirs.
            inputs: arguments of the model's forward for one token of each prompt, from `Batch.next_inputs`.

        Returns:
            Logits [rows, vocabulary], float32.
        """
        for lineup in self._lineups:
            lineup.advance(position)
        rows = self._batch.for_rows(inputs, [lineup.prompt for lineup in self._lineups for _ in range(lineup.rows)])
        rows["input_ids"] = tokens[:, None]
        decoder = self._batch.decoder
        with installed(self._weights, decoder.by_index()), attention_replaced(decoder, self._attend):
            logits: Tensor = self._batch.model(**rows, return_dict=True).logits
        return logits[:, -1].float()

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
