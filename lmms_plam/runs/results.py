"""What is read of lmms-eval's files, checked for its types: anyone may have written or edited them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmms_plam.errors import DataError, first_problem
from lmms_plam.scoring.declared import read_metadata


class _Foreign(BaseModel):
    """Keys that aren't named here may hold anything; null is as good as nothing."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {name: value for name, value in content.items() if value is not None}


class LoggedSample(_Foreign):
    """A line of `*_samples_<task>.jsonl`."""

    doc_id: Annotated[int, Field(ge=0, lt=2**63)]


class TaskConfig(_Foreign):
    """A task's YAML as a run used it."""

    metadata: dict[str, Any] | list[Any] = {}
    metric_list: list[Any] = []
    filter_list: list[Any] = []
    cluster_key: str | None = None
    score_key: str | None = None
    dataset_path: str | None = None
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] = {}
    test_split: str | None = None
    validation_split: str | None = None


class Counts(_Foreign):
    """A task's numbers of documents."""

    original: Annotated[int, Field(ge=0)] | None = None


class RunConfig(_Foreign):
    """How lmms-eval was called."""

    model: Any = None
    model_args: Any = None
    limit: float | None = None
    offset: float = 0


class TaskResults(_Foreign):
    """What a results file says of one task.

    Attributes:
        configs: the task's YAML as the run used it.
        results: the harness's table, standard errors included.
        versions: the task's version as the harness has it.
        n_samples: how many documents there are.
        higher_is_better: which way its metrics point, where the harness knows.
    """

    configs: TaskConfig
    results: dict[str, Any] = {}
    versions: Any = None
    n_samples: Annotated[Counts, Field(alias="n-samples")] = Counts()
    higher_is_better: dict[str, bool | None] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """The task's YAML as a mapping, without what it leaves empty."""
        return self.configs.model_dump(exclude_unset=True)

    @property
    def version(self) -> str:
        """The task's version, as its YAML's metadata or else the harness gives it."""
        return str(read_metadata(self.config).get("version", self.versions))

    @property
    def scores(self) -> Mapping[str, float]:
        """The harness's own numbers by metric, without standard errors."""
        found: dict[str, float] = {}
        for name, value in self.results.items():
            metric = name.partition(",")[0]
            if isinstance(value, (int, float)) and abs(value) < 2**63 and "_stderr" not in metric:
                found.setdefault(metric, float(value))
        return found

    def points_up(self, metric: str) -> bool:
        """Say whether a higher value of a metric is better, as where the run doesn't say."""
        return self.higher_is_better.get(metric) is not False


class ResultsFile(_Foreign):
    """A `*_results.json`: its parts hold an entry for each task."""

    configs: dict[str, Any]
    results: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    n_samples: Annotated[dict[str, Any], Field(alias="n-samples")] = {}
    higher_is_better: dict[str, Any] = {}
    config: RunConfig = RunConfig()

    @property
    def tasks(self) -> list[str]:
        """The tasks that it tells of, except family tasks, which vary the model by themselves and report on it."""
        return [task for task, config in self.configs.items() if not (isinstance(config, Mapping) and "plam" in config)]

    @property
    def model(self) -> str:
        """lmms-eval's words for the model that answered: its type and arguments."""
        return " ".join(str(word) for word in (self.config.model, self.config.model_args) if word)

    def of(self, task: str) -> TaskResults:
        """Return what it says of one of its tasks.

        Raises:
            DataError: that is of another type than lmms-eval writes.
        """
        parts = {field.alias or name: getattr(self, name) for name, field in TaskResults.model_fields.items()}
        try:
            return TaskResults.model_validate({part: entries.get(task) for part, entries in parts.items()})
        except ValidationError as error:
            raise DataError(f"{first_problem(error)}; run {task} again") from None


def read_results(path: Path) -> ResultsFile | None:
    """Read a results file; None for a JSON file of such a name that is none, as some tasks write.

    Raises:
        DataError: it is no JSON, or its parts are of another type than lmms-eval writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is cut off or no JSON; run the tasks again") from error
    if not (isinstance(content, dict) and isinstance(content.get("configs"), dict)):
        return None
    try:
        return ResultsFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}; run the tasks again") from None
