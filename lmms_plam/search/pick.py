"""Picking a recipe: the best by the benchmark's own metric, how many others are within its noise, and is it at an edge?

Of recipes that tie, the gentlest is taken: the one that starts at the latest layer, then that with the smallest share
of the base LM, then that whose coefficients' sum is nearest to 1, then that which changes the fewest modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmms_plam.search.record import Recipe
from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.spread import standard_errors
from lmms_plam.stats.units import Units

NOISE = 2.0
"""Paired standard errors within which another recipe may as well be the better one."""


def gentlest_first(recipes: Sequence[Recipe], columns: IntArray) -> IntArray:
    """Return the columns in the order in which ties are broken."""

    def force(column: int) -> tuple[float, ...]:
        recipe = recipes[column]
        modules = len(recipe.fields.modules) if recipe.fields else 0
        return -recipe.start_layer, round(recipe.share, 9), round(abs(recipe.total - 1), 9), modules, column

    return np.array(sorted(columns.tolist(), key=force), dtype=np.int64)


def best(values: FloatArray, order: IntArray) -> IntArray:
    """Return the best column of each row.

    Args:
        values: (..., n_columns) a criterion, higher is better.
        order: the candidates, gentlest first.

    Returns:
        (...,) of `order`'s members.
    """
    candidates = values[..., order]
    top = candidates.max(axis=-1, keepdims=True)
    tied = candidates >= top - 1e-9 * np.maximum(1.0, np.abs(top))  # sums that differ by rounding alone are ties
    return np.asarray(order[tied.argmax(axis=-1)])


def near_best(units: Units, pick: int, candidates: IntArray, noise: float = NOISE) -> IntArray:
    """Return the candidates that the documents can't tell from the pick, itself among them.

    Args:
        units: the sample.
        pick: the picked column.
        candidates: columns asked on all documents.
        noise: paired, cluster-robust standard errors that the difference may have.
    """
    contrasts = np.zeros((units.credit.shape[1], len(candidates)))
    contrasts[candidates, np.arange(len(candidates))] += 1.0
    contrasts[pick] -= 1.0
    gap = units.estimate() @ contrasts
    error, _ = standard_errors(units, contrasts)
    return np.asarray(candidates[np.abs(gap) <= noise * error + 1e-12 * abs(units.scale)])


def borders(recipes: Sequence[Recipe], pick: int, depth: int | None = None) -> list[str]:
    """Say at which edges of what was searched the pick lies: beyond, a better one may lie that nobody asked.

    A coefficient's natural ends are none: a lambda_lm one step above 0, since at 0 nothing is merged; a lambda_vlm of
    0; and where all sums are alike, what either of these ends. Nor are layer 0 and the last. An axis with a single
    value wasn't searched.

    Args:
        recipes: all that were asked, dropped ones too.
        pick: place of the picked one.
        depth: decoder layers; None if nobody knows.
    """
    picked = recipes[pick]
    plane = [one for one in recipes if one.kind == picked.kind and one.plane == picked.plane]
    found = []
    layers = sorted({one.start_layer for one in plane})
    if len(layers) > 1 and picked.start_layer == layers[0] > 0:
        found.append(f"the earliest start layer asked, {picked.start_layer}")
    if len(layers) > 1 and picked.start_layer == layers[-1] and (depth is None or layers[-1] < depth - 1):
        found.append(f"the latest start layer asked, {picked.start_layer}")
    one_sum = len({one.total for one in plane}) == 1
    for axis, name in ((0, "lambda_lm"), (1, "lambda_vlm")):
        values = sorted({one.coefficients[axis] for one in plane})
        if len(values) < 2 or (one_sum and axis == 1):
            continue
        value, step = picked.coefficients[axis], min(np.diff(values)) + 1e-9
        lowest = 0.0 if axis == 1 else step
        if value == values[0] > lowest:
            found.append(f"the lowest {name} asked, {value:g}")
        if value == values[-1] and not (one_sum and picked.coefficients[1] == 0):
            found.append(f"the highest {name} asked, {value:g}")
    return found
