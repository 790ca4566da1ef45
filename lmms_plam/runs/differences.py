"""Paired differences of a joined task: each variant against the reference, in each of the benchmark's measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lmms_plam.runs.join import Joined
from lmms_plam.runs.samples import TaskRun
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.results import Result
from lmms_plam.stats.strata import by_stratum


def differences(
    joined: Joined,
    reference: str,
    settings: Settings,
    points_up: Callable[[str], bool],
    runs: Mapping[str, TaskRun] | None = None,
) -> list[Result]:
    """Compare every variant with the reference, the headline measure first; `holm_p` is left for `adjust_results`.

    Args:
        joined: the task.
        reference: the variant that others are compared with.
        settings: level, draws, seed.
        points_up: whether a higher value of a measure is better, by its key.
        runs: the runs that were joined, whose own numbers are checked; None where there are none.
    """
    results = []
    for place, (measure, part) in enumerate(joined.measures()):
        analysis = joined.analyse(measure, part, settings)
        upwards = points_up(measure.key)
        checks = joined.unlike_harness(measure, analysis.units.estimate(), runs) if runs else []
        others = [variant for variant in joined.matrix.variants if variant != reference]
        better = analysis.better_than(reference, upwards) if len(others) > 1 else {}
        for variant in others:
            found = analysis.compare(reference, variant)
            results.append(
                Result(
                    task=joined.task,
                    metric=measure.key,
                    headline=place == 0,
                    comparison=found,
                    perfect=analysis.perfect(joined.benchmark.perfect_answer),
                    holm_p=None,
                    notes=(*joined.notes, *found.difference.notes, *checks),
                    higher_is_better=upwards,
                    better_p=better.get(variant),
                    strata=by_stratum(analysis, reference, variant) if place == 0 else (),
                )
            )
    return results
