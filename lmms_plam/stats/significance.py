"""P-values for paired answers: sign flips (one rule for every metric), max-T over variants, McNemar for plain 0/1.

If a merge changes nothing, which of a cluster's two sets of answers is called the base's is a coin toss. Flipping the
labels of whole clusters therefore gives the metric's difference under that null hypothesis, without any formula for
the metric. P-values are two-sided and mid-p (ties count half): with the few documents on which two similar models
disagree, the classical p-value rejects 3% of true nulls at the 5% level, the mid-p 4.6%, and on plain 0/1 answers it
is McNemar's mid-p (Fagerland, Lydersen and Laake 2013).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.stats import binom

from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.units import Units, chunk_sizes, sum_strata

Alternative = Literal["two-sided", "greater", "less"]


def sign_flip(units: Units, reference: int, variant: int, flips: int, rng: np.random.Generator) -> float:
    """Return the mid-p value of a difference between two variants.

    All label assignments are enumerated where there are at most `flips` of them, else that many are drawn.

    Args:
        units: the sample.
        reference: column of the one variant.
        variant: column of the other.
        flips: number of random label assignments.
        rng: source of randomness.
    """
    pair = units.select([reference, variant])
    flipped, exact = _flipped_differences(pair, np.array([0]), np.array([1]), flips, rng)
    return float(_mid_p(np.abs(np.diff(pair.estimate())), np.abs(flipped), exact)[0])


def max_t(
    units: Units,
    reference: int | IntArray,
    flips: int,
    rng: np.random.Generator,
    alternative: Alternative = "two-sided",
) -> FloatArray:
    """Return p-values, adjusted for looking at every variant, that a variant differs from its reference.

    The single-step max-T of Westfall and Young (1993): each variant's difference, in units of its standard deviation
    under flips, against the largest of all variants under the same flips. The smallest answers "is any variant
    better?" or, two-sided, "is any variant different?".

    Args:
        units: the sample.
        reference: column of the variant that the others are compared with; or (n_variants,) such a column for each
            variant, its own for those that aren't compared.
        flips: number of random label assignments, shared by all variants.
        rng: source of randomness.
        alternative: `greater` and `less` ask for variants that score more or less than the reference.

    Returns:
        (n_variants,), 1 for what isn't compared.
    """
    columns = np.arange(units.credit.shape[1])
    others = np.flatnonzero(columns != reference)
    references = np.broadcast_to(reference, columns.shape)[others]
    estimate = units.estimate()
    flipped, exact = _flipped_differences(units, references, others, flips, rng)
    spread = np.sqrt(np.mean(flipped**2, axis=0))
    spread[spread == 0] = 1.0
    counted = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
    largest = counted(flipped / spread).max(axis=1)
    adjusted = np.ones(len(estimate))
    adjusted[others] = _mid_p(counted((estimate[others] - estimate[references]) / spread), largest[:, None], exact)
    return adjusted


def mcnemar(units: Units, reference: int, variant: int) -> float | None:
    """Return McNemar's mid-p value, or None where a cluster is more than one answer, right or wrong."""
    credit, weight = units.credit[:, [reference, variant]], units.weight[:, [reference, variant]]
    if units.pooling != "all" or not ((weight == 1).all() and np.isin(credit, (0, 1)).all()):
        return None
    gained = int(units.count @ (credit[:, 1] > credit[:, 0]))
    lost = int(units.count @ (credit[:, 1] < credit[:, 0]))
    if gained == lost:
        return 1.0
    fewer, both = min(gained, lost), gained + lost
    return float(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5))


def _flipped_differences(
    units: Units, references: IntArray, others: IntArray, flips: int, rng: np.random.Generator
) -> tuple[FloatArray, bool]:
    """Return (n_flips, len(others)) differences to the references under flipped labels, and if all flips are there."""
    credit_gap = units.credit[:, others] - units.credit[:, references]
    weight_gap = units.weight[:, others] - units.weight[:, references]
    rows = np.flatnonzero(credit_gap.any(axis=1) | weight_gap.any(axis=1))
    count = units.count[rows]
    exact = int(count.sum()) <= math.log2(flips)
    credit, weight = units.totals()

    def differences(times: IntArray) -> FloatArray:
        """Give `times` (n_flips, n_rows) of each row's clusters the other label."""
        moved_credit, moved_weight = (
            sum_strata(times, gap[rows], units.stratum[rows], len(credit)) if gap.any() else np.zeros((1, 1, 1))
            for gap in (credit_gap, weight_gap)
        )
        theirs = units.value(credit[:, others] - moved_credit, weight[:, others] - moved_weight)
        ours = units.value(credit[:, references] + moved_credit, weight[:, references] + moved_weight)
        return theirs - ours

    if exact:
        labels = (np.arange(2 ** count.sum())[:, None] >> np.arange(count.sum())) & 1
        return differences(labels @ np.repeat(np.eye(len(rows), dtype=np.int64), count, axis=0)), True
    chunks = chunk_sizes(flips, max(len(rows), len(credit) * len(others)))
    return np.concatenate([differences(rng.binomial(count, 0.5, size=(n, len(rows)))) for n in chunks]), False


def _mid_p(observed: FloatArray, null: FloatArray, exact: bool) -> FloatArray:
    """Return the share of the null distribution beyond the observed value, ties counted half.

    Args:
        observed: (n,) differences, or their sizes.
        null: (n_flips, n) or (n_flips, 1) the same under flips.
        exact: whether every flip is there; else the observed one is added to those drawn.
    """
    tolerance = 1e-9 * np.maximum(1e-3, observed)
    beyond = (null > observed + tolerance).sum(axis=0)
    tied = (np.abs(null - observed) <= tolerance).sum(axis=0)
    added = 0 if exact else 1
    return np.where(observed <= tolerance, 1.0, (beyond + (tied + added) / 2) / (len(null) + added))
