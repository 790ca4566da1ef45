"""Strata of a single cluster, put together for resampling: nothing else says how much such a stratum varies.

A benchmark asked with `--limit` has few documents in each of its strata, many of them one. A stratified bootstrap draws
that one every time, as if the stratum were known. Collapsed strata (Wolter 2007, Introduction to Variance Estimation,
section 2.5) take the variance from the clusters of several strata, as if these had one mean; as they don't, it is on
average a little too large. Estimates and pooling stay those of the benchmark's own strata.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.units import Units, ratio, sum_strata


def collapse(units: Units) -> Units:
    """Return units of the same value and variants whose strata have two clusters or more, as far as there are two.

    A collapsed stratum's clusters are exchangeable by their deviation from its mean. Where its strata count alike
    whatever their size, deviations are scaled such that the stratum varies as its strata together do, each of them a
    mean over its own number of such clusters.
    """
    sizes = units.stratum_sizes
    home = collapsed_strata(sizes)
    if (np.bincount(home) == 1).all():
        return units
    everything = range(units.credit.shape[1])
    if units.pooling == "all":
        return replace(units, stratum=home[units.stratum]).select(everything)
    share = 1 / len(sizes) if units.pooling == "mean" else 1.0
    credit, weight = units.totals()
    values, clusters = ratio(credit, weight), np.bincount(home, weights=sizes)
    centre = _sum_by(home, sizes[:, None] * values) / clusters[:, None]
    residual = units.credit - centre[home][units.stratum] * units.weight
    deviation = sizes[units.stratum][:, None] * ratio(residual, weight[units.stratum])
    widening = np.sqrt(np.bincount(home, weights=1 / sizes) * clusters)
    own = home[units.stratum]
    together = (_sum_by(home, values)[own] + widening[own][:, None] * deviation) * share
    joined = (np.bincount(home) > 1)[own][:, None]
    return replace(
        units,
        credit=np.where(joined, together, share * units.credit),
        weight=np.where(joined, 1.0, units.weight),
        stratum=own,
        pooling="sum",
    ).select(everything)


def collapsed_strata(sizes: IntArray) -> IntArray:
    """Return the collapsed stratum that each stratum belongs to, as codes from 0.

    All strata of a single cluster go together; one alone goes with the stratum before it, the first with the second.

    Args:
        sizes: (n_strata,) clusters in each stratum.

    Returns:
        (n_strata,).
    """
    home = np.arange(len(sizes))
    single = np.flatnonzero(sizes == 1)
    if len(single) == 1 < len(sizes):
        single = np.array([single[0], abs(single[0] - 1)])
    home[single] = single.min(initial=len(sizes))
    return np.unique(home, return_inverse=True)[1].astype(np.int64)


def _sum_by(home: IntArray, values: FloatArray) -> FloatArray:
    """Sum (n_strata, n_variants) values over the strata of each collapsed stratum."""
    order = np.argsort(home, kind="stable")
    once = np.ones((1, len(home)), dtype=np.int64)
    return np.asarray(sum_strata(once, values[order], home[order], int(home.max()) + 1)[0])
