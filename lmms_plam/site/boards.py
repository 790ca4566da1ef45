"""The leaderboards of a folder: one of plain runs, foreign ones included, and one of comparisons' variants.

What a study exported and had served is no further model, and stands on neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lmms_plam.errors import DataError, PlamError
from lmms_plam.files import digest
from lmms_plam.probes.record import MATRIX
from lmms_plam.report import leaderboard
from lmms_plam.report.tables import Table
from lmms_plam.runs.matrices import SavedComparison, by_task
from lmms_plam.runs.paired import Options
from lmms_plam.runs.samples import Found, TaskRun, find_runs
from lmms_plam.runs.standings import Contestants
from lmms_plam.scoring.saved import RECORD
from lmms_plam.site.found import Study
from lmms_plam.site.words import Ranked
from lmms_plam.stats.results import Standing, adjust_standings

Progress = Callable[[Sequence[str], str], Iterable[str]]
"""Yields what it is given and says how far one has come, as a progress bar does."""


@dataclass(frozen=True, slots=True)
class Board:
    """One leaderboard.

    Attributes:
        name: of its files.
        title: of its part of the page.
        standings: each model's on each benchmark.
        table: the same, for people.
    """

    name: str
    title: str
    standings: Sequence[Standing]
    table: Table

    def ranked(self) -> tuple[list[Ranked], int]:
        """Return the models with a mean, and over how many benchmarks that is taken."""
        means: dict[str, float] = {}
        best: dict[str, list[int]] = {}
        for record in leaderboard.records(self.standings):
            if record["mean"] is not None:
                means[record["model"]] = record["mean"]
                best.setdefault(record["model"], []).append(record["best_rank"])
        ranked = [Ranked(model, mean, tuple(best[model])) for model, mean in means.items()]
        return ranked, len({one.task for one in self.standings})


def find_boards(
    study: Study, reference: str | None, options: Options, progress: Progress
) -> tuple[list[Board], list[str]]:
    """Rank what a folder holds.

    Args:
        study: what was found.
        reference: also show paired differences to this model.
        options: how runs are joined and inferred from.
        progress: says how far it has come.

    Returns:
        The leaderboards, none where there is nothing to rank, and a sentence for each run and benchmark that can't be.

    Raises:
        DataError: the reference isn't there.
    """
    contestants = _contestants(study)
    contestants.require(reference, study.folder)
    kinds = (
        ("leaderboard", "Leaderboard of runs", list(contestants.runs)),
        (
            "leaderboard_recipes",
            "Leaderboard of recipes",
            [task for task in contestants.saved if task not in contestants.runs],
        ),
    )
    boards, unranked = [], []
    for name, title, tasks in kinds:
        standings: list[Standing] = []
        left_out = list(contestants.unreadable) if name == "leaderboard" else []
        for task in progress(tasks, "ranking") if tasks else ():
            try:
                standings += contestants.rank(task, reference, options)
            except (PlamError, OSError) as error:
                left_out.append(f"{task} is left out: {str(error).removeprefix(f'{task}: ')}")
        unranked += [line for line in left_out if f"left out: {line}" not in study.left_out]  # said there
        if standings:
            standings = adjust_standings(standings)
            shown = reference if any(one.comparison is not None for one in standings) else None
            boards.append(Board(name, title, standings, leaderboard.table(standings, shown, left_out)))
    return boards, unranked


def _contestants(study: Study) -> Contestants:
    try:
        content = find_runs(study.folder, [*study.earlier, *(run.folder for run in study.runs if run.is_served)])
    except DataError as error:
        plain = any(run.results.tasks for run in study.runs if not run.is_served)
        content = Found([], [f"no leaderboard of runs: {error}"] if plain else [], [])
    runs: dict[str, dict[str, TaskRun]] = {}
    for run in content.runs:
        runs.setdefault(run.task, {})[run.label] = run
    saved = [
        SavedComparison(one.place.folder, one.place.model, one.record.saved)
        for one in study.comparisons
        if one.record.saved is not None and (one.place.folder / MATRIX).is_file()
    ]
    unreadable = [
        f"{one.folder / RECORD} is about another matrix than the {MATRIX} beside it"
        for one in saved
        if digest(one.folder / MATRIX) != one.record.data
    ]
    whole = [one for one in saved if digest(one.folder / MATRIX) == one.record.data]
    twice = Counter((one.label, one.record.task) for one in whole)
    named = [
        replace(one, label=f"{one.label} ({one.folder.parent.relative_to(study.folder)})")
        if twice[one.label, one.record.task] > 1
        else one
        for one in whole
    ]
    return Contestants(runs, by_task(named), [*content.unreadable, *content.unlogged, *unreadable])
