"""Scores and paired differences of variants on one benchmark, each with its interval, p-value and provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lmms_plam.stats.bootstrap import bootstrap, interval
from lmms_plam.stats.collapse import collapsed_strata
from lmms_plam.stats.matrix import FloatArray, IntArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.pseudo import widened_error
from lmms_plam.stats.ranks import rank_intervals
from lmms_plam.stats.significance import Alternative, max_t, mcnemar, sign_flip
from lmms_plam.stats.spread import minimum_detectable_effect, spread
from lmms_plam.stats.units import Units, perfect_value

FEW_CLUSTERS = 20
"""Below this many clusters an interval is called rough."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an inference is made.

    Attributes:
        level: confidence level of the intervals, in (0, 1).
        draws: bootstrap resamples, and random flips of the permutation test.
        seed: start of both random streams.
    """

    level: float = 0.95
    draws: int = 10_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score or a paired difference, with everything needed to repeat and to judge it.

    Attributes:
        estimand: what is estimated, in words.
        value: the estimate on the full sample, in the benchmark's own unit.
        ci_low: lower end of the interval; None where none exists (a single cluster).
        ci_high: upper end.
        standard_error: closed form, cluster-robust; None without an interval.
        n: documents.
        clusters: resampling units.
        strata: the benchmark's parts; those of a single cluster are resampled together.
        method: how the interval was made.
        level: its confidence level.
        draws: resamples.
        seed: start of the random stream.
        notes: what a reader must know before believing the numbers.
    """

    estimand: str
    value: float
    ci_low: float | None
    ci_high: float | None
    standard_error: float | None
    n: int
    clusters: int
    strata: int
    method: str
    level: float
    draws: int
    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference, variant minus reference, and its tests.

    Attributes:
        reference: name of the variant that is compared with.
        variant: name of the variant that is compared.
        a: score of the reference.
        b: score of the variant.
        difference: b - a, with its interval.
        p_value: two-sided sign-flip mid-p; None with one cluster.
        mcnemar_p: McNemar's mid-p where every cluster is plainly right or wrong, else None.
        detectable: the true difference that such a sample finds with power 0.8; None where nothing varies.
    """

    reference: str
    variant: str
    a: float
    b: float
    difference: Estimate
    p_value: float | None
    mcnemar_p: float | None
    detectable: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """One metric of one matrix, resampled once for all variants, so that every difference is paired.

    Attributes:
        matrix: the scores.
        metric: the estimand.
        settings: level, draws, seed.
        units: the metric's totals by cluster.
        drawn: (draws, n_variants) the metric on resamples.
    """

    matrix: ScoreMatrix
    metric: Metric
    settings: Settings
    units: Units
    drawn: FloatArray

    @classmethod
    def of(cls, matrix: ScoreMatrix, metric: Metric, settings: Settings | None = None) -> Analysis:
        """Sum by cluster and resample.

        Raises:
            DataError: the metric can't be had of these documents.
        """
        settings = settings or Settings()
        units = Units.of(matrix, metric)
        drawn = bootstrap(units, settings.draws, np.random.default_rng([settings.seed, 0]))
        return cls(matrix, metric, settings, units, drawn)

    def of_same(self, matrix: ScoreMatrix) -> Analysis:
        """Return the same metric's analysis, made the same way, of another matrix, such as one of the strata.

        What a document can score is known from this one, should all documents of the other score alike.

        Raises:
            DataError: the metric can't be had of these documents.
        """
        found = Analysis.of(matrix, self.metric, self.settings)
        return replace(found, units=replace(found.units, reach=self.units.reach, grain=self.units.grain))

    def score(self, variant: str) -> Estimate:
        """Return a variant's score.

        Raises:
            DataError: there is no such variant.
        """
        contrast = np.zeros(len(self.matrix.variants))
        contrast[self.matrix.column(variant)] = 1.0
        return self._estimate(contrast)

    def compare(self, reference: str, variant: str) -> Comparison:
        """Return the paired difference, variant minus reference.

        Raises:
            DataError: there is no such variant, or only one.
        """
        self.matrix.require_variants()
        a, b = self.matrix.column(reference), self.matrix.column(variant)
        contrast = np.zeros(len(self.matrix.variants))
        contrast[[a, b]] = -1.0, 1.0
        difference = self._estimate(contrast)
        scores = self.units.estimate()
        testable = self.units.n_clusters > 1
        error = difference.standard_error
        rng = np.random.default_rng([self.settings.seed, 1])
        return Comparison(
            reference=reference,
            variant=variant,
            a=float(scores[a]),
            b=float(scores[b]),
            difference=difference,
            p_value=sign_flip(self.units, a, b, self.settings.draws, rng) if testable else None,
            mcnemar_p=mcnemar(self.units, a, b) if testable else None,
            detectable=minimum_detectable_effect(error, self.settings.level) if error else None,
        )

    def better_than(self, reference: str, higher_is_better: bool = True) -> dict[str, float]:
        """Return, for each other variant, the p-value that it is better, adjusted for looking at all (max-T).

        The smallest answers "is any variant better than the reference?". Empty with one cluster.
        """
        if self.units.n_clusters == 1:
            return {}
        place, rng = self.matrix.column(reference), np.random.default_rng([self.settings.seed, 1])
        alternative: Alternative = "greater" if higher_is_better else "less"
        adjusted = max_t(self.units, place, self.settings.draws, rng, alternative)
        named = zip(self.matrix.variants, map(float, adjusted), strict=True)
        return {name: p_value for name, p_value in named if name != reference}

    def ranks(self, higher_is_better: bool = True) -> tuple[IntArray, IntArray]:
        """Return the best and the worst rank that each variant could hold, each (n_variants,)."""
        n_variants = len(self.matrix.variants)
        if self.units.n_clusters == 1:
            return np.ones(n_variants, dtype=np.int64), np.full(n_variants, n_variants, dtype=np.int64)
        sign = 1.0 if higher_is_better else -1.0
        errors = np.zeros((n_variants, n_variants))
        for one, other in combinations(range(n_variants), 2):
            contrast = np.zeros(n_variants)
            contrast[[one, other]] = -1.0, 1.0
            found = spread(self.units, contrast)
            errors[one, other] = errors[other, one] = widened_error(self.units, contrast, found)
        return rank_intervals(sign * self.drawn, sign * self.units.estimate(), self.settings.level, errors)

    def perfect(self, answer: float = 1.0) -> float:
        """Return `perfect_value` of these documents."""
        return perfect_value(self.matrix, self.metric, answer)

    def _estimate(self, contrast: FloatArray) -> Estimate:
        """Estimate a contrast of the variants: a score (one 1) or a difference (-1 and 1)."""
        units, settings = self.units, self.settings
        value = float(units.estimate() @ contrast)
        found = interval(self.drawn @ contrast, units, contrast, settings.level)
        error = spread(units, contrast).error
        return Estimate(
            estimand=self.metric.estimand if contrast.sum() else f"paired difference of the {self.metric.estimand}",
            value=value,
            ci_low=found.low if units.n_clusters > 1 else None,
            ci_high=found.high if units.n_clusters > 1 else None,
            standard_error=error if units.n_clusters > 1 else None,
            n=len(self.matrix.doc_ids),
            clusters=units.n_clusters,
            strata=len(units.stratum_sizes),
            method=found.method if units.n_clusters > 1 else "none",
            level=settings.level,
            draws=settings.draws,
            seed=settings.seed,
            notes=tuple(self._notes(value, error)),
        )

    def _notes(self, value: float, error: float) -> list[str]:
        clusters, size = self.units.n_clusters, self.units.stratum_sizes
        if not self.units.weight.any():
            return ["no document counts in this metric, which is 0 then, as the harness has it"]
        if clusters == 1:
            return ["one cluster: neither an interval nor a p-value exists"]
        notes = []
        if clusters < FEW_CLUSTERS:
            notes.append(f"only {clusters} clusters: the interval is rough")
        single = int((size == 1).sum())
        if single:
            joined = int(np.bincount(collapsed_strata(size)).max())
            which = "they" if joined == single else f"{joined}, its neighbour among them,"
            notes.append(
                f"{single} of {len(size)} strata have a single cluster: {which} are collapsed for the interval,"
                " which takes it that their clusters vary alike"
            )
        if error == 0:
            what = "no cluster differs" if value == 0 else "every cluster says the same"
            unseen = 1 - (1 - self.settings.level) ** (1 / clusters)
            notes.append(
                f"{what}: the interval allows for one document more that changes, either way"
                f" (up to {unseen:.1%} unlike clusters may go unseen)"
            )
        return notes
