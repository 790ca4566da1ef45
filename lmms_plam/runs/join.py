"""Joining runs of one task into a score matrix: the same documents, asked the same, or a reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lmms_plam.errors import DataError, about
from lmms_plam.runs.endings import Endings, read_endings
from lmms_plam.runs.samples import TaskRun, read_samples
from lmms_plam.scoring.declared import find_benchmarks, say_no_mean
from lmms_plam.scoring.examples import Example
from lmms_plam.scoring.images import cached_documents, image_names, say_shared_images
from lmms_plam.scoring.record import Benchmark, Measure, Record, Sample
from lmms_plam.scoring.units import count_remarks, same_number, score_matrix
from lmms_plam.stats.comparison import Analysis, Settings
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix
from lmms_plam.stats.metrics import find_metric

Clusters = Mapping[int, str]
"""The cluster of each document id."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Answers of several runs to the same documents.

    Attributes:
        task: the task's name.
        benchmark: how it was read.
        matrix: scores, one variant a run.
        asked: by document id, what the runs were asked.
        left_out: documents that some run answered and the matrix lacks.
        notes: what a reader must know: why documents were left out, which clusters had to be assumed.
        about_formats: what a reader of a format audit must know.
    """

    task: str
    benchmark: Benchmark
    matrix: ScoreMatrix
    asked: Mapping[int, Example]
    left_out: int
    notes: tuple[str, ...]
    about_formats: tuple[str, ...] = ()

    def measures(self) -> list[tuple[Measure, ScoreMatrix]]:
        """Return each measure that has documents, with the part of the matrix that it reads."""
        return self.benchmark.parts(self.matrix)

    def analyse(self, measure: Measure, part: ScoreMatrix, settings: Settings) -> Analysis:
        """Resample one of `measures`.

        Raises:
            DataError: the metric can't be had of these documents.
        """
        with about(self.task):
            return Analysis.of(part, find_metric(measure.metric), settings)

    def examples(self, doc_ids: Iterable[int]) -> list[Example]:
        """Return what a reader can see of documents; their images aren't logged."""
        return [self.asked[doc_id] for doc_id in doc_ids]

    def unlike_harness(self, measure: Measure, ours: FloatArray, runs: Mapping[str, TaskRun]) -> list[str]:
        """Say where the harness printed another number for the same documents.

        Args:
            measure: one of `measures`.
            ours: (n_variants,) its values here.
            runs: the runs that were joined.
        """
        said = []
        for (name, run), own in zip(runs.items(), map(float, ours), strict=True):
            theirs = run.told.scores.get(measure.key, own)
            if not self.left_out and not same_number(own, theirs):
                said.append(f"{name}: the harness printed {theirs:.6g} as {measure.key}, and here it is {own:.6g}")
        return said


def join(runs: Mapping[str, TaskRun], clusters: Clusters | None = None, *, intersection: bool = False) -> list[Joined]:
    """Join runs of one task by document id.

    Args:
        runs: the runs by the name that each gets in the matrix, all of one task.
        clusters: what depends on each other, where the user knows better than the logged samples.
        intersection: take the documents that all runs were asked alike, instead of refusing different ones.

    Returns:
        One for each kind of per-document value; nearly every task has one.

    Raises:
        DataError: task versions, documents, questions, targets or prompts differ, a sample can't be read, or nobody
            said how a task is aggregated whose scores aren't means.
    """
    first = next(iter(runs.values()))
    versions = {run.told.version for run in runs.values()}
    if len(versions) > 1:
        raise DataError(
            f"{first.task}: the runs used different versions of the task ({', '.join(sorted(versions))});"
            " run one of them again"
        )
    samples = {name: read_samples(run) for name, run in runs.items()}
    asked = len({doc_id for by_id in samples.values() for doc_id in by_id})
    doc_ids = _asked_alike(first.task, samples, intersection)
    notes = []
    if len(doc_ids) < asked:
        notes.append(f"{asked - len(doc_ids)} of {asked} documents left out, which not all runs were asked alike")
    endings, about_formats = read_endings(runs, samples)
    found, unclear = [], []
    asked_alike = next(iter(samples.values()))
    examples = [by_id[doc_id] for by_id in samples.values() for doc_id in doc_ids]
    for benchmark in find_benchmarks(first.task, first.told.config, examples):
        with about(first.task):
            measured = sorted(benchmark.measured(examples))
        records = {name: _records(benchmark, samples[name], measured, run, endings[name]) for name, run in runs.items()}
        shown = {
            doc_id: Example(doc_id, *(str(asked_alike[doc_id].get(key, "")) for key in ("input", "target")))
            for doc_id in measured
        }
        joined = _join_records(first, benchmark, records, shown, clusters, asked - len(doc_ids), notes)
        joined = replace(joined, about_formats=about_formats)
        if benchmark.assumed and joined.unlike_harness(benchmark.headline, joined.matrix.scores.mean(axis=0), runs):
            unclear.append(benchmark.headline.key)
        else:
            found.append(joined)
    if not unclear:
        return found
    why = say_no_mean(*unclear)
    if not found:
        raise DataError(f"{first.task}: {why}")
    return [replace(joined, notes=(*joined.notes, f"not compared: {why}")) for joined in found]


def _asked_alike(task: str, samples: Mapping[str, Mapping[int, Sample]], intersection: bool) -> list[int]:
    """Return the documents that every run was asked with the same prompt and target; refuse or leave out others."""
    shared = sorted(set.intersection(*(set(by_id) for by_id in samples.values())))
    if any(len(by_id) > len(shared) for by_id in samples.values()) and not intersection:
        sizes = ", ".join(f"{name}: {len(by_id)}" for name, by_id in samples.items())
        raise DataError(
            f"{task}: the runs answered different documents ({sizes}; {len(shared)} in common);"
            " --intersection compares those in common"
        )
    alike = []
    for doc_id in shared:
        differing = [
            field
            for field in ("target", "input")
            if len({str(by_id[doc_id].get(field)) for by_id in samples.values()}) > 1
        ]
        if not differing:
            alike.append(doc_id)
        elif not intersection:
            what = "have different targets" if "target" in differing else "were asked with different prompts"
            raise DataError(
                f"{task}: the runs {what} for document {doc_id};"
                " --intersection compares the documents that were asked alike"
            )
    if not alike:
        raise DataError(
            f"{task}: the runs have no document in common that was asked alike; run one of them again, with the other's"
            " prompts and --limit"
        )
    return alike


def _records(
    benchmark: Benchmark, samples: Mapping[int, Sample], doc_ids: Iterable[int], run: TaskRun, endings: Endings
) -> dict[int, Record]:
    with about(str(run.path)):
        records = {doc_id: benchmark.record(samples[doc_id]) for doc_id in doc_ids}
    return {
        doc_id: replace(record, length=endings[doc_id].length, cut_off=endings[doc_id].cut_off)
        for doc_id, record in records.items()
    }


def _join_records(
    run: TaskRun,
    benchmark: Benchmark,
    records: Mapping[str, Mapping[int, Record]],
    asked: Mapping[int, Example],
    clusters: Clusters | None,
    left_out: int,
    notes: Sequence[str],
) -> Joined:
    one = next(iter(records.values()))
    for doc_id in one:
        if len({by_id[doc_id].question for by_id in records.values()}) > 1:
            raise DataError(f"{run.task}: document {doc_id} is not the same question in each run")
    cluster, about_clusters = _clusters(run, benchmark, one, clusters)
    answers = [
        (doc_id, name, replace(record, cluster=cluster[doc_id]))
        for name, by_id in records.items()
        for doc_id, record in by_id.items()
    ]
    matrix, _, about_units = score_matrix(answers, run.task)
    remarks = count_remarks((name, record.remark) for _, name, record in answers)
    return Joined(
        run.task,
        benchmark,
        matrix,
        asked,
        left_out + len(one) - len(matrix.doc_ids),
        (*notes, *about_clusters, *remarks, *about_units),
    )


def _clusters(
    run: TaskRun, benchmark: Benchmark, records: Mapping[int, Record], stated: Clusters | None
) -> tuple[Clusters, list[str]]:
    """Return each document's cluster from the best source there is, and what to say about it."""
    if stated is not None:
        if any(record.size > 1 for record in records.values()):
            raise DataError(f"{run.task}: its metric says which documents belong together, so leave out --clusters")
        missing = [doc_id for doc_id in records if doc_id not in stated]
        if missing:
            raise DataError(f"{run.task}: the stated clusters lack {len(missing)} documents, the first is {missing[0]}")
        return stated, []
    if all(record.cluster is not None for record in records.values()):
        return {doc_id: str(record.cluster) for doc_id, record in records.items()}, []
    alone = {doc_id: str(doc_id) for doc_id in records}
    documents = cached_documents(run.told.config)
    if documents is not None and not max(records) < len(documents) == (run.documents or len(documents)):
        documents = None  # others than were asked
    if benchmark.cluster_column is None:
        return alone, [] if documents is None else say_shared_images(documents, records, run.task)
    names = None if documents is None else image_names(documents, benchmark.cluster_column)
    if names is not None:
        return {doc_id: names[doc_id] for doc_id in records}, []
    block = benchmark.questions_per_image
    if block and all(record.question.isdecimal() for record in records.values()):
        assumed = {doc_id: str((int(record.question) - 1) // block) for doc_id, record in records.items()}
        return assumed, [f"image names aren't logged; each {block} consecutive question ids are taken for one image"]
    hint = f"give them with --clusters {run.task}=FILE, or run where the dataset is cached"
    if benchmark.needs_clusters:
        return dict.fromkeys(records, "all"), [
            f"no interval: many questions share a cluster ('{benchmark.cluster_column}') and its name isn't logged;"
            f" {hint}"
        ]
    return alone, [
        "questions about one image are taken as independent, as image names aren't logged, which can make the interval"
        f" too narrow; {hint}"
    ]
