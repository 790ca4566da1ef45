"""What one logged answer contributes to a benchmark's score, and what a benchmark measures.

A reader takes one logged sample of lmms-eval (or, inside a family task, what `process_results` returned together with
the document under "doc") and returns a Record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, SkipValidation, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from lmms_plam.errors import DataError, first_problem
from lmms_plam.scoring.reading import Reading
from lmms_plam.stats.matrix import ScoreMatrix

Sample = Mapping[str, Any]

CutOff = Literal["yes", "likely", "no"]


@checked_dataclass(frozen=True, slots=True, config=ConfigDict(coerce_numbers_to_str=True))
class Record:
    """What one answer contributes; names may be numbers, and nothing else that isn't text.

    Attributes:
        score: the benchmark's own value of the document, which the matrix checks.
        answer: the answer as scored, for tables of flipped documents and for metrics that read it (POPE).
        question: the question's id, by which two runs are checked to have asked the same; empty where none is logged.
        cluster: what depends on each other shares a name; None for the document by itself.
        stratum: part that the benchmark averages over, `group/part` where only a group counts in some metric.
        size: documents without which the cluster is incomplete.
        columns: further text columns that a metric reads.
        remark: what a reader of the scores must know of this one.
        read: how the benchmark's parser read the answer; None where that isn't known.
        cut_off: whether the limit on new tokens cut it off; None where that isn't known.
        length: its length, in tokens where they were counted; None where nobody did.
        divergence: see `Ending`.
    """

    score: SkipValidation[float]
    answer: str = ""
    question: str = ""
    cluster: str | None = None
    stratum: str = ""
    size: int = 1
    columns: Mapping[str, str] = Field(default_factory=dict)
    remark: str = ""
    read: Reading | None = None
    cut_off: CutOff | None = None
    length: int | None = None
    divergence: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended.

    Attributes:
        tokens: new tokens, the end token included.
        cut_off: whether the limit on new tokens ended it.
        divergence: how far its first token's distribution is from that of the model that all variants start from,
            Kullback-Leibler in nats; None where nobody measured it.
    """

    tokens: int
    cut_off: bool
    divergence: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of the harness's table and the registered metric that equals it.

    Attributes:
        key: the harness's name of the number.
        metric: name of the metric in lmms_plam.stats.metrics.
        group: strata of this group alone count; empty for all.
    """

    key: str
    metric: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How a benchmark's answers are read and measured.

    Attributes:
        read: turns a sample into a record.
        measures: what is measured, the headline first.
        cluster_column: column of the dataset that names (or is) what several questions share, such as their image.
        needs_clusters: so many questions share one that no interval is given without its name.
        questions_per_image: where images are asked about in blocks of so many consecutive question ids, and their
            names aren't logged, the blocks stand for the images.
        assumed: nobody said how the task is aggregated, so that its mean stands only where the harness prints it too.
        perfect_answer: the best value of a document.
        chance: the headline where each answer is chosen at random; None where that isn't known.
        part_columns: columns of the matrix whose every value is measured by itself, too, by the headline's metric.
        only_with: the key without which a sample isn't measured, as a category's metric isn't for other categories.
    """

    read: Callable[[Sample], Record]
    measures: tuple[Measure, ...]
    cluster_column: str | None = None
    needs_clusters: bool = False
    questions_per_image: int | None = None
    assumed: bool = False
    perfect_answer: float = 1.0
    chance: float | None = None
    part_columns: tuple[str, ...] = ()
    only_with: str | None = None

    @property
    def headline(self) -> Measure:
        """The first measure of the whole benchmark."""
        return next(measure for measure in self.measures if not measure.group)

    def measures_it(self, sample: Sample) -> bool:
        """Say whether a sample counts."""
        return self.only_with is None or self.only_with in sample

    def measured(self, samples: Iterable[Sample]) -> set[int]:
        """Return the ids of the documents that count for any of these samples.

        Raises:
            DataError: there is none.
        """
        found = {sample["doc_id"] for sample in samples if self.measures_it(sample)}
        if not found:
            raise DataError(f"no document has '{self.only_with}', which its YAML names as the score")
        return found

    def record(self, sample: Sample) -> Record:
        """Read a sample; its cluster is the image where the document is at hand and questions share images.

        Raises:
            DataError: it isn't what the task logs.
        """
        try:
            record = self.read(sample)
            image = (sample.get("doc") or {}).get(self.cluster_column)
            return record if record.cluster is not None or image is None else replace(record, cluster=image_name(image))
        except DataError:
            raise
        except Exception as error:  # upstream's own parsers are among the readers
            what = first_problem(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
            raise DataError(f"document {sample.get('doc_id')} is not what the task logs ({what})") from error

    def parts(self, matrix: ScoreMatrix) -> list[tuple[Measure, ScoreMatrix]]:
        """Return each measure that has documents, with the part of the matrix that it reads."""
        groups = np.array([stratum.partition("/")[0] for stratum in matrix.strata])
        grouped = [
            (measure, matrix.select((groups == measure.group) | (measure.group == "")))
            for measure in self.measures
            if not measure.group or measure.group in groups
        ]
        metric = self.headline.metric
        return grouped + [
            (Measure(str(value), metric), matrix.select(matrix.columns[column] == value))
            for column in self.part_columns
            for value in dict.fromkeys(matrix.columns[column])
        ]


def image_name(value: Any) -> str:
    """Return a name for an image: its id, or a hash of its contents where the dataset holds only the picture."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):  # undecoded, of a Hugging Face dataset
        return hashlib.sha1(value["bytes"] or str(value["path"]).encode()).hexdigest()
    if isinstance(value, (list, tuple)):
        return hashlib.sha1(" ".join(map(image_name, value)).encode()).hexdigest()
    return hashlib.sha1(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else str(value)


def answer_of(sample: Sample) -> str:
    """Return the answer that was scored, the first where a task asks repeatedly."""
    response = sample.get("filtered_resps", "")
    while isinstance(response, (list, tuple)):
        response = response[0] if response else ""
    return str(response)
