"""Many models, benchmark by benchmark: scores, ranks and differences to a reference, all from the same resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_plam.errors import DataError, did_you_mean
from lmms_plam.runs.join import Joined, join
from lmms_plam.runs.matrices import SavedComparison, by_task, find_saved, join_saved
from lmms_plam.runs.paired import Options
from lmms_plam.runs.samples import Found, TaskRun, find_runs
from lmms_plam.scoring.saved import RECORD
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.results import Standing


@dataclass(frozen=True, slots=True)
class Contestants:
    """What a folder holds that can be ranked.

    Attributes:
        runs: by task and model, the runs with logged answers.
        saved: by task, the comparisons.
        unreadable: a sentence for each run that can't be ranked: it can't be read, or logged no answers.
    """

    runs: Mapping[str, Mapping[str, TaskRun]]
    saved: Mapping[str, Sequence[SavedComparison]]
    unreadable: Sequence[str]

    @property
    def tasks(self) -> list[str]:
        """All tasks, those of runs first."""
        return list(dict.fromkeys([*self.runs, *self.saved]))

    @property
    def models(self) -> list[str]:
        """All models, and comparisons' variants as LABEL/NAME."""
        models = [model for runs in self.runs.values() for model in runs]
        variants = [f"{one.label}/{name}" for own in self.saved.values() for one in own for name in one.record.recipes]
        return list(dict.fromkeys([*models, *variants]))

    def require(self, reference: str | None, where: Path) -> None:
        """Refuse a reference that isn't there.

        Raises:
            DataError: no model has the name.
        """
        if reference is not None and reference not in self.models:
            if not self.models:
                why = f": {self.unreadable[0]}" if self.unreadable else " (runs with --log_samples, or comparisons)"
                raise DataError(f"no model '{reference}' in {where}, which holds nothing that can be ranked{why}")
            raise DataError(
                f"no model '{reference}' in {where}.{did_you_mean(reference, self.models)}"
                f" There are {', '.join(self.models)}"
            )

    def rank(self, task: str, reference: str | None, options: Options) -> list[Standing]:
        """Rank one task, by runs where there are some, else by comparisons; arguments as for `rank_task`."""
        if task in self.runs:
            return rank_task(self.runs[task], reference, options)
        return rank_saved(self.saved[task], reference, options)


def find_contestants(folder: Path) -> Contestants:
    """Find all runs and comparisons below a folder.

    Raises:
        DataError: there is neither.
    """
    saved = by_task(find_saved([folder]) if _holds(folder, RECORD) else [])
    try:
        content = find_runs(folder)
    except DataError:
        if not saved:
            raise
        content = Found([], [], [])
    tasks: dict[str, dict[str, TaskRun]] = {}
    for found_run in content.runs:
        tasks.setdefault(found_run.task, {})[found_run.label] = found_run
    return Contestants(tasks, saved, [*content.unreadable, *content.unlogged])


def rank_task(runs: Mapping[str, TaskRun], reference: str | None, options: Options) -> list[Standing]:
    """Score, rank and compare all runs of one task; `holm_p` and `bh_p` are left for `adjust_standings`.

    Args:
        runs: the runs by model.
        reference: the model that others are compared with.
        options: how runs are joined and inferred from.
    """
    first = next(iter(runs.values()))
    joined = join(runs, options.clusters.get(first.task), intersection=options.intersection)[0]
    described = {model: run.results.model for model, run in runs.items()}
    return _rank(joined, reference, options.settings, first.told.points_up, described, runs)


def rank_saved(saved: Sequence[SavedComparison], reference: str | None, options: Options) -> list[Standing]:
    """Do the same with all variants of comparisons of one task, from their matrices.

    Args:
        saved: the comparisons.
        reference: the variant that others are compared with, as LABEL/NAME.
        options: how they are joined and inferred from.
    """
    joined, _ = join_saved(saved, intersection=options.intersection, apart=True)
    described = {
        f"{one.label}/{name}": f"config {one.record.model}: {words}"
        for one in saved
        for name, words in one.record.recipes.items()
    }
    return _rank(joined, reference, options.settings, saved[0].record.points_up, described)


def _rank(
    joined: Joined,
    reference: str | None,
    settings: Settings,
    points_up: Callable[[str], bool],
    described: Mapping[str, str],
    runs: Mapping[str, TaskRun] | None = None,
) -> list[Standing]:
    measure, matrix = joined.measures()[0]
    analysis = joined.analyse(measure, matrix, settings)
    upwards = points_up(measure.key)
    downwards = () if upwards else ("lower is better",)
    checks = joined.unlike_harness(measure, analysis.units.estimate(), runs) if runs else []
    best, worst = analysis.ranks(upwards)
    there = reference is not None and reference in matrix.variants
    better = analysis.better_than(reference, upwards) if reference is not None and there else {}
    perfect = analysis.perfect(joined.benchmark.perfect_answer)
    standings = []
    for place, model in enumerate(matrix.variants):
        score = analysis.score(model)
        compared = reference is not None and there and model != reference
        standings.append(
            Standing(
                model=model,
                described=described.get(model, ""),
                task=joined.task,
                metric=measure.key,
                score=score,
                perfect=perfect,
                higher_is_better=upwards,
                best_rank=int(best[place]),
                worst_rank=int(worst[place]),
                comparison=analysis.compare(str(reference), model) if compared else None,
                holm_p=None,
                bh_p=None,
                better_p=better.get(model),
                notes=(*downwards, *joined.notes, *checks, *score.notes),
            )
        )
    return standings


def _holds(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and next(folder.rglob(pattern), None) is not None
