"""Resampling units: a metric's credits and weights summed by cluster, equal clusters kept once with their count.

Nothing that follows (bootstrap, jackknife, standard error, sign flips) sees documents; it sees these totals. Two
clusters of one stratum with the same totals are exchangeable, so a bootstrap may draw how often each *distinct* row
comes up, by one multinomial. The distribution is the same, and the 0/1 answers of two variants to thousands of
documents become four rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import FloatArray, IntArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric, Pooling

_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Distinct clusters and how often each occurs, sorted by stratum.

    Attributes:
        credit: (n_rows, n_variants) credits summed over the cluster's documents.
        weight: (n_rows, n_variants) weights summed alike.
        count: (n_rows,) how many clusters have these totals.
        stratum: (n_rows,) code of the stratum, 0 to n_strata - 1, ascending.
        pooling: how strata combine (see Metric).
        scale: factor on the result.
        reach: the lowest and the highest ratio of credit to weight that a document can have.
        grain: the weight of a document that counts, on average.
    """

    credit: FloatArray
    weight: FloatArray
    count: IntArray
    stratum: IntArray
    pooling: Pooling
    scale: float
    reach: tuple[float, float] = (0.0, 1.0)
    grain: float = 1.0

    @classmethod
    def of(cls, matrix: ScoreMatrix, metric: Metric) -> Units:
        """Sum a metric's credits and weights by cluster.

        Raises:
            DataError: the metric reads a column that the documents lack, or returns other than two arrays of numbers,
                (n_docs, n_variants).
        """
        try:
            credit, weight = map(np.asarray, metric.credit(matrix))
        except KeyError as error:
            raise DataError(f"the metric '{metric.name}' reads a column {error}, which these documents lack") from error
        shape = matrix.scores.shape
        if credit.shape != shape or weight.shape != shape or not np.isfinite([credit, weight]).all():
            raise DataError(f"the metric '{metric.name}' must return two arrays of {shape} finite numbers")
        names, first, cluster = np.unique(matrix.clusters, return_index=True, return_inverse=True)
        _, strata = np.unique(matrix.strata, return_inverse=True)
        columns = [*credit.T, *weight.T]
        totals = np.stack([np.bincount(cluster, weights=column) for column in columns], axis=1).astype(np.float64)
        n_variants, counted = credit.shape[1], weight > 0
        seen = credit[counted] / weight[counted]
        return cls(
            credit=totals[:, :n_variants],
            weight=totals[:, n_variants:],
            count=np.ones(len(names), dtype=np.int64),
            stratum=strata[first],
            pooling=metric.pooling,
            scale=metric.scale,
            reach=(float(seen.min(initial=0.0)), float(seen.max(initial=0.0)) if seen.any() else 1.0),
            grain=float(weight[counted].mean()) if counted.any() else 1.0,
        ).select(range(n_variants))

    def select(self, variants: Sequence[int]) -> Units:
        """Return the units of some variants, rows that are equal among these merged."""
        columns = list(variants)
        table = np.column_stack([self.stratum, self.credit[:, columns], self.weight[:, columns]])
        distinct, row = np.unique(table, axis=0, return_inverse=True)
        return replace(
            self,
            credit=np.ascontiguousarray(distinct[:, 1 : len(columns) + 1]),
            weight=np.ascontiguousarray(distinct[:, len(columns) + 1 :]),
            count=np.bincount(row.ravel(), weights=self.count).astype(np.int64),
            stratum=distinct[:, 0].astype(np.int64),
        )

    @property
    def n_clusters(self) -> int:
        """Number of clusters, equal ones counted each."""
        return int(self.count.sum())

    @property
    def stratum_sizes(self) -> IntArray:
        """(n_strata,) number of clusters in each stratum."""
        return np.bincount(self.stratum, weights=self.count).astype(np.int64)

    def resampled(self, times: IntArray) -> FloatArray:
        """Return the metric with each row taken `times` (n_draws, n_rows), as (n_draws, n_variants)."""
        n_strata = len(self.stratum_sizes)
        alike = (self.weight == self.weight[:, :1]).all()  # as in all metrics but F1 and its parts
        return self.value(
            sum_strata(times, self.credit, self.stratum, n_strata),
            sum_strata(times, self.weight[:, :1] if alike else self.weight, self.stratum, n_strata),
        )

    def totals(self) -> tuple[FloatArray, FloatArray]:
        """Return credits and weights summed by stratum, each (n_strata, n_variants)."""
        n_strata, once = len(self.stratum_sizes), self.count[None]
        return (
            sum_strata(once, self.credit, self.stratum, n_strata)[0],
            sum_strata(once, self.weight, self.stratum, n_strata)[0],
        )

    def value(self, credit: FloatArray, weight: FloatArray) -> FloatArray:
        """Return the metric of stratum totals.

        Args:
            credit: (..., n_strata, n_variants).
            weight: the same shape, or (..., n_strata, 1). Where it is 0 the ratio is 0, as the harness has it.

        Returns:
            (..., n_variants).
        """
        if self.pooling == "all":
            return self.scale * ratio(credit.sum(axis=-2), weight.sum(axis=-2))
        ratios = ratio(credit, weight)
        pooled = ratios.mean(axis=-2) if self.pooling == "mean" else ratios.sum(axis=-2)
        return np.asarray(self.scale * pooled)

    def estimate(self) -> FloatArray:
        """Return the metric on the full sample, (n_variants,)."""
        return self.value(*self.totals())

    def leave_one_out(self) -> FloatArray:
        """Return the metric without one cluster of each row, (n_rows, n_variants)."""
        credit, weight = self.totals()
        if self.pooling == "all":
            return self.scale * ratio(credit.sum(axis=0) - self.credit, weight.sum(axis=0) - self.weight)
        full = ratio(credit, weight)
        without = ratio(credit[self.stratum] - self.credit, weight[self.stratum] - self.weight)
        share = self.scale / len(full) if self.pooling == "mean" else self.scale
        return np.asarray(self.value(credit, weight) + share * (without - full[self.stratum]))

    def influence(self, contrast: FloatArray) -> FloatArray:
        """Return each cluster's first-order contribution to a contrast of variants, centred in its stratum.

        The contrast's error is about the sum of these over the sampled clusters; for a metric with fixed weights
        (accuracies, MMStar, MME) it is exactly that.

        Args:
            contrast: (n_variants,) coefficients: -1 and 1 for a paired difference, a single 1 for a score; or
                (n_variants, n_contrasts).

        Returns:
            (n_rows,) or (n_rows, n_contrasts).
        """
        credit, weight = self.totals()
        if self.pooling == "all":
            credit, weight = credit.sum(axis=0), weight.sum(axis=0)
            part = self.scale * ratio(self.credit - ratio(credit, weight) * self.weight, weight)
        else:
            share = self.scale / len(credit) if self.pooling == "mean" else self.scale
            residual = self.credit - ratio(credit, weight)[self.stratum] * self.weight
            part = share * ratio(residual, weight[self.stratum])
        of_contrast = part @ contrast
        size = self.stratum_sizes
        total = sum_strata(self.count[None], of_contrast.reshape(len(of_contrast), -1), self.stratum, len(size))[0]
        mean = (total / size[:, None])[self.stratum].reshape(of_contrast.shape)
        return np.asarray(of_contrast - mean)


def perfect_value(matrix: ScoreMatrix, metric: Metric, answer: float = 1.0) -> float:
    """Return a metric's value where every document scores `answer`, its best; 1 where that is 0.

    It puts metrics on one scale.
    """
    perfect = replace(matrix, scores=np.full_like(matrix.scores, answer))
    return float(Units.of(perfect, metric).estimate().max()) or 1.0


def sum_strata(times: IntArray, values: FloatArray, stratum: IntArray, n_strata: int) -> FloatArray:
    """Sum rows by stratum, each taken a number of times.

    Args:
        times: (n_draws, n_rows).
        values: (n_rows, n_variants).
        stratum: (n_rows,) codes below n_strata, ascending.
        n_strata: number of strata; one without rows sums to 0.

    Returns:
        (n_draws, n_strata, n_variants).
    """
    sums = np.zeros((len(times), n_strata, values.shape[1]))
    bounds = np.searchsorted(stratum, np.arange(n_strata + 1))
    for code, (start, stop) in enumerate(pairwise(bounds)):
        sums[:, code] = times[:, start:stop].astype(np.float64) @ values[start:stop]
    return sums


def chunk_sizes(draws: int, numbers_each: int) -> list[int]:
    """Split draws that need so many numbers each into chunks of at most 32 MB an array."""
    size = max(1, _CHUNK_NUMBERS // numbers_each)
    return [min(size, draws - start) for start in range(0, draws, size)]


def ratio(credit: FloatArray, weight: FloatArray) -> FloatArray:
    """Return credit over weight, 0 where the weight is, as the harness has it."""
    credit, weight = np.broadcast_arrays(credit, weight)
    return np.divide(credit, weight, out=np.zeros(weight.shape), where=weight > 0)
