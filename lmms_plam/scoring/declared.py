"""Benchmarks of the user's own: read as their YAML declares, or else every metric that is a number, as a mean.

    metadata:
      version: 1.0
      plam: {cluster: image_id, stratum: subject, metric: my_package.metrics:rare_words}

`cluster`, `stratum` and what `parts` lists are dotted paths into what `process_results` returns, or into the metric's
own entry of it, or columns of the dataset.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmms_plam.errors import DataError, about, did_you_mean
from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.scoring.record import Benchmark, Measure, Record, Sample, answer_of, image_name
from lmms_plam.stats.metrics import find_metric


class Declaration(BaseModel):
    """What a task's YAML may say under `metadata: {plam: ...}`.

    Attributes:
        score: path of the document's value; left out, each metric of the task that is a number.
        cluster: what depends on each other shares it; left out, lmms-eval's own `cluster_key`, or each document alone.
        stratum: part of the benchmark that is resampled separately.
        question: the question's id, to check that two runs asked the same.
        parts: paths of what questions are of, such as their kind; each value gets a line of its own in comparisons.
        perfect: the best value of a document, 100 for percentages.
        chance: the task's score where each answer is chosen at random, which pictures then show.
        metric: a registered metric, `module:name` where importing the module registers it.
        regions: column with the right places in a document's first picture: a box (left, top, right, bottom in pixels)
            or a list of them.
        reads: a regular expression for the whole of an answer, blanks around it apart, that the task's scoring can read
            as meant; left out, it isn't known which answers could be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: str | None = None
    cluster: str | None = None
    stratum: str | None = None
    question: str | None = None
    parts: tuple[str, ...] = ()
    perfect: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    chance: float | None = Field(default=None, allow_inf_nan=False)
    metric: str = "mean"
    regions: str | None = None
    reads: re.Pattern[str] | None = None


def read_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a task's YAML, which may be a mapping or a list of mappings."""
    metadata = config.get("metadata") or {}
    parts = metadata if isinstance(metadata, list) else [metadata]
    return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}


def find_benchmarks(task: str, config: Mapping[str, Any], samples: Collection[Sample]) -> list[Benchmark]:
    """Return how a task is read and measured.

    Args:
        task: the task's name; one of the table in benchmarks.py is read as stated there, unless its YAML declares
            otherwise.
        config: the task's YAML, for `metric_list`, `cluster_key`, `score_key` and `metadata`.
        samples: answers, to see which metrics are numbers; a metric may be there for some documents only.

    Returns:
        One benchmark for each kind of per-document value.

    Raises:
        DataError: an unknown entry, or no metric that is a number for each document.
    """
    metadata = read_metadata(config)
    entries = metadata.get("plam")
    if entries is None:
        if task in BENCHMARKS:
            return [BENCHMARKS[task]]
        entries = {}
    declaration = _declaration(task, entries)
    assumed = "metric" not in entries
    if declaration.cluster is None:
        declaration = declaration.model_copy(update={"cluster": config.get("cluster_key")})
    scores = [declaration.score] if declaration.score else _numeric_metrics(config, samples)
    if not scores:
        raise DataError(
            f"{task}: none of its metrics is a number for each document; say under `metadata: {{plam: {{score: ...}}}}`"
            " in its YAML where the number is"
        )
    metric = _import_metric(task, declaration.metric)
    return [replace(_benchmark(score, metric, declaration), assumed=assumed) for score in scores]


def declared_regions(task: str, config: Mapping[str, Any]) -> str | None:
    """Return the column with the right places in pictures, if a task's YAML names one."""
    return _declaration(task, read_metadata(config).get("plam") or {}).regions


def check_declared(task: str, config: Mapping[str, Any], documents: Iterable[Mapping[str, Any]]) -> None:
    """Check what a task's YAML declares as far as the dataset's columns show it, before any answer is given.

    Args:
        task: the task's name.
        config: its YAML.
        documents: all of them; read only where both cluster and stratum are declared.

    Raises:
        DataError: an unknown entry or metric, or a cluster that lies in two strata.
    """
    declaration = _declaration(task, read_metadata(config).get("plam") or {})
    _import_metric(task, declaration.metric)
    column = declaration.cluster or config.get("cluster_key")
    if column is None or declaration.stratum is None:
        return
    strata: dict[str, str] = {}
    for doc in documents:
        cluster, stratum = _look_up((doc,), column), _look_up((doc,), declaration.stratum)
        if cluster is None or stratum is None:  # it may be among what process_results returns
            continue
        other = strata.setdefault(image_name(cluster), str(stratum))
        if other != str(stratum):
            raise DataError(
                f"{task}: metadata.plam: {column} '{image_name(cluster)}' lies in two strata of "
                f"{declaration.stratum}, '{other}' and '{stratum}': leave the stratum out, or name a coarser cluster"
            )


def say_no_mean(*metrics: str) -> str:
    """Return why metrics that nobody declared can't be measured, and what to do."""
    return (
        f"the harness prints another number than the mean over documents as {', '.join(metrics)}; say under"
        " `metadata: {plam: {metric: ...}}` in the task's YAML how it is aggregated"
    )


def _declaration(task: str, entries: Mapping[str, Any]) -> Declaration:
    try:
        return Declaration.model_validate(entries)
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(("metadata.plam", *map(str, item["loc"])))
        known = Declaration.model_fields
        hint = did_you_mean(str(item["loc"][-1]), known) if item["type"] == "extra_forbidden" else ""
        raise DataError(f"{task}: {where}: {item['msg']}.{hint} Known: {', '.join(known)}") from None


def _import_metric(task: str, name: str) -> str:
    """Import the module of a metric given as `module:name`, which registers it; return the name."""
    module, _, metric = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # any, of a module of the user's own
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{task}: metadata.plam.metric: the module '{module}' can't be imported ({why})") from error
    with about(f"{task}: metadata.plam.metric"):
        return find_metric(metric).name


def _numeric_metrics(config: Mapping[str, Any], samples: Collection[Sample]) -> list[str]:
    """Return the paths of the task's metrics whose value for a document is a number, or holds one by the score key."""
    inside = config.get("score_key") or "score"
    entries = (entry for entry in config.get("metric_list") or () if isinstance(entry, Mapping))
    names = [entry["metric"] for entry in entries if isinstance(entry.get("metric"), str)]
    found = []
    for name in dict.fromkeys(names):
        paths = (name, f"{name}.{inside}")
        numeric = (path for path in paths if any(is_number(_look_up((sample,), path)) for sample in samples))
        found += list(numeric)[:1]
    return found


def is_number(value: Any) -> bool:
    """Whether a value is a number, NumPy's included."""
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _benchmark(score: str, metric: str, declaration: Declaration) -> Benchmark:
    key = score.partition(".")[0]

    def read(sample: Sample) -> Record:
        places = (sample, sample.get(key), sample.get("doc"))
        question, cluster, stratum, *parts = (
            None if path is None else _look_up(places, path)
            for path in (declaration.question, declaration.cluster, declaration.stratum, *declaration.parts)
        )
        named: dict[str | None, Any] = {
            declaration.stratum: stratum,
            **dict(zip(declaration.parts, parts, strict=True)),
        }
        if lacking := [path for path, found in named.items() if path and found is None]:
            raise DataError(f"document {sample.get('doc_id')}: '{lacking[0]}' is not among what is logged")
        answer, pattern = answer_of(sample), declaration.reads
        value = _look_up(places, score)
        if value is None:
            raise DataError(
                f"document {sample.get('doc_id')}: no '{score}'; say under `metadata: {{plam: {{score: ...}}}}` in the"
                " task's YAML which number each document has"
            )
        return Record(
            score=value,
            answer=answer,
            read=None if pattern is None else "meant" if pattern.fullmatch(answer.strip()) else "not",
            question="" if question is None else str(question),
            cluster=None if cluster is None else str(cluster),
            stratum="" if stratum is None else str(stratum),
            columns={_part(path): str(part) for path, part in zip(declaration.parts, parts, strict=True)},
        )

    return Benchmark(
        read,
        (Measure(key, metric),),
        cluster_column=declaration.cluster,
        needs_clusters=True,
        perfect_answer=declaration.perfect,
        chance=declaration.chance,
        part_columns=tuple(map(_part, declaration.parts)),
        only_with=key,
    )


def _part(path: str) -> str:
    """Return what the matrix calls the column of a part, never one of its own columns' names."""
    return f"part: {path}"


def _look_up(places: Sequence[Any], path: str) -> Any:
    """Follow a dotted path into the first place where it leads somewhere; None if there is none."""
    for value in places:
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None
