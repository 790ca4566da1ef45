"""Intervals for ranks: which places a model could hold, given which differences the sample can show."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from lmms_plam.stats.matrix import FloatArray, IntArray


def rank_intervals(
    drawn: FloatArray, estimate: FloatArray, level: float = 0.95, errors: FloatArray | None = None
) -> tuple[IntArray, IntArray]:
    """Return the lowest and highest rank that each model could hold.

    The marginal confidence sets of Mogstad, Romano, Shaikh and Wilhelm (2024, Review of Economic Studies 91): a
    model's differences to all others get simultaneous intervals from the bootstrap of their largest studentised
    error; models that are surely better push its rank down, models surely worse hold it up. (Percentiles of
    bootstrapped ranks would be too narrow where models are close.)

    Args:
        drawn: (draws, n_models) scores on the same resamples, higher is better.
        estimate: (n_models,) scores on the full sample.
        level: confidence of each model's interval.
        errors: (n_models, n_models) standard errors of the differences; by default those of the draws.

    Returns:
        (n_models,) best and (n_models,) worst rank, 1 for the best model.
    """
    n_models = len(estimate)
    best, worst = np.ones(n_models, dtype=np.int64), np.full(n_models, n_models, dtype=np.int64)
    for model in range(n_models):
        gap = np.delete(estimate[model] - estimate, model)
        error = np.delete(drawn[:, [model]] - drawn, model, axis=1) - gap
        spread = error.std(axis=0)
        studentised = np.divide(np.abs(error), spread, out=np.zeros_like(error), where=spread > 0)
        reach = max(float(np.quantile(studentised.max(axis=1, initial=0.0), level)), float(ndtri((1 + level) / 2)))
        width = reach * (spread if errors is None else np.delete(errors[model], model))
        best[model] += np.count_nonzero(gap + width < 0)
        worst[model] -= np.count_nonzero(gap - width > 0)
    return best, worst
