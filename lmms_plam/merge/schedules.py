"""How the coefficients of a merge vary over the decoder's depth (blog of 2025-03-13, Methods 1 to 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lmms_plam.config import MergeRecipe

Schedule = Literal["constant", "linear", "loglinear"]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What the base LM's and the VLM's own weights are multiplied with, both at least 0."""

    lm: float
    vlm: float


def growth(schedule: Schedule, layer: int, depth: int) -> float:
    """Return r, the part of the base LM's weight that a layer gets: from 0 in the first layer to 1 in the last.

    Args:
        schedule: `constant` r = 1, `linear` r = l / (L - 1), `loglinear` r = ln(1 + l) / ln(L).
        layer: the decoder layer l, 0-based.
        depth: number L of layers of the whole decoder, not of the merged range alone.
    """
    if schedule == "constant" or layer == depth - 1:
        return 1.0
    if schedule == "linear":
        return layer / (depth - 1)
    return math.log(1 + layer) / math.log(depth)


def coefficients(recipe: MergeRecipe, layer: int, depth: int) -> Coefficients:
    """Return a layer's coefficients; they sum to s = lambda_lm + lambda_vlm at every depth.

    r = 0 gives (0, s) and r = 1 exactly (lambda_lm, lambda_vlm), in both forms. Between them the share of the base LM
    is lambda_lm r / (lambda_lm r + lambda_vlm) in the form `ratio` and lambda_lm r / s in the form `share`.
    """
    r = growth(recipe.schedule, layer, depth)
    total = recipe.lambda_lm + recipe.lambda_vlm
    if r == 0:
        return Coefficients(0.0, total)
    if r == 1:
        return Coefficients(recipe.lambda_lm, recipe.lambda_vlm)
    grown = recipe.lambda_lm * r
    if recipe.schedule_form == "share":
        return Coefficients(grown, total - grown)
    weight = grown + recipe.lambda_vlm
    return Coefficients(total * (grown / weight), total * (recipe.lambda_vlm / weight))
