"""The paired, clustered, stratified bootstrap: whole clusters drawn with replacement inside each stratum.

All variants see the same draw, which is what pairs them. Intervals are BCa (Efron 1987; with strata, Davison and
Hinkley 1997, section 5.3) with a jackknife over clusters. Two similar models differ on few documents, and where fewer
than about 60 clusters bear on the difference, BCa's third moment is noise and it covers too little; there the interval
is the percentile one of draws that know of a gain and a loss more than was seen (pseudo.py), its tails widened to what
a t interval would cover (Hesterberg 2015, section 5.3), with the degrees of freedom that so few clusters leave. Both
make up for draws from G clusters spreading less than samples do, by a root of (G - 1) / G in each stratum. Scores are
lumpy, so quantiles are those of the mid-distribution: ties count half, as in the p-values. Strata of one cluster are
collapsed (collapse.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from lmms_plam.stats.collapse import collapse
from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.pseudo import MANY_CLUSTERS, add_pseudo_observations, possible, pseudo_influence
from lmms_plam.stats.spread import spread
from lmms_plam.stats.units import Units, chunk_sizes

MOST_DRAWS = 1_000_000
"""More of them take memory and time, and tell nothing."""

Method = Literal["BCa bootstrap", "percentile bootstrap"]
BCA: Method = "BCa bootstrap"
PERCENTILE: Method = "percentile bootstrap"


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
    units = collapse(units)
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


def interval(drawn: FloatArray, units: Units, contrast: FloatArray, level: float = 0.95) -> Interval:
    """Return the two-sided interval of a contrast of variants.

    Args:
        drawn: (draws,) the contrast on resamples.
        units: the sample.
        contrast: (n_variants,) coefficients: -1 and 1 for a paired difference, a single 1 for a score.
        level: confidence level, in (0, 1).
    """
    found, reach = spread(units, contrast), ndtri((1 + level) / 2)
    if found.effective >= MANY_CLUSTERS:
        values, shares = _mid_distribution(drawn, np.ones(len(drawn)))
        bias = float(ndtri(np.interp(units.estimate() @ contrast, values, shares)))
        shifted = bias + _both_sides(reach * found.error / found.plug_in)
        tails = ndtr(bias + shifted / (1 - acceleration(units, contrast) * shifted))
        low, high = np.interp(tails, shares, values)
        return Interval(float(low), float(high), BCA)
    influence = pseudo_influence(units, contrast, found)
    values, shares = _mid_distribution(*add_pseudo_observations(drawn, influence))
    error, plug_in = (float(np.hypot(size, 2**0.5 * influence)) for size in (found.error, found.plug_in))
    if found.error > 0:  # the pseudo-observations' part of the variance is known
        reach = stdtrit(found.freedom * (error / found.error) ** 4, (1 + level) / 2)
    tails = ndtr(_both_sides(reach * error / plug_in)) if plug_in else np.array([0.5, 0.5])
    low, high = np.clip(np.interp(tails, shares, values), *possible(units, contrast))
    return Interval(float(low), float(high), PERCENTILE)


def acceleration(units: Units, contrast: FloatArray) -> float:
    """Return BCa's a: a sixth of the skewness of the jackknife over clusters; 0 where nothing varies."""
    units = collapse(units)
    size, left_out = units.stratum_sizes, units.leave_one_out() @ contrast
    mean = np.bincount(units.stratum, weights=units.count * left_out) / size
    influence = (size - 1)[units.stratum] / size[units.stratum] * (mean[units.stratum] - left_out)
    square = float(units.count @ influence**2)
    return float(units.count @ influence**3) / (6 * square**1.5) if square > 1e-24 * units.scale**2 else 0.0


def _both_sides(reach: float) -> FloatArray:
    return np.array([-reach, reach])


def _mid_distribution(drawn: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distinct values, ascending, and the share of the weight below each, ties counted half."""
    grid = 1e-10 * max(float(np.abs(drawn).max()), 1e-10)  # sums that differ by rounding alone are ties
    values, place = np.unique(np.round(drawn / grid), return_inverse=True)
    count = np.bincount(place, weights=weight)
    return values * grid, (np.cumsum(count) - count / 2) / count.sum()
