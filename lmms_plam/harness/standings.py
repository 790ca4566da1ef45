"""Many runs, benchmark by benchmark: scores, ranks and differences to a reference, all from the same resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lmms_plam.harness.join import join
from lmms_plam.harness.paired import Options
from lmms_plam.harness.samples import TaskRun
from lmms_plam.stats.comparison import Analysis, Comparison, Estimate
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.multiplicity import holm_family


@dataclass(frozen=True, slots=True)
class Standing:
    """One model on one benchmark's headline metric.

    Attributes:
        model: the run's label.
        task: the task's name.
        metric: the harness's name of the metric.
        score: the score and its interval.
        best_rank: the best rank the model could hold among the models with this task; 1 is best.
        worst_rank: the worst.
        comparison: paired difference to the reference; None for the reference itself or where it lacks the task.
        holm_p: the difference's p-value, adjusted over all models and benchmarks.
        notes: what a reader must know.
    """

    model: str
    task: str
    metric: str
    score: Estimate
    best_rank: int
    worst_rank: int
    comparison: Comparison | None
    holm_p: float | None
    notes: tuple[str, ...]


def rank_task(runs: Mapping[str, TaskRun], reference: str | None, options: Options) -> list[Standing]:
    """Score, rank and compare all runs of one task; `holm_p` is left for `adjust`.

    Args:
        runs: the runs by model.
        reference: the model that others are compared with.
        options: how runs are joined and inferred from.
    """
    first = next(iter(runs.values()))
    joined = join(runs, options.clusters.get(first.task), intersection=options.intersection)[0]
    measure, matrix = joined.measures()[0]
    analysis = Analysis.of(matrix, find_metric(measure.metric), options.settings)
    best, worst = analysis.ranks(first.higher_is_better(measure.key))
    standings = []
    for place, (model, run) in enumerate(runs.items()):
        score = analysis.score(model)
        standings.append(
            Standing(
                model=model,
                task=first.task,
                metric=measure.key,
                score=score,
                best_rank=int(best[place]),
                worst_rank=int(worst[place]),
                comparison=None
                if reference in (None, model) or reference not in runs
                else analysis.compare(reference, model),
                holm_p=None,
                notes=(*joined.notes, *score.notes, *joined.unlike_harness(model, run)),
            )
        )
    return standings


def adjust(standings: Iterable[Standing]) -> list[Standing]:
    """Fill in Holm's adjustment over every difference to the reference."""
    standings = list(standings)
    compared = [standing.comparison for standing in standings]
    adjusted = holm_family([None if comparison is None else comparison.p_value for comparison in compared])
    return [replace(standing, holm_p=p_value) for standing, p_value in zip(standings, adjusted, strict=True)]
