"""Closed-form standard errors that know of clusters and strata, and what they tell about a sample's strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lmms_plam.stats.collapse import collapse
from lmms_plam.stats.matrix import FloatArray
from lmms_plam.stats.units import Units, sum_strata


@dataclass(frozen=True, slots=True)
class Spread:
    """How a contrast of variants varies from sample to sample.

    Attributes:
        error: cluster-robust standard error: the root of the sum over strata of G / (G - 1) times the sum of squared
            influences of its G clusters. For a mean over unclustered documents this is s / sqrt(n); with one stratum
            of clusters it is the sandwich estimator with CR1's factor (Miller, arXiv 2411.00640, section 2.2).
            Strata of one cluster are collapsed.
        plug_in: the same without the factors G / (G - 1), which is how far bootstrap draws spread.
        freedom: degrees of freedom of `error`, by Satterthwaite: 2 over the squared coefficient of variation of
            `error` squared, from the influences' fourth moments, at most Welch's for normal ones; infinite if nothing
            varies. Where few clusters bear on the contrast, about twice their number.
        effective: the number of clusters that bear on the contrast: their number over the kurtosis of their
            influences. For the paired difference of 0/1 scores, the number of documents on which the two differ.
    """

    error: float
    plug_in: float
    freedom: float
    effective: float


def spread(units: Units, contrast: FloatArray) -> Spread:
    """Describe the sampling error of a contrast of variants.

    Args:
        units: the sample.
        contrast: (n_variants,) coefficients: -1 and 1 for a paired difference, a single 1 for a score.
    """
    units = collapse(units)
    influence, size = units.influence(contrast), units.stratum_sizes
    squares = np.bincount(units.stratum, weights=units.count * influence**2)
    plug_in, fourth = float(squares.sum()), float(units.count @ influence**4)
    if plug_in <= 1e-24 * units.scale**2:
        return Spread(0.0, 0.0, np.inf, 0.0)
    others = np.maximum(size - 1, 1)
    variances = size / others * squares
    normal = float((2 * variances**2 / others).sum())
    seen = fourth - float((squares**2 / size).sum())
    return Spread(
        error=float(variances.sum()) ** 0.5,
        plug_in=plug_in**0.5,
        freedom=2 * float(variances.sum()) ** 2 / max(normal, seen),
        effective=plug_in**2 / fourth,
    )


def standard_errors(units: Units, contrasts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `Spread.error` and `Spread.plug_in` of many contrasts at once.

    Args:
        units: the sample.
        contrasts: (n_variants, n_contrasts) coefficients.

    Returns:
        Two arrays, (n_contrasts,).
    """
    units = collapse(units)
    size = units.stratum_sizes
    squares = sum_strata(units.count[None], units.influence(contrasts) ** 2, units.stratum, len(size))[0]
    squares[:, squares.sum(axis=0) <= 1e-24 * units.scale**2] = 0.0
    variances = (size / np.maximum(size - 1, 1))[:, None] * squares
    return np.sqrt(variances.sum(axis=0)), np.sqrt(squares.sum(axis=0))


def minimum_detectable_effect(error: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true difference that a two-sided test finds with the given power: 2.80 standard errors by default."""
    return float((ndtri((1 + level) / 2) + ndtri(power)) * error)
