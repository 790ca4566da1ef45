"""Many runs, benchmark by benchmark: scores, ranks and differences to a reference, all from the same resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lmms_plam.harness.join import join
from lmms_plam.harness.paired import Options, unlike_harness
from lmms_plam.harness.samples import TaskRun
from lmms_plam.stats.comparison import Analysis, Comparison, Estimate
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.multiplicity import holm


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
    task = next(iter(runs.values())).task
    standings = []
    for joined in join(runs, options.clusters.get(task), intersection=options.intersection):
        measure, matrix = joined.measures()[0]
        analysis = Analysis.of(matrix, find_metric(measure.metric), options.settings)
        scores = {model: analysis.score(model) for model in runs}
        best, worst = analysis.ranks(next(iter(runs.values())).higher_is_better(measure.key))
        for place, (model, run) in enumerate(runs.items()):
            compared = reference in runs and model != reference
            check = unlike_harness(joined, run, measure.key, scores[model].value)
            standings.append(
                Standing(
                    model=model,
                    task=task,
                    metric=measure.key,
                    score=scores[model],
                    best_rank=int(best[place]),
                    worst_rank=int(worst[place]),
                    comparison=analysis.compare(str(reference), model) if compared else None,
                    holm_p=None,
                    notes=(*joined.notes, *scores[model].notes, *filter(None, [check])),
                )
            )
    return standings


def adjust(standings: Iterable[Standing]) -> list[Standing]:
    """Fill in Holm's adjustment over every difference to the reference."""
    standings = list(standings)
    p_values = {
        i: standing.comparison.p_value
        for i, standing in enumerate(standings)
        if standing.comparison is not None and standing.comparison.p_value is not None
    }
    for i, p_value in zip(p_values, holm(list(p_values.values())), strict=True):
        standings[i] = replace(standings[i], holm_p=float(p_value))
    return standings
