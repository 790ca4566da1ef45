"""What training the embedded pairs shares: the loop and its schedule, the loss, which weights are matrices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lmms_plam.embedded.optimizer import MuonAdamW
from lmms_plam.embedded.packing import IGNORED


def fit(
    what: str,
    steps: int,
    optimizer: MuonAdamW,
    loss_of_step: Callable[[], Tensor],
    *,
    done: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Minimise: warm up over the first twentieth, fall to zero over the second half.

    Args:
        what: for the lines that are printed.
        steps: all of them.
        optimizer: of the weights.
        loss_of_step: the next batch's loss.
        done: steps that were taken before.
        after_step: gets the number of steps taken so far.
    """
    running, start = math.nan, time.perf_counter()
    for step in range(done, steps):
        loss = loss_of_step()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(min(20 * (step + 1) / steps, 1.0, 2 * (steps - step) / steps))
        running = loss.item() if step == done else running + 0.02 * (loss.item() - running)
        if (step + 1) % 100 == 0:
            minutes = (time.perf_counter() - start) / 60
            print(f"{what}: step {step + 1} of {steps}, loss {running:.4f}, {minutes:.1f} minutes", flush=True)
        if after_step is not None:
            after_step(step + 1)


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens."""
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def label_loss(tokens: Tensor, labels: Tensor, words: Tensor) -> Tensor:
    """Return how far vision tokens are from being their digits' words.

    Args:
        tokens: (N, tokens a digit, width).
        labels: the digits, (N,).
        words: embeddings of the words 0 to 9, (10, width).
    """
    scale = words.square().sum(1).mean()
    distances = torch.cdist(tokens.float().flatten(0, 1), words).square() / scale
    target = labels.repeat_interleave(tokens.shape[1])
    nearest: Tensor = functional.cross_entropy(-10 * distances, target)
    return nearest + distances.gather(1, target[:, None]).mean()


def matrices(modules: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the weights that Muon treats: matrices other than embeddings."""
    return [p for name, p in modules.named_parameters() if p.ndim == 2 and "embed" not in name]


@contextmanager
def timed(minutes: dict[str, float], stage: str) -> Iterator[None]:
    """Note how many minutes a stage took."""
    start = time.perf_counter()
    yield
    minutes[stage] = round((time.perf_counter() - start) / 60, 1)


def save(model: Any, words: Any, folder: Path) -> None:
    """Write a model and its tokenizer or processor."""
    model.save_pretrained(folder)
    words.save_pretrained(folder)
