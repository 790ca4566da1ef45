"""Finding lmms-eval's result folders and reading the answers that `--log_samples` left in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from lmms_plam.errors import DataError, about
from lmms_plam.runs.results import LoggedSample, ResultsFile, TaskResults, read_results
from lmms_plam.scoring.record import Sample

_RESULTS = "_results.json"


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of one finished run.

    Attributes:
        label: what the run is called: its folder, as far as it tells runs apart.
        task: the task's name in lmms-eval.
        results_file: the run's results file.
        results: its content.
    """

    label: str
    task: str
    results_file: Path
    results: ResultsFile

    @property
    def path(self) -> Path:
        """The JSON Lines file with its answers."""
        return self.results_file.parent / f"{self.results_file.name.removesuffix(_RESULTS)}_samples_{self.task}.jsonl"

    @property
    def told(self) -> TaskResults:
        """What the results file says of the task.

        Raises:
            DataError: that is of another type than lmms-eval writes.
        """
        with about(str(self.results_file)):
            return self.results.of(self.task)

    @property
    def documents(self) -> int | None:
        """How many documents the task has; None where the results don't say so."""
        return self.told.n_samples.original

    @property
    def asked(self) -> int | None:
        """How many documents the run asked; None where its results don't say so plainly."""
        config = self.results.config
        if self.documents is None or config.offset or (config.limit is not None and 0 <= config.limit < 1):
            return None
        return self.documents if config.limit in (None, -1) else min(int(config.limit), self.documents)


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds.

    Attributes:
        runs: those with logged answers.
        unreadable: a sentence for each results file that can't be read.
        unlogged: a sentence for each task of which a model's newest run logged no answers.
    """

    runs: list[TaskRun]
    unreadable: list[str]
    unlogged: list[str]


def find_runs(place: str | Path, without: Collection[Path] = ()) -> Found:
    """Find every task with logged answers below a folder, or of one results file.

    Of a task that a model answered twice in one folder the newest run counts. Models are told apart by folder and, as
    lmms-eval may write several into one, by their arguments. Where the newest can't be read, none in its folder counts
    that is older.

    Args:
        place: the folder or file.
        without: folders below it that aren't read.

    Raises:
        DataError: no such folder, no results in it that can be read, or no logged answers.
    """
    place = Path(place)
    if place.is_file() and place.name.endswith(_RESULTS):
        folder, files = place.parent, [place]
    elif place.is_dir():
        read_there = (path for path in place.rglob(f"*{_RESULTS}") if not set(without).intersection(path.parents))
        folder, files = place, sorted(read_there, key=lambda path: path.name)
    else:
        raise DataError(f"{place} is no folder with runs of lmms-eval and no results file (*{_RESULTS})")
    read, unreadable = _read_all(files)
    if not read and unreadable:
        raise DataError(unreadable[0])
    if not read:
        raise DataError(f"{place} holds no results of lmms-eval (*{_RESULTS}): run it with --output_path {folder}")
    labels = _labels(folder, [(file.parent, results.model) for file, results in read.items()])
    newest: dict[tuple[str, str], TaskRun] = {}
    for file, results in read.items():
        label = labels[file.parent, results.model]
        newest |= {(label, task): TaskRun(label, task, file, results) for task in results.tasks}
    if not newest:
        raise DataError(
            f"{place} holds no task's run; comparisons and probes report by themselves, in the folder plam/ beside it,"
            " of which `plam compare` reads comparisons again"
        )
    logged = [run for run in newest.values() if run.path.is_file()]
    if not logged:
        raise DataError(f"{place} holds results but no logged answers: run again with --log_samples")
    unlogged = [
        f"{run.label}: {run.task} is left out, as its newest run logged no answers ({run.path}): run it again with"
        " --log_samples"
        for run in newest.values()
        if not run.path.is_file()
    ]
    return Found(logged, unreadable, unlogged)


def read_samples(run: TaskRun) -> dict[int, Sample]:
    """Read a run's answers by document id; of several filters that read each answer, as the first one did.

    Raises:
        DataError: a line that is cut off or no JSON object, a document twice, or fewer answers than documents asked.
    """
    samples: dict[int, Sample] = {}
    filters = len(run.told.configs.filter_list) or 1
    left = Counter[int]()  # how often a document comes again: all are logged once for each filter
    with open(run.path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
                doc_id = LoggedSample.model_validate(sample).doc_id
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{run.path}: line {number} is cut off or no logged sample; run the task again"
                ) from error
            if doc_id not in samples:
                samples[doc_id], left[doc_id] = sample, filters - 1
            elif left[doc_id]:
                left[doc_id] -= 1
            else:
                raise DataError(f"{run.path}: line {number} repeats document {doc_id}; run the task again")
    if filters > 1:
        logger.warning(f"{run.label}: {run.task} reads each answer by {filters} filters, of which the first counts")
    if not samples or len(samples) < (run.asked or 0):
        raise DataError(
            f"{run.path} ends after line {len(samples)} of {run.asked or 'an unknown number'}; run the task again"
        )
    return samples


def _read_all(files: Iterable[Path]) -> tuple[dict[Path, ResultsFile], list[str]]:
    """Read results files, the older first; an unreadable one hides the older ones beside it."""
    read: dict[Path, ResultsFile] = {}
    unreadable = []
    for file in files:
        try:
            results = read_results(file)
        except DataError as error:
            unreadable.append(str(error))
            read = {other: content for other, content in read.items() if other.parent != file.parent}
        else:
            read |= {file: results} if results else {}
    return read, unreadable


def _labels(folder: Path, models: Iterable[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
    """Name each model by its path below the folder, only its first part where that is unique.

    Of several models in one folder the model's own words are part of the path, and all of it in `folder` itself.
    """
    models = list(dict.fromkeys(models))
    alone = Counter(parent for parent, _ in models)
    paths = {
        (parent, model): (*parent.relative_to(folder).parts, *([model] if alone[parent] > 1 else []))
        or (folder.resolve().name,)
        for parent, model in models
    }
    first = Counter(parts[0] for parts in paths.values())
    return {key: parts[0] if first[parts[0]] == 1 else "/".join(parts) for key, parts in paths.items()}
