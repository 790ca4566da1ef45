"""Scoring a family task's answers: one by one as the wrapped task does, and together as a score matrix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from lmms_plam.errors import DataError, about
from lmms_plam.scoring.declared import find_benchmarks, is_number, read_metadata, say_no_mean
from lmms_plam.scoring.images import image_names, say_shared_images
from lmms_plam.scoring.record import Benchmark, CutOff, Ending, Record, Sample
from lmms_plam.scoring.units import count_remarks, same_number, score_matrix
from lmms_plam.stats.matrix import BoolArray, ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

if TYPE_CHECKING:
    from lmms_eval.api.task import ConfigurableTask

DOC_ID = "plam_doc_id"
"""Column in which each document carries its number, which scoring isn't told otherwise."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """What the wrapped task makes of one answer.

    Attributes:
        doc_id: the document's number.
        variant: who answered.
        answer: after the task's filter.
        values: what the task's `process_results` returned, by metric.
        ending: how the answer ended; None where that isn't known, as of answers from lmms-eval's cache.
    """

    doc_id: int
    variant: str
    answer: Any
    values: Mapping[str, Any]
    ending: Ending | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name as JSON can hold them, for `from_dict`."""
        ending = None if self.ending is None else asdict(self.ending)
        named = {"doc_id": self.doc_id, "variant": self.variant, "answer": self.answer, "values": dict(self.values)}
        return {**named, "ending": ending}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ScoredAnswer:
        """Make it again of its fields."""
        return cls(**{**told, "ending": None if told["ending"] is None else Ending(**told["ending"])})


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """All answers together: how they were read, their matrix, and what a reader must know of it.

    `asked` says which cells of the matrix were asked, [documents, variants]; None: all.
    """

    benchmark: Benchmark
    matrix: ScoreMatrix
    notes: tuple[str, ...]
    asked: BoolArray | None = None


class Scorer:
    """Scores the answers of a task.

    Args:
        task: the family task, which has the wrapped task's config, documents and prompts.
        of: the wrapped task's name.
        process_results: the wrapped task's: a document and its answers to a value for each metric.
        ending: returns how an answer ended, given its document's number and its variant's name; None if unknown.
    """

    def __init__(
        self,
        task: ConfigurableTask,
        of: str,
        process_results: Callable[[Any, list[Any]], Mapping[str, Any]],
        ending: Callable[[int, str], Ending | None],
    ):
        self._task, self._of, self._process_results, self._ending = task, of, process_results, ending
        self._image_names = cache(lambda column: image_names(task.eval_docs, column))

    def score(self, doc: Mapping[str, Any], variant: str, answer: Any) -> ScoredAnswer:
        """Score a variant's filtered answer."""
        doc_id, values = doc[DOC_ID], self._process_results(doc, [answer])
        return ScoredAnswer(doc_id, variant, answer, values, self._ending(doc_id, variant))

    def taste(self, answer: ScoredAnswer) -> None:
        """Read one answer as `join` will read all of them.

        Raises:
            DataError: it can't be read or clustered.
        """
        (sample,) = self._samples([answer])
        try:
            found = find_benchmarks(self._of, self._task.config.to_dict(), [sample])
        except DataError:
            return  # no metric is a number here; one may be for other documents
        question = (read_metadata(self._task.config.to_dict()).get("plam") or {}).get("question")
        for benchmark in found:
            if benchmark.measures_it(sample):
                ((_, _, record),) = self._read(benchmark, [(answer, sample)])
                if question and not record.question:  # without which runs couldn't be told to have asked the same
                    raise DataError(f"{self._name}: document {answer.doc_id}: no '{question}' to tell its question by")

    def join(
        self, answers: Collection[ScoredAnswer], stand_in: str | None = None, benchmark: Benchmark | None = None
    ) -> Scores:
        """Read the answers as the benchmark says, and join those of complete units.

        Of several kinds of per-document values that nobody chose among, the one that most answers have is taken.

        Args:
            answers: of all variants.
            stand_in: a variant that every document was asked of, where others weren't.
            benchmark: how to read them, where that is known already.

        Raises:
            DataError: answers that can't be read or clustered, no complete unit, or what makes no matrix.
        """
        samples = self._samples(answers)
        benchmark = benchmark or max(
            find_benchmarks(self._of, self._task.config.to_dict(), samples),
            key=lambda one: sum(map(one.measures_it, samples)),
        )
        asked = {sample["doc_id"] for sample in samples}
        with about(self._name):
            measured = benchmark.measured(samples)
        told = [(answer, sample) for answer, sample in zip(answers, samples, strict=True) if answer.doc_id in measured]
        records = self._read(benchmark, told)
        matrix, cells, notes = score_matrix(records, self._name, stand_in)
        if len(measured) < len(asked):
            notes.append(f"{len(asked) - len(measured)} documents without '{benchmark.only_with}' left out")
        notes += count_remarks((variant, record.remark) for _, variant, record in records)
        notes += self._say_shared_images(benchmark, records)
        return Scores(benchmark, matrix, tuple(notes), cells)

    def require_mean(
        self,
        scores: Scores,
        answers: Collection[ScoredAnswer],
        aggregations: Mapping[str, Callable[..., Any]],
        arguments: Any,
    ) -> None:
        """Refuse to take means for the metric of a task that aggregates otherwise and doesn't declare how.

        Args:
            scores: the answers joined.
            answers: the same one by one.
            aggregations: the wrapped task's, by metric.
            arguments: lmms-eval's, which some aggregations want.

        Raises:
            DataError: it aggregates otherwise.
        """
        if not scores.benchmark.assumed:
            return
        headline, first = scores.benchmark.headline, scores.matrix.variants[0]
        aggregate = aggregations[headline.key]
        more = {"args": arguments} if "args" in inspect.signature(aggregate).parameters else {}
        told = [one.values[headline.key] for one in answers if one.variant == first and headline.key in one.values]
        theirs = aggregate(told, **more)
        ours = Units.of(scores.matrix, find_metric(headline.metric)).estimate()[scores.matrix.column(first)]
        if is_number(theirs) and not same_number(float(ours), float(theirs)):
            raise DataError(say_no_mean(headline.key))

    @property
    def _name(self) -> str:
        return str(self._task.config.task)

    def _samples(self, answers: Collection[ScoredAnswer]) -> list[Sample]:
        """Return the answers as lmms-eval logs samples, with the whole document."""
        documents = self._task.eval_docs_no_media
        asked: dict[int, dict[str, Any]] = {}
        for doc_id in dict.fromkeys(one.doc_id for one in answers):
            doc = documents[doc_id]
            asked[doc_id] = {"doc": doc, "doc_id": doc_id, "input": self._task.doc_to_text(doc)}
        return [{**one.values, **asked[one.doc_id], "filtered_resps": one.answer} for one in answers]

    def _read(
        self, benchmark: Benchmark, told: Collection[tuple[ScoredAnswer, Sample]]
    ) -> list[tuple[int, str, Record]]:
        """Read each sample, cluster included; what is wrong is said once, with the number of documents."""
        records: list[tuple[int, str, Record]] = []
        refused: dict[int, str] = {}
        for answer, sample in told:
            try:
                record = benchmark.record(sample)
                cluster = self._cluster(benchmark, answer.doc_id) if record.cluster is None else record.cluster
                record = _with_ending(replace(record, cluster=cluster), answer.ending)
                records.append((answer.doc_id, answer.variant, record))
            except DataError as error:
                refused.setdefault(answer.doc_id, str(error))
        if refused:
            more = f" ({len(refused)} documents have such a problem)" if len(refused) > 1 else ""
            raise DataError(f"{self._name}: {next(iter(refused.values()))}{more}")
        return records

    def _say_shared_images(self, benchmark: Benchmark, records: Collection[tuple[int, str, Record]]) -> list[str]:
        """Say whether questions are about the same image where each stands for itself."""
        alone = all(record.cluster == str(doc_id) for doc_id, _, record in records)
        if not alone or benchmark.cluster_column is not None:
            return []
        return say_shared_images(self._task.eval_docs, {doc_id for doc_id, _, _ in records}, self._of)

    def _cluster(self, benchmark: Benchmark, doc_id: int) -> str:
        """Return what a document's cluster is called where its record doesn't say; samples lack the images."""
        column = benchmark.cluster_column
        names = self._image_names(column) if column is not None else None
        if names is not None:
            return names[doc_id]
        if column is not None and benchmark.needs_clusters:
            raise DataError(f"documents have no '{column}' to cluster them by")
        return str(doc_id)


def _with_ending(record: Record, ending: Ending | None) -> Record:
    if ending is None:
        return record
    cut_off: CutOff = "yes" if ending.cut_off else "no"
    return replace(record, length=ending.tokens, cut_off=cut_off, divergence=ending.divergence)
