"""What inference says of one metric of one task: a paired difference, or one model's standing among several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lmms_plam.stats.comparison import Comparison, Estimate
from lmms_plam.stats.multiplicity import adjust_known, benjamini_hochberg, holm
from lmms_plam.stats.strata import StratumResult


@dataclass(frozen=True, slots=True)
class Result:
    """One metric of one task, of one variant against another.

    Attributes:
        task: the task's name.
        metric: the harness's name of the metric.
        headline: whether it is the task's first metric; these form the family that Holm's adjustment counts.
        comparison: the paired difference and its tests.
        perfect: the metric's value where every document scores its best, to put metrics on one scale.
        holm_p: the p-value adjusted for the family; None outside of it.
        notes: what a reader must know.
        higher_is_better: whether a higher value of the metric is.
        better_p: that the variant is better, adjusted for looking at several (max-T); None where there is only one.
        strata: of the headline, the difference in each of the benchmark's strata, exploratory.
    """

    task: str
    metric: str
    headline: bool
    comparison: Comparison
    perfect: float
    holm_p: float | None
    notes: tuple[str, ...]
    higher_is_better: bool = True
    better_p: float | None = None
    strata: tuple[StratumResult, ...] = ()


def adjust_results(results: Iterable[Result]) -> list[Result]:
    """Fill in Holm's adjustment over the headline metrics that have a p-value."""
    results = list(results)
    adjusted = adjust_known(holm, [result.comparison.p_value if result.headline else None for result in results])
    return [replace(result, holm_p=p_value) for result, p_value in zip(results, adjusted, strict=True)]


@dataclass(frozen=True, slots=True)
class Standing:
    """One model on one benchmark's headline metric.

    Attributes:
        model: the run's label.
        described: what it is, in words; empty if nobody said so.
        task: the task's name.
        metric: the harness's name of the metric.
        score: the score and its interval.
        perfect: the score if every document scored its best.
        higher_is_better: whether a higher score is.
        best_rank: the best rank the model could hold among the models with this task; 1 is best.
        worst_rank: the worst.
        comparison: paired difference to the reference; None for the reference itself or where it lacks the task.
        holm_p: the difference's p-value, adjusted over all models and benchmarks.
        bh_p: the same by Benjamini and Hochberg, for sweeps: the share of false finds that goes with it.
        better_p: that the model is better than the reference here, adjusted for looking at all models (max-T).
        notes: what a reader must know.
    """

    model: str
    described: str
    task: str
    metric: str
    score: Estimate
    perfect: float
    higher_is_better: bool
    best_rank: int
    worst_rank: int
    comparison: Comparison | None
    holm_p: float | None
    bh_p: float | None
    better_p: float | None
    notes: tuple[str, ...]


def adjust_standings(standings: Iterable[Standing]) -> list[Standing]:
    """Fill in both adjustments over every difference to the reference."""
    standings = list(standings)
    p_values = [standing.comparison.p_value if standing.comparison else None for standing in standings]
    adjusted = zip(adjust_known(holm, p_values), adjust_known(benjamini_hochberg, p_values), strict=True)
    return [replace(each, holm_p=one, bh_p=other) for each, (one, other) in zip(standings, adjusted, strict=True)]
