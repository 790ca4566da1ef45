"""Many runs, benchmark by benchmark: scores, ranks and differences to a reference, all from the same resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lmms_plam.harness.join import join
from lmms_plam.harness.paired import Options
from lmms_plam.harness.samples import TaskRun
from lmms_plam.stats.comparison import Comparison, Estimate
from lmms_plam.stats.multiplicity import adjust_known, benjamini_hochberg, holm


@dataclass(frozen=True, slots=True)
class Standing:
    """One model on one benchmark's headline metric.

    Attributes:
        model: the run's label.
        task: the task's name.
        metric: the harness's name of the metric.
        score: the score and its interval.
        perfect: the score if every document scored 1.
        best_rank: the best rank the model could hold among the models with this task; 1 is best.
        worst_rank: the worst.
        comparison: paired difference to the reference; None for the reference itself or where it lacks the task.
        holm_p: the difference's p-value, adjusted over all models and benchmarks.
        bh_p: the same by Benjamini and Hochberg, for sweeps: the share of false finds that goes with it.
        better_p: that the model is better than the reference here, adjusted for looking at all models (max-T).
        notes: what a reader must know.
    """

    model: str
    task: str
    metric: str
    score: Estimate
    perfect: float
    best_rank: int
    worst_rank: int
    comparison: Comparison | None
    holm_p: float | None
    bh_p: float | None
    better_p: float | None
    notes: tuple[str, ...]


def rank_task(runs: Mapping[str, TaskRun], reference: str | None, options: Options) -> list[Standing]:
    """Score, rank and compare all runs of one task; `holm_p` and `bh_p` are left for `adjust`.

    Args:
        runs: the runs by model.
        reference: the model that others are compared with.
        options: how runs are joined and inferred from.
    """
    first = next(iter(runs.values()))
    joined = join(runs, options.clusters.get(first.task), intersection=options.intersection)[0]
    measure, matrix = joined.measures()[0]
    analysis = joined.analyse(measure, matrix, options.settings)
    upwards = first.higher_is_better(measure.key)
    downwards = () if upwards else ("lower is better",)
    notes = (*downwards, *joined.notes, *joined.unlike_harness(measure, analysis.units.estimate(), runs))
    best, worst = analysis.ranks(upwards)
    better = analysis.better_than(reference, upwards) if reference is not None and reference in runs else {}
    perfect = analysis.perfect()
    standings = []
    for place, model in enumerate(runs):
        score = analysis.score(model)
        standings.append(
            Standing(
                model=model,
                task=first.task,
                metric=measure.key,
                score=score,
                perfect=perfect,
                best_rank=int(best[place]),
                worst_rank=int(worst[place]),
                comparison=None
                if reference in (None, model) or reference not in runs
                else analysis.compare(reference, model),
                holm_p=None,
                bh_p=None,
                better_p=better.get(model),
                notes=(*notes, *score.notes),
            )
        )
    return standings


def adjust(standings: Iterable[Standing]) -> list[Standing]:
    """Fill in both adjustments over every difference to the reference."""
    standings = list(standings)
    p_values = [standing.comparison.p_value if standing.comparison else None for standing in standings]
    adjusted = zip(adjust_known(holm, p_values), adjust_known(benjamini_hochberg, p_values), strict=True)
    return [replace(each, holm_p=one, bh_p=other) for each, (one, other) in zip(standings, adjusted, strict=True)]
