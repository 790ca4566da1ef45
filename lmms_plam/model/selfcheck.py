"""The engine proves itself on the model at hand: whatever tests say, a user's model, attention and versions are new.

`check_engine` answers some prompts both ways, by the engine and one variant after another. The plain way has no second
implementation, so `check_hiding` looks at behaviour, of either way: with vision hidden from layer 0 on, an answer can't
depend on what a picture shows; with vision readable everywhere, it should. Both run a few tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmms_plam.errors import PlamError
from lmms_plam.model.family import FamilyResult, generate_family
from lmms_plam.model.host import find_decoder
from lmms_plam.model.lanes import QueryScope
from lmms_plam.model.reference import run_plainly
from lmms_plam.model.variants import Variant, WeightSet

STEPS = 4
"""New tokens that a check looks at."""

_ROUNDING = {torch.float32: 256, torch.float16: 16, torch.bfloat16: 4}
"""By dtype, how many rounding steps of the largest logit two ways of computing the same may differ by."""

_READING = 4
"""How many times that many rounding steps of 1 two readings of attention mass, mean over heads, may differ by."""

Answer = Callable[[Sequence[Variant], Mapping[str, Any]], FamilyResult]
"""Answers prompts, given as arguments of generate, with some variants; logits are kept."""


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """What answering the same prompts both ways showed.

    Attributes:
        variants: how many variants were asked.
        largest: the largest difference between two logits.
        allowed: what the dtype allows, at the size of these logits.
        deviation: the first thing that can't be rounding, in words; empty if there is none.
    """

    variants: int
    largest: float
    allowed: float
    deviation: str


@dataclass(frozen=True, slots=True)
class HidingCheck:
    """What replacing the pictures of some prompts changed.

    Attributes:
        hidden: the largest difference of a logit with vision hidden everywhere.
        seen: the same with vision readable everywhere.
        allowed: what the dtype allows.
    """

    hidden: float
    seen: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether hidden pictures make no difference."""
        return self.hidden <= self.allowed


def check_engine(
    model: PreTrainedModel,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
    read_attention: bool = False,
) -> EngineCheck:
    """Answer prompts by the engine and plainly, and compare tokens and logits, and attention where it is read.

    An exception of the engine is a deviation; what it refuses, and what the plain way raises, is passed on.

    Args:
        model: the vision-language model.
        variants: those to be asked; the untouched one and at most four of these, the first and last among them, are
            compared, or cuts where these are fewer than two.
        generate_kwargs: the keyword arguments of `model.generate`.
        weights: the weight sets that variants name.
        query_scope: from which queries vision is hidden.
        read_attention: whether attention to vision is read.

    Raises:
        UnsupportedError: as `generate_family`.
    """
    chosen = _some_of(variants, find_decoder(model).depth)
    named = {variant.weights for variant in chosen}
    options: dict[str, Any] = {
        "weights": [one for one in weights if one.name in named],
        "query_scope": query_scope,
        "keep_logits": True,
        "read_attention": read_attention,
    }
    short = _short(generate_kwargs)
    try:
        ours = generate_family(model, chosen, short, **options)
    except PlamError:
        raise
    except Exception as error:
        return EngineCheck(len(chosen), float("nan"), float("nan"), f"it fails with {type(error).__name__}: {error}")
    theirs = run_plainly(model, chosen, short, **options)
    allowed = _allowed(model, theirs)
    largest, deviation = 0.0, ""
    for variant, own, other in zip(chosen, _answers(ours), _answers(theirs), strict=True):
        for prompt, (one, two) in enumerate(zip(own, other, strict=True)):
            difference, parted = _compare(one, two, allowed)
            largest = max(largest, difference)
            if not deviation and (parted or not difference <= allowed):
                what = parted or f"logits differ by {difference:.3g}, and rounding allows {allowed:.1g}"
                deviation = f"variant '{variant.name or 'untouched'}', prompt {prompt}: {what}"
    if read_attention and not deviation:
        deviation = _compare_readings(chosen, ours, theirs, _READING * rounding(model))
    return EngineCheck(len(chosen), largest, allowed, deviation)


def check_hiding(model: PreTrainedModel, answer: Answer, generate_kwargs: Mapping[str, Any]) -> HidingCheck | None:
    """Replace the pictures by their negatives, of the same size, and see whether answers notice.

    Args:
        model: the vision-language model.
        answer: one of the two ways.
        generate_kwargs: the keyword arguments of `model.generate`, of prompts with vision.

    Returns:
        None where the prompts' pictures can't be told among the arguments.
    """
    pixels = {
        name: 1 - value
        for name, value in generate_kwargs.items()
        if name.startswith("pixel_values") and isinstance(value, Tensor) and value.is_floating_point()
    }
    if not pixels:
        return None
    variants = [Variant("hidden", 0), Variant("seen")]
    short = {**_short(generate_kwargs), "num_beams": 1}
    first, second = answer(variants, short), answer(variants, {**short, **pixels})
    hidden, seen = (
        max(_compare(one, two, float("inf"))[0] for one, two in zip(own, other, strict=True))
        for own, other in zip(_answers(first), _answers(second), strict=True)
    )
    return HidingCheck(hidden, seen, _allowed(model, first))


def _some_of(variants: Sequence[Variant], depth: int) -> list[Variant]:
    """Return the untouched variant and some of those asked, spread evenly, or else cuts."""
    asked = [one for one in variants if one.weights is not None or one.silent is not None or one.hidden(depth)]
    if len(asked) < 2:
        asked += [Variant(f"cut {cut}", cut) for cut in (0, depth // 2)]
    step = max(1, -(-(len(asked) - 1) // 3))
    return [Variant(""), *dict.fromkeys([*asked[::step], asked[-1]])]


def _short(generate_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for a few greedy tokens of the same prompts."""
    sampling = ("temperature", "top_p", "top_k", "min_new_tokens", "min_length")
    kept = {name: value for name, value in generate_kwargs.items() if name not in sampling}
    return {**kept, "do_sample": False, "max_new_tokens": min(STEPS, kept.get("max_new_tokens") or STEPS)}


def _answers(result: FamilyResult) -> Iterator[list[tuple[list[int], Tensor]]]:
    """Yield each variant's answers: tokens and logits [tokens, vocabulary]."""
    for tokens, logits in zip(result.tokens, result.logits or [], strict=True):
        yield list(zip(tokens, logits, strict=True))


def _allowed(model: PreTrainedModel, result: FamilyResult) -> float:
    largest = max(float(logits.abs().max()) for own in result.logits or [] for logits in own)
    return rounding(model) * largest


def rounding(model: PreTrainedModel) -> float:
    """Return the relative difference that two ways of computing the same may have."""
    return _ROUNDING.get(model.dtype, 256) * torch.finfo(model.dtype).eps


def _compare_readings(variants: Sequence[Variant], ours: FamilyResult, theirs: FamilyResult, allowed: float) -> str:
    """Compare the question's attention mass, mean over heads, and return the first deviation in words."""
    for variant, own, other in zip(variants, ours.readouts or [], theirs.readouts or [], strict=True):
        for prompt, (read, due) in enumerate(zip(own, other, strict=True)):
            if read is not None and due is not None:
                apart = float((read.instruction.mass - due.instruction.mass).mean(dim=-1).abs().max())
                if not apart <= allowed:
                    what = f"attention mass of a layer is read otherwise, by {apart:.3g}"
                    return f"variant '{variant.name or 'untouched'}', prompt {prompt}: {what}"
    return ""


def _compare(one: tuple[list[int], Tensor], two: tuple[list[int], Tensor], allowed: float) -> tuple[float, str]:
    """Return the largest difference between two answers' logits as far as they agree, and how else they part."""
    (ours, our_logits), (theirs, their_logits) = one, two
    shorter = min(len(ours), len(theirs))
    agree = next((step for step in range(shorter) if ours[step] != theirs[step]), shorter)
    seen = min(agree + 1, shorter)
    difference = float((our_logits[:seen] - their_logits[:seen]).abs().max())
    if agree == len(ours) == len(theirs):
        return difference, ""
    if agree == shorter:
        return difference, f"answers end after {len(ours)} and {len(theirs)} tokens"
    ahead = float(their_logits[agree, theirs[agree]] - their_logits[agree, ours[agree]])
    if ahead <= allowed:  # two tokens within rounding of each other
        return difference, ""
    return difference, f"token {agree} is {ours[agree]} instead of {theirs[agree]}"
