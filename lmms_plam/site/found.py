"""What a folder of runs holds: every record below it, by model and benchmark, and a sentence for each unreadable file.

A study's folder and one that was filled by hand are read alike.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from lmms_plam.attention.origin import NUMBERS
from lmms_plam.attention.record import RECORD as ATTENTION
from lmms_plam.errors import DataError
from lmms_plam.probes.record import CURVE, MATRIX, PLATEAU
from lmms_plam.report.measured import COMPARISON
from lmms_plam.report.visibility import RECORD as VISIBILITY
from lmms_plam.runs.results import ResultsFile, read_results
from lmms_plam.scoring.saved import RECORD, ComparisonRecord
from lmms_plam.search.result import SEARCH
from lmms_plam.site.plan import (
    CELLS,
    PLAN,
    Manifest,
    Plan,
    PlannedCell,
    earlier_cells,
    missing_cells,
    read_manifest,
    read_plan,
)
from lmms_plam.site.records import Answered, Attention, Audited, Difference, Found, Hidden, Plateau, Point, read

_T = TypeVar("_T")
_RESULTS, _AUDIT = "_results.json", "audit.json"
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "limit": (-1, -1.0),
    "offset": (0,),
    "num_fewshot": (0,),
    "batch_size": (1, "1"),
    "gen_kwargs": ("",),
    "include_path": ("",),
    "log_samples": (False,),
}
"""Of lmms-eval's options those that decide what is asked and answered, with values that say nothing."""

_SOURCE = ("dataset_path", "dataset_name", "dataset_kwargs", "test_split")
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)_")  # begins the name of a file of lmms-eval's
_FAMILY = re.compile(r"^plam_(probe|compare|search|attention|early|window|headroom)_")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies, and of what it is.

    Attributes:
        folder: its folder.
        model: name of the model config, or of a variant that somebody compared by hand.
        task: the family task.
        benchmark: the task that it asked.
        run: what tells it from others of its model and task, such as the cell; empty where it is alone.
    """

    folder: Path
    model: str
    task: str
    benchmark: str
    run: str = ""

    @property
    def label(self) -> str:
        """The benchmark, and the run where there are several of it."""
        return f"{self.benchmark} ({self.run})" if self.run else self.benchmark


@dataclass(frozen=True, slots=True)
class Of(Generic[_T]):
    """A record and its place."""

    place: Place
    record: _T


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison: its differences, how it is measured (None of two runs that were compared by hand), its audit."""

    differences: tuple[Difference, ...]
    saved: ComparisonRecord | None
    audits: tuple[Audited, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One start of lmms-eval.

    Attributes:
        file: its results file.
        folder: of its cell, else where that file lies.
        results: its content.
        manifest: how the cell ran, where the folder is a study's.
        cell: the cell's name, else where the run lies.
        planned: the cell as a study's plan has it; None where the folder is no study's.
        answered: what answered; None of another model type than `plam`.
    """

    file: Path
    folder: Path
    results: ResultsFile
    manifest: Manifest | None
    cell: str
    planned: PlannedCell | None
    answered: Answered | None

    @property
    def model(self) -> str:
        """The model config's name; of another model type than `plam`, where its run lies, unless it is served."""
        if self.answered is not None:
            return self.answered.config.name
        return self.planned.model if self.planned is not None and self.planned.is_served else self.cell

    @property
    def is_served(self) -> bool:
        """Whether it is a study's of what it exported, which is no further model."""
        return self.planned is not None and self.planned.is_served

    @property
    def tasks(self) -> list[str]:
        """All tasks, family tasks included."""
        return list(self.results.configs)

    @property
    def date(self) -> str:
        """When it began, as YYYY-MM-DD, by its file's name; empty where that doesn't say."""
        found = _DATE.match(self.file.name)
        return "-".join(found.groups()) if found else ""

    @property
    def seconds(self) -> float | None:
        """How long it took, by the manifest, else by lmms-eval; None where nobody says."""
        if self.manifest is not None and self.manifest.seconds is not None:
            return self.manifest.seconds
        told = (self.results.model_extra or {}).get("total_evaluation_time_seconds")
        try:
            return None if told is None else float(told)
        except (TypeError, ValueError):
            return None

    @property
    def documents(self) -> int:
        """How many documents were asked, over all tasks."""
        told = [counts.get("effective") for counts in self.results.n_samples.values() if isinstance(counts, dict)]
        return sum(count for count in told if isinstance(count, int))

    @property
    def command(self) -> str:
        """The command that repeats it, by the manifest, else by what lmms-eval noted."""
        if self.manifest is not None and self.manifest.line:
            return self.manifest.line
        config = self.results.config
        told = config.model_extra or {}
        resolved = told.get("resolved_cli_args")
        said = resolved if isinstance(resolved, dict) else told
        words = ["lmms-eval", "--model", str(config.model), "--model_args", _as_arguments(config.model_args)]
        words += ["--tasks", ",".join(self.tasks)]
        for option, unset in _OPTIONS.items():
            value = said.get(option, config.limit if option == "limit" else None)
            if value is not None and value not in unset:
                words += [f"--{option}"] if value is True else [f"--{option}", _number(value)]
        return shlex.join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Study:
    """All that was found, each list in the order of models and benchmarks.

    Attributes:
        folder: where it lies.
        plan: the study's, None of a folder filled by hand.
        earlier: folders of cells that the plan no longer names, of which nothing is read.
        runs: starts of lmms-eval.
        probes: masking curves.
        searches: of recipes.
        comparisons: of recipes with the untouched VLM.
        attention: read.
        hidden: early hiding, windows and headroom.
        left_out: a sentence for each file that can't be read.
    """

    folder: Path
    plan: Plan | None
    earlier: tuple[Path, ...]
    runs: tuple[Run, ...]
    probes: tuple[Of[Plateau], ...]
    searches: tuple[Of[Found], ...]
    comparisons: tuple[Of[Compared], ...]
    attention: tuple[Of[Attention], ...]
    hidden: tuple[Of[Hidden], ...]
    left_out: tuple[str, ...]

    @property
    def records(self) -> list[Place]:
        """The places of all records."""
        kinds = (self.probes, self.searches, self.comparisons, self.attention, self.hidden)
        return [one.place for kind in kinds for one in kind]

    @property
    def finished(self) -> list[Run]:
        """The runs, of a cell that was interrupted and done again the last alone, which its manifest is about."""
        last = {run.folder if run.manifest is not None else run.file: run for run in self.runs}
        return list(last.values())

    @property
    def served(self) -> list[Run]:
        """The runs of what the study exported."""
        return [run for run in self.finished if run.is_served]

    @property
    def models(self) -> list[str]:
        """The models that have records, in the plan's order, else by name."""
        return list(dict.fromkeys(place.model for place in sorted(self.records, key=lambda place: place.model)))

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that were asked."""
        return sorted({place.benchmark for place in self.records})

    def source(self, place: Place) -> str:
        """Return dataset and split of a record's documents, as its run says; empty where none does."""
        for run in self.runs:
            config = run.results.configs.get(place.task)
            if run.file.parent in place.folder.parents and isinstance(config, dict) and config.get("dataset_path"):
                return " ".join(str(config.get(name)) for name in _SOURCE)
        return ""

    def matrices(self) -> list[Place]:
        """The places that hold a score matrix."""
        return [place for place in dict.fromkeys(self.records) if (place.folder / MATRIX).is_file()]


def find_study(folder: Path) -> Study:
    """Read everything below a folder.

    Raises:
        DataError: there is no such folder, or nothing in it that can be shown.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give that of a study, or any with runs of lmms-eval")
    reading = _Reading(folder)
    plan = reading.plan()
    runs = _in_order(reading.runs(plan), plan)
    found = Study(
        folder=folder,
        plan=plan,
        earlier=tuple(reading.earlier),
        runs=tuple(runs),
        probes=tuple(map(reading.with_points, reading.all_of(PLATEAU, Plateau, lambda record: record.model))),
        searches=reading.all_of(SEARCH, Found, lambda record: record.config),
        comparisons=reading.comparisons(),
        attention=reading.all_of(NUMBERS, Attention, lambda record: record.about.partition(", ")[0]),
        hidden=reading.all_of(VISIBILITY, Hidden, lambda record: record.about.partition(", ")[0]),
        left_out=tuple(reading.left_out),
    )
    if not found.runs and not found.records:
        first = f": {reading.left_out[0]}" if reading.left_out else f" (*{_RESULTS}, {MATRIX}, {ATTENTION})"
        raise DataError(f"{folder} holds nothing that a page can show{first}")
    return found


@dataclass
class _Reading:
    """One pass over a folder."""

    folder: Path
    left_out: list[str] = field(default_factory=list)
    earlier: list[Path] = field(default_factory=list)
    _runs: dict[Path, list[Run]] = field(default_factory=dict)

    def plan(self) -> Plan | None:
        plan = self._try(lambda: read_plan(self.folder)) if (self.folder / PLAN).is_file() else None
        if plan is not None:
            self.left_out += self._try(lambda: missing_cells(self.folder, plan)) or []
            self.earlier = earlier_cells(self.folder, plan)
            if self.earlier:
                cells = (
                    "1 cell of an earlier plan is"
                    if len(self.earlier) == 1
                    else f"{len(self.earlier)} cells of an earlier plan are"
                )
                self.left_out.append(
                    f"{cells} left out: {PLAN} doesn't name {', '.join(one.name for one in self.earlier)}"
                )
        return plan

    def _files(self, pattern: str) -> list[Path]:
        return [path for path in sorted(self.folder.rglob(pattern)) if not set(self.earlier).intersection(path.parents)]

    def runs(self, plan: Plan | None) -> list[Run]:
        planned = {} if plan is None else {self.folder / CELLS / cell.name: cell for cell in plan.cells}
        for file in self._files(f"*{_RESULTS}"):
            results = self._try(lambda file=file: read_results(file))  # type: ignore[misc]
            if results is None and _DATE.match(file.name):
                self.left_out.append(f"left out: {file} is no results file of lmms-eval, as it lacks 'configs'")
            if results is not None:
                cell = next((above for above in file.parents if above in planned), file.parent)
                manifest = self._try(lambda cell=cell: read_manifest(cell))  # type: ignore[misc]
                below = cell.relative_to(self.folder).as_posix()
                name = cell.name if manifest is not None or below == "." else below
                beside = file.with_name(f"{file.name.removesuffix(_RESULTS)}_plam.json")
                known = beside.is_file()
                answered = self._try(lambda beside=beside: read(beside, Answered)) if known else None  # type: ignore[misc]
                run = Run(file, cell, results, manifest, name, planned.get(cell), answered)
                self._runs.setdefault(cell, []).append(run)
        return [run for own in self._runs.values() for run in own]

    def all_of(self, name: str, kind: type[_T], model_of: Callable[[_T], str | None]) -> tuple[Of[_T], ...]:
        found = []
        for path in self._files(name):
            record = self._try(lambda path=path: read(path, kind))  # type: ignore[misc]
            if record is not None:
                task = str(record.task)  # type: ignore[attr-defined]
                model = model_of(record) or path.parent.parent.name
                found.append(Of(self._place(path.parent, model, task), record))
        return _told_apart(found, self.folder)

    def with_points(self, probe: Of[Plateau]) -> Of[Plateau]:
        path = probe.place.folder / CURVE
        points = self._try(lambda: read(path, list[Point])) if path.is_file() else None
        if points == []:
            self.left_out.append(f"left out: {path} holds no points of the curve")
        return Of(probe.place, probe.record.model_copy(update={"points": tuple(points or ())}))

    def comparisons(self) -> tuple[Of[Compared], ...]:
        found = []
        for path in self._files(COMPARISON):
            if not (path.parent / RECORD).is_file() and next(path.parent.glob(f"*/{RECORD}"), None) is not None:
                continue  # a run's comparison of all its tasks, which are there one by one
            found += self._try(lambda path=path: list(self._comparison(path))) or []  # type: ignore[misc]
        return _told_apart(found, self.folder)

    def _comparison(self, path: Path) -> Iterator[Of[Compared]]:
        folder = path.parent
        differences = read(path, list[Difference])
        audits = read(folder / _AUDIT, list[Audited]) if (folder / _AUDIT).is_file() else []
        if (folder / RECORD).is_file():
            saved = ComparisonRecord.read(folder)
            place = self._place(folder, saved.model, saved.task, saved.of)
            yield Of(place, Compared(tuple(differences), saved, tuple(audits)))
            return
        for task in dict.fromkeys(one.task for one in differences):
            own = tuple(one for one in differences if one.task == task)
            place = self._place(folder, " and ".join(dict.fromkeys(one.variant for one in own)), task)
            yield Of(place, Compared(own, None, tuple(one for one in audits if one.task == task)))

    def _place(self, folder: Path, model: str, task: str, benchmark: str | None = None) -> Place:
        return Place(folder, model, task, benchmark or self._asked(folder, task) or _FAMILY.sub("", task))

    def _asked(self, folder: Path, task: str) -> str | None:
        """Return the task that a family task asked, as the run in which it lies says."""
        for above in folder.parents:
            for run in self._runs.get(above, ()):
                config = run.results.configs.get(task)
                if isinstance(config, dict) and isinstance(config.get("plam"), dict):
                    of = config["plam"].get("of")
                    return of if isinstance(of, str) else None
            if above == self.folder:
                break
        return None

    def _try(self, work: Callable[[], _T]) -> _T | None:
        try:
            return work()
        except DataError as error:
            self.left_out.append(f"left out: {error}")
            return None


def _in_order(runs: list[Run], plan: Plan | None) -> list[Run]:
    """Return runs in the order of the plan's cells, in which they can be repeated; others stay where they are, last."""
    places = {} if plan is None else {cell.name: place for place, cell in enumerate(plan.cells)}
    return sorted(runs, key=lambda run: places.get(run.cell, len(places)))


def _as_arguments(value: Any) -> str:
    """Return a model's arguments as a command line gives them."""
    return ",".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else str(value or "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told_apart(found: list[Of[_T]], folder: Path) -> tuple[Of[_T], ...]:
    """Return records by model and benchmark, those of one model and task named by where they lie."""
    counts = Counter((one.place.model, one.place.task) for one in found)
    named = []
    for one in found:
        place = one.place
        if counts[place.model, place.task] > 1:
            others = {
                other.place.folder.relative_to(folder).parts
                for other in found
                if (other.place.model, other.place.task) == (place.model, place.task)
            }
            own = place.folder.relative_to(folder).parts
            telling = [
                part for depth, part in enumerate(own) if len({other[depth : depth + 1] for other in others}) > 1
            ]
            place = Place(place.folder, place.model, place.task, place.benchmark, "/".join(telling))
        named.append(Of(place, one.record))
    return tuple(sorted(named, key=lambda one: (one.place.model, one.place.benchmark, one.place.run)))
