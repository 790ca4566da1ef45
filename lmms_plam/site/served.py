"""What an engine answers of an exported recipe, beside what the recipe answers in lmms-eval's own process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmms_plam.errors import DataError, PlamError
from lmms_plam.probes.record import MATRIX
from lmms_plam.report.numbers import decimals
from lmms_plam.report.tables import Table
from lmms_plam.runs.join import join
from lmms_plam.runs.samples import TaskRun
from lmms_plam.scoring.record import Measure
from lmms_plam.scoring.saved import ComparisonRecord, digest_question
from lmms_plam.site.found import Compared, Of, Run, Study
from lmms_plam.site.numbers import MERGED
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

_SERVED = "served"


@dataclass(frozen=True, slots=True)
class Beside:
    """One recipe in process, on the documents that an engine answered, too.

    Attributes:
        untouched: the untouched VLM's score, in the metric's own unit.
        merged: the recipe's.
        asked_alike: how many documents were asked in the same words.
        same_answers: how many were answered alike, blanks at the ends aside.
        better: how many scored more when served.
        worse: how many scored less.
    """

    untouched: float
    merged: float
    asked_alike: int
    same_answers: int
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Served:
    """An engine's answers to one benchmark.

    Attributes:
        model: name of the model config.
        benchmark: the task.
        metric: its headline.
        perfect: the best value of a document.
        score: in the metric's own unit.
        documents: how many were answered, in process too where a comparison asked the benchmark.
        beside: the recipe in process on the same documents; None without such a comparison.
    """

    model: str
    benchmark: str
    metric: str
    perfect: float
    score: float
    documents: int
    beside: Beside | None


def read_served(study: Study) -> tuple[list[Served], list[str]]:
    """Return what was served, and a sentence for each run of it that can't be read."""
    found, trouble = [], []
    for run in study.served:
        for task in run.results.tasks:
            try:
                found.append(_read(run, task, _compared(study, run.model, task)))
            except (PlamError, OSError) as error:
                trouble.append(f"left out: {task}, served of {run.model}: {str(error).removeprefix(f'{task}: ')}")
    return found, trouble


def served_table(found: list[Served]) -> Table | None:
    """Return served and in-process scores side by side; None without any."""
    if not found:
        return None
    unlike = [
        f"{one.benchmark}: {one.documents - one.beside.asked_alike:,} of {one.documents:,} documents of "
        f"{one.model} were served in other words, as lmms-eval chooses prompts by model type"
        for one in found
        if one.beside is not None and one.beside.asked_alike < one.documents
    ]
    return Table(
        title="the exported recipe, served by vLLM",
        columns=(
            "model",
            "benchmark",
            "metric",
            "untouched",
            "merged",
            "served",
            "same answers",
            "better, worse",
            "documents",
        ),
        rows=[_row(one) for one in found],
        notes=(
            "untouched and merged: in lmms-eval's own process, by the comparison of the same documents; served: the"
            " exported folder, by lmms-eval's model type vllm",
            "same answers: as text; better, worse: documents that score more, or less, served than merged in process",
            "vLLM computes by kernels of its own, so that near ties may fall otherwise; where a task doesn't say how"
            " long an answer may be, or ends it at a given text, answers may also end elsewhere",
            *unlike,
        ),
        labels=3,
    ).without_empty_columns()


def _compared(study: Study, model: str, task: str) -> Of[Compared] | None:
    """Return the comparison of what was exported on one benchmark."""
    return next(
        (
            one
            for one in study.comparisons
            if (one.place.model, one.place.benchmark) == (model, task)
            and one.record.saved is not None
            and MERGED in one.record.saved.recipes
        ),
        None,
    )


def _read(run: Run, task: str, compared: Of[Compared] | None) -> Served:
    logged = TaskRun(_SERVED, task, run.file, run.results)
    if not logged.path.is_file():
        raise DataError(f"{logged.path}, its answers, isn't there: run the cell again")
    found = join({_SERVED: logged})
    saved = None if compared is None else compared.record.saved
    headline = found[0].benchmark.headline.key if saved is None else saved.benchmark.headline.key
    joined = next((one for one in found if one.benchmark.headline.key == headline), None)
    if joined is None:
        raise DataError(f"{logged.path} doesn't tell {headline}, which the comparison measures: run the cell again")
    if compared is None or saved is None:
        score = float(_score(joined.matrix, joined.benchmark.headline)[0])
        perfect = joined.benchmark.perfect_answer
        documents = len(joined.matrix.doc_ids)
        return Served(run.model, task, joined.benchmark.headline.key, perfect, score, documents, None)
    matrix = ScoreMatrix.read(compared.place.folder / MATRIX)
    asked = {doc_id: digest_question(example.question, example.target) for doc_id, example in joined.asked.items()}
    return _beside(run.model, task, saved, matrix, joined.matrix, asked)


def _beside(
    model: str, task: str, saved: ComparisonRecord, matrix: ScoreMatrix, served: ScoreMatrix, asked: dict[int, str]
) -> Served:
    both = np.intersect1d(matrix.doc_ids, served.doc_ids)
    if not len(both):
        raise DataError(f"no document was both served and compared in {saved.task}")
    ours, theirs = (one.select(np.isin(one.doc_ids, both)) for one in (matrix, served))
    columns = {"untouched": (ours, ours.column(saved.reference)), MERGED: (ours, ours.column(MERGED))}
    joined = ours.with_variants({**columns, _SERVED: (theirs, 0)})
    headline = saved.benchmark.headline
    untouched, merged, score = map(float, _score(joined, headline))
    change = joined.scores[:, 2] - joined.scores[:, 1]
    if not saved.points_up(headline.key):
        change = -change
    answers = [[str(one).strip() for one in column] for column in joined.answers[:, 1:].T]
    return Served(
        model=model,
        benchmark=task,
        metric=headline.key,
        perfect=saved.perfect_answer,
        score=score,
        documents=len(both),
        beside=Beside(
            untouched=untouched,
            merged=merged,
            asked_alike=sum(saved.asked.get(doc_id) == asked[doc_id] for doc_id in both.tolist()),
            same_answers=sum(map(str.__eq__, *answers)),
            better=int((change > 0).sum()),
            worse=int((change < 0).sum()),
        ),
    )


def _score(matrix: ScoreMatrix, measure: Measure) -> FloatArray:
    return Units.of(matrix, find_metric(measure.metric)).estimate()


def _row(one: Served) -> tuple[str, ...]:
    unit = decimals(one.perfect)
    score = f"{one.score:.{unit}f}"
    beside = one.beside
    if beside is None:
        return (one.model, one.benchmark, one.metric, "", "", score, "", "", f"{one.documents:,}")
    return (
        one.model,
        one.benchmark,
        one.metric,
        f"{beside.untouched:.{unit}f}",
        f"{beside.merged:.{unit}f}",
        score,
        f"{beside.same_answers:,}",
        f"{beside.better:,}, {beside.worse:,}",
        f"{one.documents:,}",
    )
