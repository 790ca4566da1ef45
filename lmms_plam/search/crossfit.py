"""The gain on documents that the choice did not see: repeated cross-fitting over clusters, within strata.

The clusters of each stratum are dealt into K folds. For each fold a recipe is chosen on the others; the fold's
documents get that recipe's scores. The column so stitched together is scored with the benchmark's own metric as if it
were one model, F1 and MME's total included. Its difference to the base, averaged over repeated dealings, is an estimate
for which no document was used twice: it estimates the expected gain of a recipe that is chosen on (K - 1) / K as many
documents. Where nothing helps its mean is 0, and its median lies a little lower, since it is skewed to the right (26
recipes, 300 documents, 2,000 searches of `benchmarks/search_honesty.py`: mean -.01 points with a Monte Carlo error of
.04, median -.07 with .05, skewness .2): a chance winner of nearly all folds is rare and gains much. Against the gain of
the recipe picked on all documents it is too low by what those further documents improve the choice.

The folds' choices depend on each other's documents, so that the standard error of the stitched column is too small
(by 8 to 30% in `benchmarks/search_honesty.py`: most where recipes are alike and the choice is a toss). The error here
is that of halves: the sample is cut in two, each half is cross-fitted by itself, and the halves, which have no document
in common, differ by chance alone. Half of the mean squared difference over many such cuts is the variance of the whole
procedure, choice included, on half as many documents; it shrinks with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.units import Units, chunk_sizes

Rule = Callable[[FloatArray], IntArray]
"""Chooses: (n, n_columns) values on n sets of documents to (n,) columns."""

FEWEST_CLUSTERS = 20
"""Below this many, halves are too small for folds, and there is no standard error."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a sample is cut: `folds` K, `repeats` of the dealing, and `halvings` for the standard error."""

    folds: int = 5
    repeats: int = 10
    halvings: int = 100


@dataclass(frozen=True, slots=True)
class Unseen:
    """A gain on documents that the choice did not see.

    Attributes:
        gain: mean over the repeats.
        standard_error: of the whole procedure, choice included; None below 20 clusters.
        ci_low: lower end of the normal interval; None without a standard error.
        ci_high: upper end.
    """

    gain: float
    standard_error: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """Several rules, cross-fitted on the same folds.

    Attributes:
        values: by rule, (repeats,) the metric of its stitched column.
        halves: by rule, (halvings, 2) the same on both halves, averaged over the repeats; empty below 20 clusters.
        picks: by rule, (repeats, folds) the columns it chose.
        level: of the intervals.
    """

    values: Mapping[str, FloatArray]
    halves: Mapping[str, FloatArray]
    picks: Mapping[str, IntArray]
    level: float

    def gain(self, rule: str, over: str) -> Unseen:
        """Return how much better a rule's choices score than another's, on documents that neither saw."""
        return self._unseen(self.values[rule] - self.values[over], self.halves[rule] - self.halves[over])

    def score(self, rule: str) -> Unseen:
        """Return what a rule's choices score on documents that it did not see, in the place of a gain."""
        return self._unseen(self.values[rule], self.halves[rule])

    def _unseen(self, values: FloatArray, halves: FloatArray) -> Unseen:
        mean = float(values.mean())
        if not len(halves):
            return Unseen(mean, None, None, None)
        error = float(np.sqrt(np.mean(np.diff(halves, axis=1) ** 2) / 4))
        reach = float(ndtri((1 + self.level) / 2)) * error
        return Unseen(mean, error, mean - reach, mean + reach)


def cross_fit(
    units: Units, rules: Mapping[str, Rule], plan: Plan, rng: np.random.Generator, level: float = 0.95
) -> CrossFit:
    """Cross-fit rules on the same folds.

    Args:
        units: the sample; at least two clusters.
        rules: by name, how to choose a column from the columns' values.
        plan: folds (fewer where there are fewer clusters), repeats and halvings.
        rng: source of randomness.
        level: of the intervals.
    """
    values, picks = _stitched(units, rules, plan, rng)
    halves: dict[str, list[list[float]]] = {name: [] for name in rules}
    for _ in range(plan.halvings if units.n_clusters >= FEWEST_CLUSTERS else 0):
        pair = [_stitched(replace(units, count=half), rules, plan, rng)[0] for half in _deal(units, 2, 1, rng)[0]]
        for name, found in halves.items():
            found.append([float(half[name].mean()) for half in pair])
    return CrossFit(values, {name: np.array(found) for name, found in halves.items()}, picks, level)


def always(column: int) -> Rule:
    """Return the rule that chooses the same column whatever the documents say."""
    return lambda values: np.full(len(values), column, dtype=np.int64)


def _stitched(
    units: Units, rules: Mapping[str, Rule], plan: Plan, rng: np.random.Generator
) -> tuple[dict[str, FloatArray], dict[str, IntArray]]:
    """Return, by rule, the stitched column's value of each repeat, (repeats,), and its choices, (repeats, folds)."""
    folds = _deal(units, min(plan.folds, units.n_clusters), plan.repeats, rng)
    repeats, n_folds, n_rows = folds.shape
    others = (units.count - folds).reshape(-1, n_rows)
    n_strata = len(units.stratum_sizes)
    chunks = np.cumsum(chunk_sizes(len(others), max(n_rows, n_strata * units.credit.shape[1])))[:-1]
    training = np.concatenate([units.resampled(part) for part in np.split(others, chunks)])
    picks = {name: rule(training).reshape(repeats, n_folds) for name, rule in rules.items()}
    starts = np.searchsorted(units.stratum, np.arange(n_strata))
    held_out = {}
    for name, picked in picks.items():
        totals = [
            np.add.reduceat(folds.reshape(-1, n_rows).T * part[:, picked.ravel()], starts, axis=0)
            .reshape(n_strata, repeats, n_folds)
            .sum(axis=2)
            for part in (units.credit, units.weight)
        ]
        held_out[name] = units.value(*(total.T[..., None] for total in totals))[:, 0]
    return held_out, picks


def _deal(units: Units, parts: int, repeats: int, rng: np.random.Generator) -> IntArray:
    """Deal each stratum's clusters into parts of equal size, at random; the parts' sizes in all differ by 1 at most.

    Returns:
        (repeats, parts, n_rows) how many of a row's clusters each part got.
    """
    n_rows = len(units.count)
    row = np.repeat(np.arange(n_rows), units.count)
    shuffled = row[np.argsort(units.stratum[row] + rng.random((repeats, len(row))), axis=1)]
    part = (np.arange(len(row)) + rng.integers(parts, size=(repeats, 1))) % parts
    cell = (np.arange(repeats)[:, None] * parts + part) * n_rows + shuffled
    return np.bincount(cell.ravel(), minlength=repeats * parts * n_rows).reshape(repeats, parts, n_rows)
