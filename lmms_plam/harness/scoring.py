"""Scoring a family task's answers: one by one as the wrapped task does, and together as a score matrix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lmms_eval.api.task import ConfigurableTask

from lmms_plam.errors import DataError
from lmms_plam.harness.declared import find_benchmarks, say_no_mean
from lmms_plam.harness.images import image_names
from lmms_plam.harness.units import Benchmark, complete_units, count_remarks, same_number
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

DOC_ID = "plam_doc_id"
"""Column in which each document carries its number, which scoring isn't told otherwise."""

Row = dict[str, Any]
"""What the score matrix holds of one answer, and what else joining needs to know of it."""

_SIZE, _REMARK, _ITEM = _NOT_COLUMNS = "size", "remark", "item"


class Scorer:
    """Scores the answers of a task.

    Args:
        task: the family task, which has the wrapped task's config, documents and prompts.
        of: the wrapped task's name.
        process_results: the wrapped task's: a document and its answers to a value for each metric.

    Attributes:
        benchmark: how answers are read; None before the first.
    """

    def __init__(self, task: ConfigurableTask, of: str, process_results: Callable[[Any, list[Any]], Mapping[str, Any]]):
        self._task, self._of, self._process_results = task, of, process_results
        self.benchmark: Benchmark | None = None

    def row(self, doc: Mapping[str, Any], variant: str, answer: Any) -> Row:
        """Score a variant's filtered answer.

        Raises:
            DataError: what the task returns can't be read, or its questions can't be clustered by their image.
        """
        doc_id = doc[DOC_ID]
        scored = self._process_results(doc, [answer])
        question = self._task.doc_to_text(doc)
        sample = {**scored, "doc": doc, "doc_id": doc_id, "filtered_resps": answer, "input": question}
        benchmark = self._read_by(sample)
        record = benchmark.record(sample)
        cluster = record.cluster
        if cluster is None and self._image_names is not None:
            cluster = self._image_names[doc_id]
        if cluster is None and benchmark.needs_image and benchmark.image is not None:
            raise DataError(f"{self._name}: documents have no '{benchmark.image}' to cluster them by")
        return {
            "doc_id": doc_id,
            "variant": variant,
            "answer": record.answer,
            "score": record.score,
            "cluster": cluster if cluster is not None else str(doc_id),
            "stratum": record.stratum,
            **record.columns,
            _SIZE: record.size,
            _REMARK: record.remark,
            _ITEM: scored.get(benchmark.headline.key) if benchmark.assumed else None,
        }

    def join(self, rows: Iterable[Row]) -> tuple[ScoreMatrix, tuple[str, ...]]:
        """Join the rows of complete units; return the matrix and what a reader must know of the rest.

        Raises:
            DataError: no unit is complete, or the rows make no matrix.
        """
        rows = list(rows)
        sizes = {row["doc_id"]: (row["cluster"], row[_SIZE]) for row in rows}
        complete, notes = complete_units(sizes, self._name)
        matrix = ScoreMatrix.from_rows(
            (
                {name: value for name, value in row.items() if name not in _NOT_COLUMNS}
                for row in rows
                if row["doc_id"] in complete
            ),
            self._name,
        )
        return matrix, (*notes, *count_remarks((row["variant"], row[_REMARK]) for row in rows))

    def require_mean(
        self, matrix: ScoreMatrix, rows: Sequence[Row], aggregations: Mapping[str, Callable[..., Any]], arguments: Any
    ) -> None:
        """Refuse to take means for the metric of a task that aggregates otherwise and doesn't declare how.

        Args:
            matrix: all rows joined.
            rows: those of one variant.
            aggregations: the wrapped task's, by metric.
            arguments: lmms-eval's, which some aggregations want.

        Raises:
            DataError: it aggregates otherwise.
        """
        benchmark = self.benchmark
        if benchmark is None or not benchmark.assumed:
            return
        aggregate = aggregations[benchmark.headline.key]
        more = {"args": arguments} if "args" in inspect.signature(aggregate).parameters else {}
        theirs = aggregate([row[_ITEM] for row in rows], **more)
        ours = Units.of(matrix, find_metric(benchmark.headline.metric)).estimate()
        if isinstance(theirs, (int, float)) and not same_number(float(ours[matrix.column(rows[0]["variant"])]), theirs):
            raise DataError(say_no_mean(benchmark.headline.key))

    @property
    def _name(self) -> str:
        return str(self._task.config.task)

    @cached_property
    def _image_names(self) -> list[str] | None:
        """By document, the name of the image that others may share; scoring sees documents without images."""
        column = self.benchmark.image if self.benchmark else None
        return image_names(self._task.eval_docs, column) if column is not None else None

    def _read_by(self, sample: Mapping[str, Any]) -> Benchmark:
        if self.benchmark is None:
            self.benchmark = find_benchmarks(self._of, self._task.config.to_dict(), [sample])[0]
        return self.benchmark
