"""Leading a model's own `generate` along given tokens, and reading their probability off its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lmms_plam.language.border import Passage
from lmms_plam.model.likelihood import Score


class _Lead(LogitsProcessor):  # type: ignore[misc]
    """Leads each row of a generation along its tokens: everything else gets probability 0."""

    def __init__(self, tokens: Sequence[Sequence[int]], prompt_length: int):
        self.tokens, self.prompt_length = tokens, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - self.prompt_length
        led = torch.full_like(scores, float("-inf"))
        for row, tokens in enumerate(self.tokens):
            led[row, tokens[min(place, len(tokens) - 1)]] = 0
        return led


def follow(generate: Callable[..., Any], inputs: Mapping[str, Any], continuations: Sequence[Passage]) -> list[Score]:
    """Score one continuation of each prompt.

    Args:
        generate: the model's own `generate`.
        inputs: the backend's arguments for it, with `input_ids` [prompts, length].
        continuations: by prompt.
    """
    longest = max(len(one.tokens) for one in continuations)
    led = {
        "max_new_tokens": longest,
        "min_new_tokens": longest,
        "do_sample": False,
        "num_beams": 1,
        "logits_processor": LogitsProcessorList(
            [_Lead([one.tokens for one in continuations], inputs["input_ids"].shape[1])]
        ),
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    logits = torch.stack([step.float() for step in generate(**{**inputs, **led}).logits])  # [steps, rows, vocabulary]
    scores = []
    for row, passage in enumerate(continuations):
        own = logits[passage.start : len(passage.tokens), row]
        target = torch.tensor(passage.scored, device=own.device)
        value = own.log_softmax(dim=-1).gather(1, target[:, None]).double().sum()
        scores.append(Score(float(value), bool((own.argmax(dim=-1) == target).all())))
    return scores
