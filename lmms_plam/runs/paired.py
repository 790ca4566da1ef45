"""Two runs, task by task: paired differences of each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from loguru import logger

from lmms_plam.errors import DataError
from lmms_plam.runs.differences import differences
from lmms_plam.runs.join import Clusters, join
from lmms_plam.runs.samples import TaskRun, find_runs
from lmms_plam.scoring.audits import TaskAudit, audit_task
from lmms_plam.scoring.changes import Changes
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.results import Result


@dataclass(frozen=True, slots=True)
class Options:
    """How runs are joined and inferred from.

    Attributes:
        settings: level, draws, seed.
        clusters: by task, what depends on each other, where the user knows better than the logged samples.
        intersection: compare documents that all runs were asked alike, instead of refusing different ones.
    """

    settings: Settings = field(default_factory=Settings)
    clusters: Mapping[str, Clusters] = field(default_factory=dict)
    intersection: bool = False


def runs_by_task(place: Path, label: str) -> dict[str, TaskRun]:
    """Return the one run of each task in a folder or results file, under a label.

    Raises:
        DataError: nothing to read, something that can't be read, or two models' runs of one task.
    """
    found: dict[str, TaskRun] = {}
    content = find_runs(place)
    if content.unreadable:
        raise DataError(content.unreadable[0])
    for line in content.unlogged:
        logger.warning(line)
    for run in content.runs:
        if run.task in found:
            raise DataError(
                f"{place} holds {run.task} twice, of '{found[run.task].label}' and '{run.label}': name the folder or"
                f" the results file of one of them, such as {run.results_file}"
            )
        found[run.task] = run
    return {task: replace(run, label=label) for task, run in found.items()}


def compare_task(a: TaskRun, b: TaskRun, options: Options) -> tuple[list[Result], Changes, list[TaskAudit]]:
    """Compare two runs of one task, b minus a.

    Returns:
        The difference of each metric, where `holm_p` is left for `adjust_results`; the documents whose score in the
        first metric changes; and the format audit.
    """
    runs = {a.label: a, b.label: b}
    found_in = join(runs, options.clusters.get(a.task), intersection=options.intersection)
    results = [
        replace(result, headline=result.headline and place == 0)
        for place, joined in enumerate(found_in)
        for result in differences(joined, a.label, options.settings, a.told.points_up, runs)
    ]
    first = found_in[0]
    audits = audit_task(a.task, first.benchmark, first.matrix, a.label, options.settings, first.about_formats)
    return results, Changes.of(a.task, first.matrix, a.label, first.examples), audits
