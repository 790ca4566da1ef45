"""Many runs, benchmark by benchmark: scores, ranks and differences to a reference, all from the same resamples."""

from __future__ import annotations

from collections.abc import Mapping

from lmms_plam.runs.join import join
from lmms_plam.runs.paired import Options
from lmms_plam.runs.samples import TaskRun
from lmms_plam.stats.results import Standing


def rank_task(runs: Mapping[str, TaskRun], reference: str | None, options: Options) -> list[Standing]:
    """Score, rank and compare all runs of one task; `holm_p` and `bh_p` are left for `adjust_standings`.

    Args:
        runs: the runs by model.
        reference: the model that others are compared with.
        options: how runs are joined and inferred from.
    """
    first = next(iter(runs.values()))
    joined = join(runs, options.clusters.get(first.task), intersection=options.intersection)[0]
    measure, matrix = joined.measures()[0]
    analysis = joined.analyse(measure, matrix, options.settings)
    upwards = first.told.points_up(measure.key)
    downwards = () if upwards else ("lower is better",)
    notes = (*downwards, *joined.notes, *joined.unlike_harness(measure, analysis.units.estimate(), runs))
    best, worst = analysis.ranks(upwards)
    better = analysis.better_than(reference, upwards) if reference is not None and reference in runs else {}
    perfect = analysis.perfect(joined.benchmark.perfect_answer)
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
