"""A batch of prompts inside `generate`: the inputs and rules that it has prepared, and the model's forward on them.

What varies between model families, from embeddings and positions to the final norm, head and logit capping, stays
behind the model's own `prepare_inputs_for_generation` and `forward`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from lmms_plam.model.host import (
    CACHE_NAMES,
    Decoder,
    next_inputs,
    padding_of,
    prefill_inputs,
    repeat_inputs,
    vision_positions,
)
from lmms_plam.model.lanes import Prompts
from lmms_plam.model.variants import Variant


@dataclass(frozen=True, slots=True)
class Rules:
    """How tokens are chosen and when an answer ends, as `generate` has prepared it."""

    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig


class Batch:
    """The prompts, with the model that answers them.

    Args:
        model: the vision-language model.
        decoder: its decoder.
        input_ids: [prompts, length].
        model_kwargs: everything else that `generate` would give to its decoding loop for the model.
        rules: how tokens are chosen.

    Attributes:
        prompts: where vision, text and padding are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Decoder,
        input_ids: Tensor,
        model_kwargs: Mapping[str, Any],
        rules: Rules,
    ):
        self.model = model
        self.decoder = decoder
        self.input_ids = input_ids
        self.rules = rules
        padding = model_kwargs.get("attention_mask")
        real = torch.ones_like(input_ids, dtype=torch.bool) if padding is None else padding.bool()
        self.prompts = Prompts(vision_positions(model, input_ids, model_kwargs), real)
        # the cache is no setting of the model but a matter of implementation: the engine brings its own
        self._kwargs = {name: value for name, value in model_kwargs.items() if name not in CACHE_NAMES}

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def length(self) -> int:
        """The prompts' length, padding included."""
        return self.input_ids.shape[1]

    def prefill_inputs(self, cache: DynamicCache) -> dict[str, Any]:
        """Return the arguments of the model's forward on the prompts, with an empty cache."""
        return prefill_inputs(self.model, self.input_ids, self._kwargs, cache)

    def next_inputs(self, counts: Iterable[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield position and arguments of some tokens of each prompt: its last, then new ones.

        Which tokens is open: rows bring their own, see `for_rows`.

        Args:
            counts: how many new ones at a time; left out, one after another without end.
        """
        return next_inputs(self.model, self.input_ids, self._kwargs, repeat(1) if counts is None else counts)

    def for_rows(self, inputs: Mapping[str, Any], prompts: Sequence[int]) -> dict[str, Any]:
        """Repeat arguments of the model's forward, laid out by prompt, for rows that belong to these prompts."""
        return repeat_inputs(inputs, len(self), prompts, self.input_ids.device)

    def read_out(self, states: Tensor, rows: Mapping[str, Any]) -> Tensor:
        """Turn what the last decoder layer returns into logits: final norm, head, scaling and capping.

        Args:
            states: [rows, 1, width].
            rows: arguments of the model's forward for these rows; the tokens don't matter.

        Returns:
            [rows, vocabulary], float32.
        """
        layers = self.decoder.text.layers
        self.decoder.text.layers = nn.ModuleList([_Given(states)])
        try:
            logits: Tensor = self.model(**rows, return_dict=True).logits
        finally:
            self.decoder.text.layers = layers
        return logits[:, -1].float()

    def choose(self, ids: Tensor, logits: Tensor, owners: Sequence[tuple[Variant, int]]) -> Tensor:
        """Choose each row's next token.

        Logits processors may hold something for each prompt of the batch, so each variant's rows are given to them as
        a batch of all prompts.

        Args:
            ids: [rows, length], prompt and new tokens so far.
            logits: [rows, vocabulary].
            owners: by row, the variant and the prompt.

        Returns:
            [rows].
        """
        if not self.rules.processors:
            return logits.argmax(dim=-1)
        by_variant: dict[Variant, list[int]] = {}
        for row, (variant, _) in enumerate(owners):
            by_variant.setdefault(variant, []).append(row)
        tokens = ids.new_empty(len(owners))
        for rows in by_variant.values():
            prompts = [owners[row][1] for row in rows]
            batch_ids = ids.new_zeros(len(self), ids.shape[1])
            scores = logits.new_zeros(len(self), logits.shape[1])
            batch_ids[prompts], scores[prompts] = ids[rows], logits[rows]
            tokens[rows] = self.rules.processors(batch_ids, scores)[prompts].argmax(dim=-1)
        return tokens

    def ended(self, ids: Tensor) -> list[bool]:
        """Say which rows [rows, length] end with their last token."""
        done: list[bool] = self.rules.criteria(ids, None).tolist()
        return done

    def sequences(self, answers: Sequence[list[int]]) -> Tensor:
        """Join the prompts and one answer each as `generate` does, padded on the right."""
        width = max(len(tokens) for tokens in answers)
        padding = padding_of(self.rules.config)  # set wherever answers can differ in length
        padded = [tokens + [padding] * (width - len(tokens)) for tokens in answers]
        return torch.cat([self.input_ids, torch.tensor(padded, device=self.input_ids.device)], dim=1)


class _Given(nn.Module):
    """Stands in for all decoder layers and returns the states that they would."""

    def __init__(self, states: Tensor):
        super().__init__()
        self._states = states

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._states
