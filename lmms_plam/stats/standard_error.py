"""Closed-form standard errors that know of clusters and strata, and the smallest effect that a sample can show."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from lmms_plam.stats.matrix import FloatArray
from lmms_plam.stats.units import Units


def standard_error(units: Units, contrast: FloatArray) -> float:
    """Return the cluster-robust standard error of a contrast of variants.

    The sum over strata of G / (G - 1) times the sum of squared deviations of the clusters' linearised contributions,
    G the stratum's number of clusters. For a mean over unclustered documents this is s / sqrt(n), with one stratum of
    clusters the sandwich estimator with CR1's G / (G - 1) (Miller, arXiv 2411.00640, section 2.2). A stratum of one
    cluster adds nothing.

    Args:
        units: the sample.
        contrast: (n_variants,) coefficients: -1 and 1 for a paired difference, a single 1 for a score.
    """
    part = units.linearised() @ contrast
    size = units.stratum_sizes
    centred = part - (np.bincount(units.stratum, weights=units.count * part) / size)[units.stratum]
    squares = np.bincount(units.stratum, weights=units.count * centred**2)
    return float(np.sqrt((size / np.maximum(size - 1, 1)) @ squares))


def minimum_detectable_effect(error: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true difference that a two-sided test finds with the given power: 2.80 standard errors by default."""
    return float((ndtri((1 + level) / 2) + ndtri(power)) * error)
