"""One table: how each benchmark's logged answer becomes a score, a cluster and a stratum, and which metrics it has.

A reader takes one logged sample of lmms-eval (or, inside a family task, what `process_results` returned together with
the document under "doc") and returns a Record. The metrics named beside it equal the harness's own on the full sample;
tests hold that. Tasks that aren't in the table: see declared.py.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import ScoreMatrix

Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What one answer contributes.

    Attributes:
        score: the benchmark's own value of the document.
        answer: the answer as scored, for tables of flipped documents and for metrics that read it (POPE).
        question: the question's id, by which two runs are checked to have asked the same; empty where none is logged.
        cluster: what depends on each other shares a name; None for the document by itself.
        stratum: part that the benchmark averages over, `group/part` where only a group counts in some metric.
        size: documents without which the cluster is incomplete.
        columns: further text columns that a metric reads.
        remark: what a reader of the scores must know of this one.
    """

    score: float
    answer: str = ""
    question: str = ""
    cluster: str | None = None
    stratum: str = ""
    size: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


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
        only_with: the key without which a sample isn't measured, as a category's metric isn't for other categories.
    """

    read: Callable[[Sample], Record]
    measures: tuple[Measure, ...]
    cluster_column: str | None = None
    needs_clusters: bool = False
    questions_per_image: int | None = None
    assumed: bool = False
    perfect_answer: float = 1.0
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
        except DataError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, SyntaxError, StopIteration) as error:
            raise DataError(
                f"document {sample.get('doc_id')} is not what the task logs ({type(error).__name__}: {error})"
            ) from error
        image = (sample.get("doc") or {}).get(self.cluster_column)
        return record if record.cluster is not None or image is None else replace(record, cluster=image_name(image))

    def parts(self, matrix: ScoreMatrix) -> list[tuple[Measure, ScoreMatrix]]:
        """Return each measure that has documents, with the part of the matrix that it reads."""
        groups = np.array([stratum.partition("/")[0] for stratum in matrix.strata])
        return [
            (measure, matrix.select((groups == measure.group) | (measure.group == "")))
            for measure in self.measures
            if not measure.group or measure.group in groups
        ]


def score_matrix(records: Collection[tuple[int, str, Record]], source: str) -> tuple[ScoreMatrix, list[str]]:
    """Join what all answers contribute, as far as their clusters are complete.

    Args:
        records: document id, variant and record of each answer; all records name their cluster.
        source: what an error message calls them.

    Returns:
        The matrix, and what to say of the incomplete clusters.

    Raises:
        DataError: there is no complete cluster, or the records make no matrix.
    """
    units = {doc_id: (str(record.cluster), record.size) for doc_id, _, record in records}
    complete, notes = _complete_units(units, source)
    rows = (
        {
            "doc_id": doc_id,
            "variant": variant,
            "answer": record.answer,
            "score": record.score,
            "cluster": record.cluster,
            "stratum": record.stratum,
            **record.columns,
        }
        for doc_id, variant, record in records
        if doc_id in complete
    )
    return ScoreMatrix.from_rows(rows, source), notes


def _complete_units(units: Mapping[int, tuple[str, int]], source: str) -> tuple[set[int], list[str]]:
    """Return the documents whose cluster is complete, given each one's cluster and its least size; and what is not."""
    size = Counter(cluster for cluster, _ in units.values())
    complete = {doc_id for doc_id, (cluster, least) in units.items() if size[cluster] >= least}
    if not complete:
        raise DataError(
            f"{source}: none of the {len(size)} units, each of which is several documents, is complete; raise --limit"
        )
    left_out = len(size) - len({units[doc_id][0] for doc_id in complete})
    notes = [f"{left_out} incomplete units ({len(units) - len(complete)} documents) left out"] if left_out else []
    return complete, notes


def count_remarks(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each variant and remark, given one pair of them for each answer."""
    counts = Counter((variant, remark) for variant, remark in remarks if remark)
    return [f"{variant}: {count} answers {remark}" for (variant, remark), count in counts.items()]


def same_number(ours: float, theirs: float) -> bool:
    """Whether two numbers agree as far as the harness's rounding: some to 5 decimals, percents to 2."""
    return abs(ours - theirs) <= (6e-6 if abs(ours) <= 1 else 6e-3)


def image_name(value: Any) -> str:
    """Return a name for an image: its id, or a hash of its contents where the dataset holds only the picture."""
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, Mapping):  # an undecoded image of a Hugging Face dataset
        return hashlib.sha1(value["bytes"] or str(value["path"]).encode()).hexdigest()
    return hashlib.sha1(value.tobytes()).hexdigest()


def answer_of(sample: Sample) -> str:
    """Return the answer that was scored, the first where a task asks repeatedly."""
    response = sample.get("filtered_resps", "")
    while isinstance(response, (list, tuple)):
        response = response[0] if response else ""
    return str(response)


def _exact_match(sample: Sample) -> Record:
    question = sample.get("submission", {}).get("question_id", "")  # TextVQA logs it there
    return Record(score=sample["exact_match"], answer=answer_of(sample), question=str(question))


def _mmstar(sample: Sample) -> Record:
    row = sample["average"]
    category = next(key for key, value in sample.items() if value == row and key != "average")
    return Record(
        score=row["score"],
        answer=answer_of(sample),
        question=str(row["question_id"]),
        stratum=f"{category}/{row['l2_category']}",
    )


def _mme(sample: Sample) -> Record:
    group = "perception" if "mme_perception_score" in sample else "cognition"
    row = sample[f"mme_{group}_score"]
    pair = f"{row['category']}/{row['question_id']}"
    return Record(
        score=row["score"],
        answer=answer_of(sample),
        question=pair,
        cluster=pair,
        stratum=f"{group}/{row['category']}",
        size=2,
    )


class _Choices(list[str]):
    """Option letters as MMMU's parser takes them. It only ever indexes them to guess, which shows here."""

    GUESS = "(a guess)"

    def __getitem__(self, index: Any) -> Any:
        return self.GUESS


def _mmmu(sample: Sample) -> Record:
    """Score as upstream, except that a guess counts what it is worth: one over the number of options."""
    from lmms_eval.tasks.mmmu.utils import eval_multi_choice, eval_open, parse_multi_choice_response

    row = sample["mmmu_acc"]
    record = Record(score=0.0, answer=answer_of(sample), question=row["id"], stratum=row["subdomain"])
    if row["question_type"] != "multiple-choice":
        return replace(record, score=float(eval_open(row["answer"], row["parsed_pred"][0])))
    options = _mmmu_options(sample)
    parsed = parse_multi_choice_response(record.answer, _Choices(options), options)
    if parsed == _Choices.GUESS:
        remark = "can't be parsed and count one over the number of options, where the harness guesses"
        return replace(record, score=1 / len(options), remark=remark)
    return replace(record, score=float(eval_multi_choice(row["answer"], parsed)))


def _mmmu_options(sample: Sample) -> dict[str, str]:
    """Return the options by letter, from the document or else from the prompt's lines `A. ...`."""
    if "doc" in sample:
        texts = ast.literal_eval(sample["doc"]["options"])
        return {chr(ord("A") + place): text for place, text in enumerate(texts)}
    lines = re.findall(r"^([A-Z])\. (.*)$", str(sample.get("input", "")), flags=re.MULTILINE)
    start = max((place for place, (letter, _) in enumerate(lines) if letter == "A"), default=len(lines))
    options = {}
    for place, (letter, text) in enumerate(lines[start:]):
        if letter == chr(ord("A") + place):
            options[letter] = text
    if len(options) < 2:
        raise DataError(
            f"mmmu: document {sample.get('doc_id')}: the logged prompt lists no options, so a guessed answer can't be"
            " told from a chosen one"
        )
    return options


def _mmbench(sample: Sample) -> Record:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    row = {**sample["gpt_eval_score"], "prediction": str(sample["gpt_eval_score"]["prediction"])}
    evaluator = _mmbench_evaluator()
    options = sorted(evaluator.build_choices(row))
    chosen = evaluator.prefetch_answer(row) or extract_mcq_answer(row["prediction"], choices=options)
    return Record(
        score=float(chosen == row["answer"]),
        answer=answer_of(sample),
        question=str(row["index"]),
        cluster=str(int(row["index"]) % 1_000_000),
        stratum=str(row["category"]),
        size=sum(row[letter] != "nan" for letter in options),
    )


@lru_cache(maxsize=1)
def _mmbench_evaluator() -> Any:
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator()


def _pope(sample: Sample) -> Record:
    row = sample["pope_accuracy"]
    return Record(score=row["score"], answer=row["prediction"], question=str(row["question_id"]))


def _hallusion(sample: Sample) -> Record:
    """Score by the judge's verdict where it is logged, else by upstream's rule that looks for a yes."""
    row = sample["aAcc"]
    judged = "correct" in row
    yes = "1" if "yes" in row["model_prediction"].lower() else "0"
    place = f"{row['category']}_{row['subcategory']}_{row['set_id']}"
    unseen = row["category"] == "VS" and str(row["figure_id"]) == "0"
    return Record(
        score=float(row["correct"] if judged else yes == str(row["gt_answer"])),
        answer=row["model_prediction"],
        question=f"{place}_{row['figure_id']}_{row['question_id']}",
        cluster=place,
        stratum=row["category"],
        columns={
            "question": f"{place}_{row['question_id']}",
            "figure": "" if unseen else f"{place}_{row['figure_id']}",
            "scored by": "judge" if judged else "yes/no rule",
        },
        remark="" if judged else "are scored by upstream's yes/no rule, as no judge's verdict was logged",
    )


def _mathvision(sample: Sample) -> Record:
    return Record(score=float(sample["mathvision_standard_eval"]["scores"][0]), answer=answer_of(sample))


_MMSTAR_CATEGORIES = (
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "science & technology",
    "math",
)

_ACCURACY = (Measure("exact_match", "mean"),)

BENCHMARKS: dict[str, Benchmark] = {
    "mmstar": Benchmark(
        _mmstar, (Measure("average", "macro"), *(Measure(name, "macro", name) for name in _MMSTAR_CATEGORIES))
    ),
    "mme": Benchmark(
        _mme,
        (
            Measure("mme_total_score", "mme"),  # the sum, which papers quote and the harness doesn't print
            Measure("mme_perception_score", "mme", "perception"),
            Measure("mme_cognition_score", "mme", "cognition"),
        ),
    ),
    "mmmu_val": Benchmark(_mmmu, (Measure("mmmu_acc", "mean"),)),
    "mmbench_en_dev_static": Benchmark(_mmbench, (Measure("gpt_eval_score", "all_right"),)),
    "realworldqa": Benchmark(_exact_match, _ACCURACY, cluster_column="image"),
    "pope": Benchmark(
        _pope,
        (
            Measure("pope_f1_score", "yes_f1"),
            Measure("pope_accuracy", "mean"),
            Measure("pope_precision", "yes_precision"),
            Measure("pope_recall", "yes_recall"),
        ),
        cluster_column="image_source",
        questions_per_image=6,
    ),
    "gqa": Benchmark(_exact_match, _ACCURACY, cluster_column="imageId", needs_clusters=True),
    "textvqa_val": Benchmark(_exact_match, _ACCURACY, cluster_column="image_id"),
    "scienceqa_img": Benchmark(_exact_match, _ACCURACY, cluster_column="image"),
    "hallusion_bench_image": Benchmark(
        _hallusion,
        (Measure("aAcc", "percent"), Measure("qAcc", "question_right"), Measure("fAcc", "figure_right")),
    ),
    "ai2d": Benchmark(_exact_match, _ACCURACY, cluster_column="image"),
    "mathvision_testmini": Benchmark(_mathvision, (Measure("mathvision_standard_eval", "percent"),)),
}
"""The benchmarks of the papers, by lmms-eval's task name (facts: the tasks' own utils.py, lmms-eval 0.7.3)."""

_SCORED_ALIKE = {
    "mmstar": ("mmstar_qwen", "mmstar_oc"),
    "mmmu_val": ("mmmu_val_qwen",),
    "pope": ("pope_adv", "pope_pop", "pope_random"),
    "gqa": ("gqa_lite",),
    "textvqa_val": ("textvqa_val_lite",),
    "scienceqa_img": ("scienceqa",),
    "ai2d": ("ai2d_lite", "ai2d_no_mask"),
    "mathvision_testmini": ("mathvision_test",),
}
BENCHMARKS |= {other: BENCHMARKS[name] for name, others in _SCORED_ALIKE.items() for other in others}
