"""The paired, clustered, stratified bootstrap: whole clusters drawn with replacement inside each stratum.

All variants see the same draw, which is what pairs them. Intervals are BCa (Efron 1987; with strata, Davison and
Hinkley 1997, section 5.3) with a jackknife over clusters, or plain percentiles where clusters are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.units import Units, chunk_sizes

MIN_CLUSTERS_BCA = 60
"""Below this many clusters the jackknife is too rough for BCa, and percentiles are used."""

Method = Literal["BCa bootstrap", "percentile bootstrap"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and how it was made."""

    low: float
    high: float
    method: Method


def bootstrap(units: Units, draws: int, rng: np.random.Generator) -> FloatArray:
    """Recompute the metric on resampled clusters.

    Args:
        units: the sample.
        draws: number of resamples.
        rng: source of randomness.

    Returns:
        (draws, n_variants).
    """
    n_strata, n_variants = len(units.stratum_sizes), units.credit.shape[1]
    chunks = chunk_sizes(draws, max(len(units.count), n_strata * n_variants))
    return np.concatenate([units.resampled(_draw(units, size, rng)) for size in chunks])


def _draw(units: Units, draws: int, rng: np.random.Generator) -> IntArray:
    """Return how often each row comes up, (draws, n_rows): in a stratum, as many clusters as it has."""
    size = units.stratum_sizes
    share = units.count / size[units.stratum]
    starts = np.flatnonzero(np.diff(units.stratum)) + 1
    return np.concatenate(
        [rng.multinomial(n, part, size=draws) for n, part in zip(size, np.split(share, starts), strict=True)], axis=1
    )


def interval(
    drawn: FloatArray, estimate: float, leave_one_out: FloatArray, units: Units, level: float = 0.95
) -> Interval:
    """Return the two-sided interval of one statistic: BCa, or percentile below MIN_CLUSTERS_BCA clusters.

    Args:
        drawn: (draws,) the statistic on resamples.
        estimate: the statistic on the full sample.
        leave_one_out: (n_rows,) the statistic without one cluster of each row.
        units: the clusters behind it.
        level: confidence level, in (0, 1).
    """
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    method: Method = "percentile bootstrap"
    if units.n_clusters >= MIN_CLUSTERS_BCA:
        bias = _bias(drawn, estimate)
        if math.isfinite(bias):
            shifted = bias + ndtri(tails)
            tails = ndtr(bias + shifted / (1 - acceleration(leave_one_out, units) * shifted))
            method = "BCa bootstrap"
    low, high = np.quantile(drawn, tails)
    return Interval(float(low), float(high), method)


def _bias(drawn: FloatArray, estimate: float) -> float:
    """Return z0, the normal quantile of the share of draws below the estimate; ties count half."""
    tolerance = 1e-12 * max(1.0, abs(estimate))
    below = np.mean(drawn < estimate - tolerance)
    tied = np.mean(np.abs(drawn - estimate) <= tolerance)
    return float(ndtri(below + tied / 2))


def acceleration(leave_one_out: FloatArray, units: Units) -> float:
    """Return BCa's a, the skewness of the jackknife influence values over six; 0 where nothing varies."""
    size = units.stratum_sizes
    mean = np.bincount(units.stratum, weights=units.count * leave_one_out) / size
    influence = (size[units.stratum] - 1) * (mean[units.stratum] - leave_one_out) / size[units.stratum]
    square = float(units.count @ influence**2)
    tolerance = 1e-24 * max(1.0, float(np.abs(leave_one_out).max()) ** 2)
    return float(units.count @ influence**3) / (6 * square**1.5) if square > tolerance else 0.0
