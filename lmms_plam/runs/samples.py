"""Finding lmms-eval's result folders and reading the answers that `--log_samples` left in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from lmms_plam.errors import DataError
from lmms_plam.scoring.declared import read_metadata
from lmms_plam.scoring.record import Sample

_RESULTS = "_results.json"


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of one finished run.

    Attributes:
        label: what the run is called: its folder, as far as it tells runs apart.
        task: the task's name in lmms-eval.
        results_file: the run's results file.
        results: everything in it.
    """

    label: str
    task: str
    results_file: Path
    results: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The JSON Lines file with its answers."""
        return self.results_file.with_name(f"{self.results_file.name.removesuffix(_RESULTS)}_samples_{self.task}.jsonl")

    @property
    def config(self) -> Mapping[str, Any]:
        """The task's YAML as the run used it."""
        config = self.results["configs"].get(self.task)
        return config if isinstance(config, Mapping) else {}

    @property
    def version(self) -> str:
        """The task's version, as its YAML's metadata or else the harness gives it."""
        return str(read_metadata(self.config).get("version", self.results.get("versions", {}).get(self.task)))

    @property
    def documents(self) -> int | None:
        """How many documents the task has; None where the results don't say so."""
        count: int | None = self.results.get("n-samples", {}).get(self.task, {}).get("original")
        return count

    @property
    def asked(self) -> int | None:
        """How many documents the run asked; None where its results don't say so plainly."""
        config = self.results.get("config") or {}
        limit = config.get("limit")
        if self.documents is None or config.get("offset") or (limit is not None and 0 <= limit < 1):
            return None
        return self.documents if limit in (None, -1) else min(int(limit), self.documents)

    @property
    def scores(self) -> Mapping[str, float]:
        """The harness's own numbers by metric, without standard errors."""
        found: dict[str, float] = {}
        for name, value in self.results.get("results", {}).get(self.task, {}).items():
            metric = name.partition(",")[0]
            if isinstance(value, (int, float)) and "_stderr" not in metric:
                found.setdefault(metric, float(value))
        return found

    def higher_is_better(self, metric: str) -> bool:
        """Say which way a metric points; up, where the run doesn't say."""
        return self.results.get("higher_is_better", {}).get(self.task, {}).get(metric) is not False


def find_runs(place: str | Path) -> list[TaskRun]:
    """Find every task with logged answers below a folder, or of one results file.

    Of a task that a model answered twice in one folder the newest run counts. Models are told apart by folder and, as
    lmms-eval may write several into one, by their arguments.

    Raises:
        DataError: no such folder, no results in it, a results file that is no JSON, or no logged answers.
    """
    place = Path(place)
    if place.is_file() and place.name.endswith(_RESULTS):
        folder, files = place.parent, [place]
    elif place.is_dir():
        folder, files = place, sorted(place.rglob(f"*{_RESULTS}"), key=lambda path: path.name)
    else:
        raise DataError(f"{place} is no folder with runs of lmms-eval and no results file (*{_RESULTS})")
    read = {file: results for file in files if (results := _read_json(file))}
    if not read:
        raise DataError(f"{place} holds no results of lmms-eval (*{_RESULTS}): run it with --output_path {folder}")
    labels = _labels(folder, [(file.parent, _model(results)) for file, results in read.items()])
    newest: dict[tuple[str, str], TaskRun] = {}
    for file, results in read.items():
        label = labels[file.parent, _model(results)]
        for task, config in results["configs"].items():
            if "plam" in (config or {}):
                continue  # a family task varies the model by itself and reports on it
            newest[label, task] = TaskRun(label, task, file, results)
    if not newest:
        raise DataError(
            f"{place} holds no task's run; comparisons and probes report by themselves, in the folder plam/ beside it"
        )
    logged = [run for run in newest.values() if run.path.is_file()]
    if not logged:
        raise DataError(f"{place} holds results but no logged answers: run again with --log_samples")
    for run in newest.values():
        if not run.path.is_file():
            logger.warning(f"{run.label}: {run.task} is left out, as its newest run logged no answers ({run.path})")
    return logged


def read_samples(run: TaskRun) -> dict[int, Sample]:
    """Read a run's answers by document id; of several filters that read each answer, as the first one did.

    Raises:
        DataError: a line that is cut off or no JSON object, a document twice, or fewer answers than documents asked.
    """
    samples: dict[int, Sample] = {}
    filters = len(run.config.get("filter_list") or [None])
    left = Counter[int]()  # how often a document comes again: all are logged once for each filter
    with open(run.path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
                doc_id = sample["doc_id"]
                if not (isinstance(doc_id, int) and 0 <= doc_id < 2**63):
                    raise ValueError(f"no document has the id {doc_id}")
            except (ValueError, LookupError, TypeError) as error:
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


def _model(results: Mapping[str, Any]) -> str:
    """Return lmms-eval's words for the model that answered: its type and arguments."""
    config = results.get("config") or {}
    return " ".join(str(config[name]) for name in ("model", "model_args") if config.get(name))


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is cut off or no JSON; run the tasks again") from error
    is_run = isinstance(content, dict) and isinstance(content.get("configs"), dict)
    return content if is_run else {}  # tasks write files of such names too
