"""Spherical interpolation: along the arc between two tensors, and not along the chord, which is shorter."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_PARALLEL = 0.9995
"""Cosine beyond which arc and chord are taken for one, as mergekit does (0.1.5, merge_methods/slerp.py)."""


def cosine(blocks: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the cosine of the angle between two tensors, summed in float64; NaN where one of them is 0 everywhere.

    Args:
        blocks: rows of both, a few at a time, each row once.
    """
    dot = squares_a = squares_b = 0.0
    for a, b in blocks:
        a, b = a.double().flatten(), b.double().flatten()
        dot += torch.dot(a, b).item()
        squares_a += torch.dot(a, a).item()
        squares_b += torch.dot(b, b).item()
    length = math.sqrt(squares_a) * math.sqrt(squares_b)
    return dot / length if length else math.nan


def slerp_weights(angle: float, lambda_lm: float, lambda_vlm: float) -> tuple[float, float]:
    """Return what base LM and VLM are multiplied with, for `linear` to do the rest.

    With s = lambda_lm + lambda_vlm, the result is s times the point that divides the arc from the base LM to the VLM at
    t = lambda_vlm / s: mergekit's slerp for s = 1, its t the share of the model that isn't its base. (0, 1) is the VLM
    and (1, 0) the base LM. The whole tensor is one vector, and its length goes along with the weights, as there.
    Where the two are parallel or opposite (the cosine beyond .9995), or one is 0 everywhere, it is the weighted sum.

    Args:
        angle: the cosine of the angle between the two, as `cosine` returns it.
        lambda_lm: coefficient of the base LM, at least 0.
        lambda_vlm: coefficient of the VLM, at least 0.
    """
    total = lambda_lm + lambda_vlm
    if 0 in (lambda_lm, lambda_vlm) or not abs(angle) <= _PARALLEL:
        return lambda_lm, lambda_vlm
    theta = math.acos(angle)
    share = lambda_vlm / total
    return (
        total * math.sin((1 - share) * theta) / math.sin(theta),
        total * math.sin(share * theta) / math.sin(theta),
    )
