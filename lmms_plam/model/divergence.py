"""How far a variant's distribution of the first new token is from the untouched model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmms_plam.model.host import hooked


def divergence(untouched: Tensor, other: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of two distributions, in nats.

    Args:
        untouched: raw logits [..., vocabulary].
        other: raw logits of what is compared, the same shape.
    """
    expected, found = untouched.log_softmax(dim=-1), other.log_softmax(dim=-1)
    return (expected.exp() * (expected - found)).nansum(dim=-1).clamp(min=0)


@contextmanager
def first_logits(model: PreTrainedModel, prompts: int) -> Iterator[Callable[[], Tensor | None]]:
    """Keep what the model says of the first new token in the run of `generate` that is made while open.

    Args:
        model: the model.
        prompts: how many there are.

    Yields:
        What returns the raw logits [prompts, vocabulary] in float32 afterwards; None where `generate` ran other rows
        than prompts, as beams are.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not kept:
            kept.append(output.logits[:, -1].detach().to(torch.float32, copy=True))

    with hooked([model.register_forward_hook(keep)]):
        yield lambda: kept[0] if kept and len(kept[0]) == prompts else None
