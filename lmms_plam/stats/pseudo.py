"""Pseudo-observations: what a sample in which few clusters differ, or none, can't say about those that it lacks.

Two similar models differ on few documents. Where the sample shows no change, or three gains and no loss, resamples show
none either, however many changes there may be. Intervals for paired proportions therefore count one document more in
each direction (Agresti and Min 2005, Statistics in Medicine 24, section 4; Bonett and Price 2012, Journal of
Educational and Behavioral Statistics 37): here one more gain and one more loss, each drawn as often as any cluster is.
They matter where two clusters matter, and vanish where many bear on the number. Where no cluster of many documents
differs, a change of one document stands for what may be unseen: should all answers of a cluster change at once, which
is rare, the interval is too narrow.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import skellam

from lmms_plam.stats.matrix import FloatArray
from lmms_plam.stats.spread import Spread
from lmms_plam.stats.units import Units, ratio

MANY_CLUSTERS = 60
"""So many clusters that bear on a number speak for themselves."""

_MOST = 12
"""A cluster that is drawn once on average is drawn more often than so in one draw of ten thousand million."""


def pseudo_influence(units: Units, contrast: FloatArray, found: Spread) -> float:
    """Return how far one more cluster of the rare kind would move a contrast.

    It is the root mean square over the clusters that are unlike the commonest one, and over one document that changes
    from the worst score to the best, which is all there is to go by where no cluster is unlike the others.

    Args:
        units: the sample.
        contrast: (n_variants,) coefficients.
        found: the contrast's spread.
    """
    square = found.plug_in**2 + _one_document(units, contrast) ** 2
    return float((square / (_unlike(units, contrast) + 1)) ** 0.5)


def widened_error(units: Units, contrast: FloatArray, found: Spread) -> float:
    """Return a contrast's standard error, with the gain and the loss unless many clusters bear on it.

    Args:
        units: the sample.
        contrast: (n_variants,) coefficients.
        found: the contrast's spread.
    """
    if found.effective >= MANY_CLUSTERS:
        return found.error
    return float(np.hypot(found.error, 2**0.5 * pseudo_influence(units, contrast, found)))


def add_pseudo_observations(drawn: FloatArray, influence: float) -> tuple[FloatArray, FloatArray]:
    """Return values and their weights: draws to which a gain and a loss are added, each drawn once on average.

    Args:
        drawn: (draws,) a contrast on resamples.
        influence: of the gain, and of the loss.
    """
    net = np.arange(-_MOST, _MOST + 1)
    values, count = np.unique(drawn, return_counts=True)
    return np.add.outer(values, influence * net).ravel(), np.outer(count, skellam.pmf(net, 1, 1)).ravel()


def possible(units: Units, contrast: FloatArray) -> tuple[float, float]:
    """Return the least and the greatest value that a contrast can have, all documents scoring their worst or best."""
    strata = len(units.stratum_sizes) if units.pooling == "sum" else 1
    ends = units.scale * strata * np.outer(units.reach, contrast)
    return float(ends.min(axis=0).sum()), float(ends.max(axis=0).sum())


def _one_document(units: Units, contrast: FloatArray) -> float:
    """Return the root mean square over documents of how far a change from the worst score to the best moves it."""
    _, totals = units.totals()
    weight = totals[:, contrast != 0].sum(axis=1) / max(1, np.count_nonzero(contrast))
    everything = float(weight.sum())
    if not everything:
        return 0.0
    change = units.scale * (units.reach[1] - units.reach[0]) * units.grain
    if units.pooling == "all":
        return change / everything
    share = 1 / len(weight) if units.pooling == "mean" else 1.0
    return float(change * share * ((1 / weight[weight > 0]).sum() / everything) ** 0.5)


def _unlike(units: Units, contrast: FloatArray) -> int:
    """Return how many clusters are unlike the commonest one."""
    value = np.round(ratio(units.credit, units.weight) @ contrast, 9)
    _, kind = np.unique(value, return_inverse=True)
    return units.n_clusters - int(np.bincount(kind, weights=units.count).max())
