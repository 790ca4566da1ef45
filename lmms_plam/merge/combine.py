"""From a recipe's method to the function that merges a few rows of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from lmms_plam.merge.blocks import Block
from lmms_plam.merge.methods import (
    add_changes,
    add_elected,
    cosine,
    drop,
    fisher,
    linear,
    slerp_weights,
    thresholds,
    trim,
)
from lmms_plam.merge.names import parse_name
from lmms_plam.merge.plan import MergedTensor

Passes = Callable[[], Iterator[Block]]
Merge = Callable[[Block], Tensor]


def combination(tensor: MergedTensor, passes: Passes) -> Merge:
    """Return what merges a block of a tensor, in the VLM's dtype.

    A model whose coefficient is 0 has no part: its change is neither counted nor heard where signs are elected. Where
    one model has a part alone, with the coefficient 1 and all of its change, the result is that model, bit for bit.

    Args:
        tensor: what is merged, and how.
        passes: each call begins a pass over its blocks. SLERP takes one before the merge, for the angle, and TIES two,
            for the size of the smallest change that stays.
    """
    way, pair = tensor.way, tensor.coefficients
    if way.method == "linear":
        return lambda block: linear(block.lm, block.vlm, pair.lm, pair.vlm)
    if way.method == "slerp":
        weights = pair.lm, pair.vlm
        if all(weights):
            weights = slerp_weights(cosine((block.lm, block.vlm) for block in passes()), *weights)
        return lambda block: linear(block.lm, block.vlm, *weights)
    if way.method == "fisher":
        return partial(_by_fisher, pair.lm, pair.vlm)
    return _by_changes(tensor, passes)


def _by_fisher(lambda_lm: float, lambda_vlm: float, block: Block) -> Tensor:
    if not block.information:  # one of the two has the coefficient 0
        return block.lm.to(block.vlm.dtype) if lambda_lm else block.vlm
    ours, theirs = block.information
    return fisher(block.lm, block.vlm, theirs, ours, lambda_lm, lambda_vlm).to(block.vlm.dtype)


def _by_changes(tensor: MergedTensor, passes: Passes) -> Merge:
    way, pair = tensor.way, tensor.coefficients
    parts = {"base_lm": pair.lm if tensor.source is not None else 0, "vlm": pair.vlm}
    parts = {name: coefficient for name, coefficient in parts.items() if coefficient}
    coefficients = list(parts.values())

    def models(block: Block) -> list[Tensor]:
        return [block.lm if name == "base_lm" else block.vlm for name in parts]

    def changes(block: Block) -> list[Tensor]:
        return [model.float() - _ancestor(block).float() for model in models(block)]

    if not coefficients:  # lambda_vlm is 0, and the base LM the ancestor
        return lambda block: _ancestor(block).to(block.vlm.dtype)
    if coefficients == [1] and way.density == 1:
        return lambda block: models(block)[0].to(block.vlm.dtype)
    kept = changes
    if way.method == "ties" and way.density < 1:
        least = thresholds(lambda: map(changes, passes()), way.density)

        def kept(block: Block) -> list[Tensor]:
            return list(map(trim, changes(block), least))

    elif way.method in ("dare_linear", "dare_ties"):
        of = str(parse_name(tensor.name) or tensor.name)

        def kept(block: Block) -> list[Tensor]:
            own = zip(parts, changes(block), strict=True)
            return [drop(change, way.density, f"{name}.{of}", way.seed, block.start) for name, change in own]

    add = add_elected if way.method in ("ties", "dare_ties") else add_changes
    return lambda block: add(_ancestor(block), kept(block), coefficients).to(block.vlm.dtype)


def _ancestor(block: Block) -> Tensor:
    assert block.ancestor is not None
    return block.ancestor
