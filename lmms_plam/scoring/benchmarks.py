"""One table: how each benchmark's logged answer becomes a score, a cluster and a stratum, and which metrics it has.

The metrics named beside a reader equal the harness's own on the full sample; tests hold that. Tasks that aren't in the
table: see declared.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from lmms_plam.errors import DataError
from lmms_plam.scoring.mathvista import REMARKS
from lmms_plam.scoring.reading import Reading, read_any, read_letter, read_phrase, read_yes_no
from lmms_plam.scoring.record import Benchmark, Measure, Record, Sample, answer_of


def _exact_match(read: Callable[[Sample, str], Reading | None]) -> Callable[[Sample], Record]:
    """Return the reader of a benchmark that is scored by exact match, given how its parser reads an answer."""

    def reader(sample: Sample) -> Record:
        question = sample.get("submission", {}).get("question_id", "")  # TextVQA logs it there
        answer = answer_of(sample)
        return Record(score=sample["exact_match"], answer=answer, question=question, read=read(sample, answer))

    return reader


def _find_letter(answer: str) -> str:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    return str(extract_mcq_answer(answer, choices=list("ABCD")))


def _read_realworldqa(sample: Sample, answer: str) -> Reading:
    target = str((sample.get("doc") or {}).get("answer", sample.get("target", ""))).strip().upper()
    return read_letter(answer, _find_letter(answer)) if target in tuple("ABCD") else read_phrase(answer)


def _read_alone(sample: Sample, answer: str) -> Reading:
    """As ScienceQA and AI2D read: the letter alone, or first and with a period."""
    match = re.fullmatch(r"\s*([A-Za-z])\s*\.?|\s*([A-Z])\..*", answer, flags=re.DOTALL)
    return "meant" if match else "not"


def _mmstar(sample: Sample) -> Record:
    row = sample["average"]
    category = next(key for key, value in sample.items() if value == row and key != "average")
    answer = answer_of(sample)
    return Record(
        score=row["score"],
        answer=answer,
        read=read_letter(answer, _find_letter(answer)),
        question=row["question_id"],
        stratum="/".join((category, row["l2_category"])),
    )


def _mme(sample: Sample) -> Record:
    from lmms_eval.tasks.mme.utils import parse_pred_ans

    answer = answer_of(sample)
    group = "perception" if "mme_perception_score" in sample else "cognition"
    row = sample[f"mme_{group}_score"]
    pair = "/".join((row["category"], row["question_id"]))
    return Record(
        score=row["score"],
        answer=answer,
        read=read_yes_no(answer, parse_pred_ans(answer)),
        question=pair,
        cluster=pair,
        stratum="/".join((group, row["category"])),
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
        return replace(
            record, score=float(eval_open(row["answer"], row["parsed_pred"][0])), read=read_any(record.answer)
        )
    options = _mmmu_options(sample)
    parsed = parse_multi_choice_response(record.answer, _Choices(options), options)
    if parsed == _Choices.GUESS:
        remark = "can't be parsed and count one over the number of options, where the harness guesses"
        return replace(record, score=1 / len(options), remark=remark, read="fallback")
    read = read_letter(record.answer, parsed, options[parsed])
    return replace(record, score=float(eval_multi_choice(row["answer"], parsed)), read=read)


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
        read=read_letter(row["prediction"], chosen, str(row.get(chosen, ""))),
        question=row["index"],
        cluster=str(int(row["index"]) % 1_000_000),
        stratum=row["category"],
        size=sum(row[letter] != "nan" for letter in options),
    )


@lru_cache(maxsize=1)
def _mmbench_evaluator() -> Any:
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator()


def _mmbench_judged(sample: Sample) -> Record:
    """Read as the static tasks read: what upstream would ask a judge about, its static extractor decides."""
    record = _mmbench(sample)
    row = sample["gpt_eval_score"]
    if _mmbench_evaluator().prefetch_answer({**row, "prediction": str(row["prediction"])}):
        return record
    return replace(record, remark="are read by upstream's static extractor, where the task would ask a judge")


_SEED_KIND = "seedbench_2_plus_"


def _seed_2_plus(sample: Sample) -> Record:
    """Score the answer's first character, as upstream does; the stratum is the kind of picture."""
    row = sample[f"{_SEED_KIND}all"]
    kind = next(key for key in sample if key.startswith(_SEED_KIND) and key != f"{_SEED_KIND}all")
    answer, found = answer_of(sample), row["pred"].strip().upper()
    return Record(
        score=float(row["pred"].lower().strip() == row["answer"].lower().strip()),
        answer=answer,
        read=read_letter(answer, found if found in tuple("ABCD") else ""),
        question=row["question_id"],
        stratum=kind.removeprefix(_SEED_KIND),
    )


def _pope(sample: Sample) -> Record:
    row = sample["pope_accuracy"]
    read: Reading = "meant" if row["prediction"] in ("yes", "no") else "not"
    return Record(score=row["score"], answer=row["prediction"], question=row["question_id"], read=read)


def _hallusion(sample: Sample) -> Record:
    """Score by the judge's verdict where it is logged, else by upstream's rule that looks for a yes."""
    row = sample["aAcc"]
    judged = "correct" in row
    yes = "1" if "yes" in row["model_prediction"].lower() else "0"
    place = "_".join((row["category"], row["subcategory"], row["set_id"]))
    unseen = row["category"] == "VS" and str(row["figure_id"]) == "0"
    found = "yes" if yes == "1" else "no"  # whatever holds no yes is a no
    return Record(
        score=float(row["correct"] if judged else yes == str(row["gt_answer"])),
        answer=row["model_prediction"],
        read=None if judged else read_yes_no(row["model_prediction"], found),
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
    """Score as upstream's rules do; the stratum is the subject, where the document is at hand."""
    answer = answer_of(sample)
    read: Reading = "meant" if "oxed{" in answer else "fallback" if answer.strip() else "not"
    return Record(
        score=float(sample["mathvision_standard_eval"]["scores"][0]),
        answer=answer,
        read=read,
        stratum=(sample.get("doc") or {}).get("subject", ""),
    )


def _mathvista(sample: Sample) -> Record:
    row = sample["accuracy"]
    return Record(
        score=row["score"],
        answer=answer_of(sample),
        read=row["read"],
        question=row["question_id"],
        stratum=row["task"],
        remark=REMARKS[row["rule"]],
    )


def _mathvista_judged(sample: Sample) -> Record:
    """Score by the verdict that upstream logged; which answers its judge read isn't.

    Where the judge can't be reached, upstream logs an empty extraction and counts it as wrong.
    """
    row, answer = sample["llm_as_judge_eval"], answer_of(sample)
    if answer.strip() and not row["extraction"]:
        raise DataError(f"mathvista: document {sample.get('doc_id')}: the judge was asked and gave no answer")
    return Record(
        score=float(row["true_false"]),
        answer=answer,
        question=row["question_id"],
        stratum=row.get("metadata", row)["task"],  # upstream's aggregation moves what metadata holds
    )


_MMSTAR_CATEGORIES = (
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "science & technology",
    "math",
)

_ACCURACY = (Measure("exact_match", "mean"),)


def _winoground(sample: Sample) -> Record:
    """Keep text and image score as words of the answer, which the three metrics read."""
    won = [name for name in ("text", "image") if sample[name]["score"]]
    row = sample["text"]
    return Record(
        score=row["score"], answer=" ".join(won), read="meant", question=row["question_id"], cluster=row["question_id"]
    )


BENCHMARKS: dict[str, Benchmark] = {
    "mmstar": Benchmark(
        _mmstar,
        (Measure("average", "macro"), *(Measure(name, "macro", name) for name in _MMSTAR_CATEGORIES)),
        chance=0.25,  # of all but two of its 1,500 questions the options are four
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
    **dict.fromkeys(
        ("mmbench_en_dev", "mmbench_cn_cc"), Benchmark(_mmbench_judged, (Measure("gpt_eval_score", "all_right"),))
    ),
    "seedbench_2_plus": Benchmark(
        _seed_2_plus,
        (
            Measure(f"{_SEED_KIND}all", "mean"),
            *(Measure(f"{_SEED_KIND}{kind}", "mean", kind) for kind in ("Chart", "Map", "Web")),
        ),
        chance=0.25,
        cluster_column="image",
    ),
    "realworldqa": Benchmark(_exact_match(_read_realworldqa), _ACCURACY, cluster_column="image"),
    "pope": Benchmark(
        _pope,
        (
            Measure("pope_f1_score", "yes_f1"),
            Measure("pope_accuracy", "mean"),
            Measure("pope_precision", "yes_precision"),
            Measure("pope_recall", "yes_recall"),
        ),
        chance=0.5,
        cluster_column="image_source",
        questions_per_image=6,
    ),
    "gqa": Benchmark(
        _exact_match(lambda _, answer: read_phrase(answer)), _ACCURACY, cluster_column="imageId", needs_clusters=True
    ),
    "textvqa_val": Benchmark(_exact_match(lambda _, answer: read_any(answer)), _ACCURACY, cluster_column="image_id"),
    "scienceqa_img": Benchmark(_exact_match(_read_alone), _ACCURACY, cluster_column="image"),
    "hallusion_bench_image": Benchmark(
        _hallusion,
        (Measure("aAcc", "percent"), Measure("qAcc", "question_right"), Measure("fAcc", "figure_right")),
    ),
    "ai2d": Benchmark(_exact_match(_read_alone), _ACCURACY, cluster_column="image"),
    "mathvision_testmini": Benchmark(
        _mathvision, (Measure("mathvision_standard_eval", "percent"),), cluster_column="decoded_image"
    ),
    "mathvista_testmini_format_static": Benchmark(
        _mathvista, (Measure("accuracy", "percent"),), cluster_column="decoded_image"
    ),
    "mathvista_testmini_format": Benchmark(
        _mathvista_judged, (Measure("llm_as_judge_eval", "percent"),), cluster_column="decoded_image"
    ),
    "plam_winoground": Benchmark(
        _winoground,
        tuple(Measure(name, f"winoground_{name}") for name in ("text", "image", "group")),
        chance=0.25,
    ),
}
"""The benchmarks of the papers, by lmms-eval's task name (facts: the tasks' own utils.py, lmms-eval 0.7.3)."""

_SCORED_ALIKE = {
    "mmstar": ("mmstar_qwen", "mmstar_oc"),
    "mmmu_val": ("mmmu_val_qwen",),
    "mmbench_en_dev_static": ("mmbench_cn_dev_static",),
    "mmbench_en_dev": ("mmbench_cn_dev", "mmbench_ru_dev", "mmbench_ko_dev"),
    "pope": ("pope_adv", "pope_pop", "pope_random"),
    "gqa": ("gqa_lite",),
    "textvqa_val": ("textvqa_val_lite",),
    "scienceqa_img": ("scienceqa",),
    "ai2d": ("ai2d_lite", "ai2d_no_mask"),
    "mathvision_testmini": ("mathvision_test",),
    "mathvista_testmini_format_static": ("mathvista_testmini_cot_static", "mathvista_testmini_solution_static"),
    "mathvista_testmini_format": ("mathvista_testmini_cot", "mathvista_testmini_solution"),
}
BENCHMARKS |= {other: BENCHMARKS[name] for name, others in _SCORED_ALIKE.items() for other in others}
