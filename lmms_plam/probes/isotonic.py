"""Isotonic regression of many curves at once: the closest curve that never falls."""

from __future__ import annotations

import numpy as np

from lmms_plam.stats.matrix import FloatArray


def isotonic_fit(curves: FloatArray) -> FloatArray:
    """Return the non-decreasing least-squares fit of each curve.

    It is the fit that pooling adjacent violators finds, written as its max-min formula
    `fit[k] = max over i <= k of min over j >= k of mean(curve[i..j])` (Robertson, Wright and Dykstra 1988, theorem
    1.4.4), which needs no data-dependent loop, so that thousands of bootstrap draws take one pass.

    Args:
        curves: (..., n_cuts) curves, every point of the same weight.

    Returns:
        (..., n_cuts) the fits.
    """
    curves = np.asarray(curves, dtype=np.float64)
    n_cuts = curves.shape[-1]
    sums = np.concatenate([np.zeros_like(curves[..., :1]), np.cumsum(curves, axis=-1)], axis=-1)
    fit = np.full_like(curves, -np.inf)
    for start in range(n_cuts):
        means = (sums[..., start + 1 :] - sums[..., start, None]) / np.arange(1, n_cuts - start + 1)
        lowest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        fit[..., start:] = np.maximum(fit[..., start:], lowest)
    return fit
