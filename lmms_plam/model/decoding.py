"""Decoding: all variants' next tokens from one forward of the model, each row reading the keys that its variant may.

The rows of a batch are answers: pairs of a variant and a prompt. The model runs as it always does, only its attention
function is wrapped while it runs: rows that still see at a layer share the prompt's one copy of keys and values, blind
rows have their own short ones. The model's own attention function then does the arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.anatomy import Decoder
from lmms_plam.model.variants import WeightSet, installed

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""The model's attention: queries, keys and values [rows, heads, length, dim] and a mask, to [rows, length, heads, dim]."""

KeysValues = tuple[Tensor, Tensor]

Part = TypeVar("Part", "Lineup", "Choir")


class Clock(DynamicCache):
    """Tells the model how many positions lie behind it; the keys and values are in the lineups."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> KeysValues:
        return keys, values


class Lineup:
    """Answers to one prompt that go on with the same weights, ordered by falling cut.

    At a layer, the rows with a higher cut see; they come first. They all read one copy of the prompt's keys, followed
    step by step by every row's new one, of which a mask leaves each row its own. The other rows are blind and read
    short keys of their own.

    Args:
        prompt: index of the prompt.
        cuts: by row, the cut layer; the depth for rows that always see.
        seen: by layer, keys and values of the whole prompt, [1, heads, length, dim]; None where no row sees.
        seen_positions: [length], their positions.
        blind: by layer, keys and values of the text, [blind rows, heads, length, dim]; None where every row sees.
        blind_positions: [length], their positions.
    """

    def __init__(
        self,
        prompt: int,
        cuts: Sequence[int],
        seen: list[KeysValues | None],
        seen_positions: Tensor,
        blind: list[KeysValues | None],
        blind_positions: Tensor,
    ):
        self.prompt = prompt
        self.cuts = list(cuts)
        self._seen, self._seen_positions = seen, seen_positions
        self._blind, self._blind_positions = blind, blind_positions
        self._rows = torch.arange(len(cuts), device=seen_positions.device)
        self._owners = self._rows.new_full(
            seen_positions.shape, -1
        )  # of the columns of `seen`; -1: the prompt, for all
        self._alone = len(cuts) == 1
        self._own: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of answers."""
        return len(self.cuts)

    def advance(self, position: int) -> None:
        """Make room for the next token of every row, at this position."""
        self._owners = torch.cat([self._owners, self._rows])
        self._seen_positions = _extended(self._seen_positions, position, len(self._rows))
        self._blind_positions = _extended(self._blind_positions, position, 1)
        if not self._alone:
            self._own = (self._owners == -1) | (self._owners == self._rows[:, None])

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        for layer, blind in enumerate(self._blind):
            seeing = self._seeing(layer)
            if blind is not None:
                chosen = [row - seeing for row in rows if row >= seeing]
                self._blind[layer] = (blind[0][chosen], blind[1][chosen]) if chosen else None
            if not any(row < seeing for row in rows):
                self._seen[layer] = None
        self.cuts = [self.cuts[row] for row in rows]
        self._rows = self._rows[rows]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attention: Attention
    ) -> Tensor:
        """Attend from the rows' new tokens.

        Args:
            layer: index of the decoder layer.
            query: [rows, heads, 1, dim].
            key: [rows, key heads, 1, dim], stored.
            value: the same, stored.
            mask: the model's own, [rows, 1, 1, positions so far], boolean or additive, None for all visible.
            attention: the model's attention.

        Returns:
            [rows, 1, heads, dim].
        """
        seeing = self._seeing(layer)
        outputs = []
        if (seen := self._seen[layer]) is not None:
            seen = self._seen[layer] = _joined(seen, key.transpose(0, 2), value.transpose(0, 2))
            own = None if self._own is None else self._own[None, None, :seeing]
            visible = None if mask is None else mask[:1, ..., self._seen_positions]
            output, _ = attention(query[:seeing].transpose(0, 2), *seen, _both(own, visible))
            outputs.append(output.transpose(0, 1))
        if (blind := self._blind[layer]) is not None:
            blind = self._blind[layer] = _joined(blind, key[seeing:], value[seeing:])
            visible = None if mask is None else mask[:1, ..., self._blind_positions]
            outputs.append(attention(query[seeing:], *blind, visible)[0])
        return torch.cat(outputs)

    def _seeing(self, layer: int) -> int:
        return sum(cut > layer for cut in self.cuts)


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


class Choir:
    """All answers that go on with the same weights: they share the model's forward.

    Args:
        model: the vision-language model.
        decoder: its decoder.
        weights: the weight set, None for the loaded weights.
        lineups: the answers, prompt by prompt.
        batch: number of prompts.
    """

    def __init__(
        self, model: nn.Module, decoder: Decoder, weights: WeightSet | None, lineups: list[Lineup], batch: int
    ):
        self._model = model
        self._decoder = decoder
        self._weights = weights
        self._lineups = lineups
        self._batch = batch

    @property
    def rows(self) -> int:
        """The number of answers."""
        return sum(lineup.rows for lineup in self._lineups)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        self._lineups = keep_rows(self._lineups, rows)

    def step(self, tokens: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Read one more token of each answer.

        Args:
            tokens: [rows].
            inputs: arguments of the model's forward for one token of each prompt, with a `Clock` as cache.

        Returns:
            Logits [rows, vocabulary], float32.
        """
        for lineup in self._lineups:
            lineup.advance(inputs["past_key_values"].length)
        rows = for_rows(inputs, [lineup.prompt for lineup in self._lineups for _ in range(lineup.rows)], self._batch)
        rows["input_ids"] = tokens[:, None]
        with installed(self._weights, self._decoder.by_index()), self._attention_wrapped():
            logits: Tensor = self._model(**rows, return_dict=True).logits
        return logits[:, -1].float()

    @contextmanager
    def _attention_wrapped(self) -> Iterator[None]:
        """Have the attention of each lineup computed on its own keys."""
        name, met = self._decoder.attention, set()
        before = ALL_ATTENTION_FUNCTIONS.get(name)  # None for eager, which each modeling file defines for itself

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, None]:
            plain = before or sys.modules[type(module).__module__].eager_attention_forward
            sizes = [lineup.rows for lineup in self._lineups]
            parts = zip(*(tensor.split(sizes) for tensor in (query, key, value)), strict=True)
            masks = [None] * len(sizes) if mask is None else mask.expand(len(query), -1, -1, -1).split(sizes)
            met.add(module.layer_idx)
            outputs = [
                lineup.attend(module.layer_idx, *part, one, partial(plain, module, **kwargs))
                for lineup, part, one in zip(self._lineups, parts, masks, strict=True)
            ]
            return torch.cat(outputs), None

        ALL_ATTENTION_FUNCTIONS[name] = attend
        try:
            yield
        finally:
            del ALL_ATTENTION_FUNCTIONS[name]
            if ALL_ATTENTION_FUNCTIONS.get(name) is not before:
                ALL_ATTENTION_FUNCTIONS[name] = before
        if len(met) < self._decoder.depth:
            raise UnsupportedError(
                f"the attention of {type(self._model).__name__} doesn't go through AttentionInterface"
            )


def for_rows(inputs: Mapping[str, Any], prompts: Sequence[int], batch: int) -> dict[str, Any]:
    """Repeat the arguments of the model's forward, one row for each of `batch` prompts, for rows of these prompts.

    The layout is transformers' own convention, that of `_expand_inputs_for_generation`: prompts come first, but second
    in three-dimensional position ids. The padding mask is left out: a lineup's keys hold no padding.
    """
    rows = dict(inputs)
    for name, value in inputs.items():
        dim = 1 if name == "position_ids" and value.ndim == 3 else 0
        if isinstance(value, Tensor) and value.shape[dim] in (1, batch):
            index = torch.tensor(prompts, device=value.device)
            rows[name] = value.index_select(dim, index if value.shape[dim] == batch else torch.zeros_like(index))
    rows["attention_mask"] = None
    return rows


class _Given(nn.Module):
    """Stands in for all decoder layers and returns the states that they would."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.states


def read_out(model: nn.Module, decoder: Decoder, states: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Turn what the last decoder layer returns into logits by the model's own forward: norm, head, scaling, capping.

    Args:
        model: the vision-language model.
        decoder: its decoder.
        states: [rows, 1, width].
        inputs: arguments of the model's forward for these rows.

    Returns:
        Logits [rows, vocabulary], float32.
    """
    layers = decoder.text.layers
    decoder.text.layers = nn.ModuleList([_Given(states)])
    try:
        return model(**inputs, return_dict=True).logits[:, -1].float()
    finally:
        decoder.text.layers = layers
