"""A pick that needs no right answers: the recipe whose answers differ least from its neighbours' (AdaMMS, 2503.23733).

Since it never looks at a score, its gain on the same documents is no maximum, and an ordinary interval holds for it.
"""

from __future__ import annotations

import numpy as np

from lmms_plam.search.surface import Surface, neighbours
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.units import Units


def agreement(surface: Surface) -> tuple[FloatArray, FloatArray]:
    """Return, for each document and recipe, with how many neighbours its answer agrees, and how many were asked.

    Returns:
        Two arrays, (n_docs, n_recipes). Recipes without neighbours have zeros.
    """
    _, flat = np.unique(surface.matrix.answers.astype(str).ravel(), return_inverse=True)
    answers = flat.reshape(surface.asked.shape)
    agreeing, compared = np.zeros(answers.shape), np.zeros(answers.shape)
    for column, near in enumerate(neighbours(surface.recipes)):
        there = surface.asked[:, near] & surface.asked[:, [column]]
        compared[:, column] = there.sum(axis=1)
        agreeing[:, column] = ((answers[:, near] == answers[:, [column]]) & there).sum(axis=1)
    return agreeing, compared


def with_agreement(surface: Surface) -> Units:
    """Return the metric's totals by cluster, and beside each recipe's column, n_recipes further on, its agreement."""
    agreeing, compared = agreement(surface)
    own, n_recipes = surface.metric, len(surface.recipes)

    def credit(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
        credits, weights = own.credit(matrix.take(range(n_recipes)))
        return np.hstack([credits, agreeing]), np.hstack([weights, compared])

    doubled = surface.matrix.take([*range(n_recipes), *range(n_recipes)])
    return Units.of(doubled, Metric(own.name, own.estimand, credit, own.pooling, own.scale))
