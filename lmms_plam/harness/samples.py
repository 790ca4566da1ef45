"""Finding lmms-eval's result folders and reading the answers that `--log_samples` left in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_plam.errors import DataError
from lmms_plam.harness.units import Sample

_RESULTS = "_results.json"


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of one finished run.

    Attributes:
        label: what the run is called: its folder, as far as it tells runs apart.
        task: the task's name in lmms-eval.
        path: the JSON Lines file with its answers.
        results: everything in the run's results file.
    """

    label: str
    task: str
    path: Path
    results: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The task's YAML as the run used it."""
        return dict(self.results.get("configs", {}).get(self.task) or {})

    @property
    def version(self) -> str:
        """The task's version, as its YAML's metadata or else the harness gives it."""
        metadata = self.metadata
        return str(metadata.get("version", self.results.get("versions", {}).get(self.task)))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the task's YAML, which may be a mapping or a list of mappings."""
        metadata = self.config.get("metadata") or {}
        parts = metadata if isinstance(metadata, list) else [metadata]
        return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}

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


def find_runs(folder: str | Path) -> list[TaskRun]:
    """Find every task with logged answers below a folder; of a task run twice in one place, the newest.

    Raises:
        DataError: no such folder, no results in it, a results file that is no JSON, or no logged answers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder with runs of lmms-eval")
    files = sorted(folder.rglob(f"*{_RESULTS}"), key=lambda path: path.name)
    if not files:
        raise DataError(f"{folder} holds no results of lmms-eval (*{_RESULTS}): run it with --output_path {folder}")
    labels = _labels(folder, sorted({path.parent for path in files}))
    newest: dict[tuple[Path, str], TaskRun] = {}
    for file in files:
        results = _read_json(file)
        for task, config in results.get("configs", {}).items():
            if "plam" in (config or {}):
                continue  # a family task varies the model by itself and reports on it
            answers = file.with_name(f"{file.name.removesuffix(_RESULTS)}_samples_{task}.jsonl")
            if answers.is_file():
                newest[file.parent, task] = TaskRun(labels[file.parent], task, answers, results)
    if not newest:
        raise DataError(f"{folder} holds results but no logged answers: run again with --log_samples")
    return list(newest.values())


def read_samples(run: TaskRun) -> dict[int, Sample]:
    """Read a run's answers by document id.

    Raises:
        DataError: a line that is cut off or no JSON object, a document twice, or no answers at all.
    """
    samples: dict[int, Sample] = {}
    with open(run.path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
                doc_id = int(sample["doc_id"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{run.path}: line {number} is cut off or no logged sample; run the task again"
                ) from error
            if doc_id in samples:
                raise DataError(f"{run.path}: line {number} repeats document {doc_id}; run the task again")
            samples[doc_id] = sample
    if not samples:
        raise DataError(f"{run.path} is empty; run the task again")
    return samples


def _labels(folder: Path, parents: list[Path]) -> dict[Path, str]:
    """Name each run by its path below the folder, only its first part where that is unique."""
    relative = {parent: parent.relative_to(folder).parts or (folder.resolve().name,) for parent in parents}
    first = [parts[0] for parts in relative.values()]
    return {parent: parts[0] if first.count(parts[0]) == 1 else "/".join(parts) for parent, parts in relative.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is cut off or no JSON; run the tasks again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no results of lmms-eval")
    return content
