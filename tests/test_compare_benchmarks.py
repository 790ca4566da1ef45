"""Our number is the harness's on the full sample, for every benchmark, from what the harness itself logs."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lmms_eval.tasks._task_utils import mmmu_mcq_utils
from lmms_eval.tasks.hallusion_bench import evaluate_hb
from lmms_eval.tasks.mathvision import utils as mathvision
from lmms_eval.tasks.mmbench import en_utils as mmbench
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.mmmu import utils as mmmu
from lmms_eval.tasks.mmstar import utils as mmstar
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.realworldqa import utils as realworldqa
from lmms_eval.tasks.scienceqa import utils as scienceqa
from lmms_eval.tasks.textvqa import utils as textvqa

from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

LETTERS = "ABCD"
SAID = ("{}", "{}.", "({})", "The answer is {}.", "{}: that one", "Perhaps {} or so", "I don't know")


def answer_letter(rng: random.Random, right: str) -> str:
    return rng.choice(SAID).format(rng.choice(right + LETTERS))


def logged(doc: dict[str, Any], answer: str, metrics: dict[str, Any], prompt: str = "") -> dict[str, Any]:
    """Return a sample as it comes back from the harness's JSON Lines."""
    doc_id = doc["doc_id"]
    return json.loads(
        json.dumps(
            {"doc_id": doc_id, "target": "", "filtered_resps": answer, "input": prompt, "doc_hash": "x", **metrics}
        )
    )


def ours(task: str, samples: list[dict[str, Any]]) -> dict[str, float]:
    """Return every measure of a task, from its logged samples alone."""
    benchmark = BENCHMARKS[task]
    rows = []
    for sample in samples:
        record = benchmark.record(sample)
        row = {"doc_id": sample["doc_id"], "variant": "model", "answer": record.answer, "score": record.score}
        cluster = record.cluster if record.cluster is not None else sample["doc_id"]
        rows.append({**row, "cluster": cluster, "stratum": record.stratum, **record.columns})
    matrix = ScoreMatrix.from_rows(rows)
    return {
        measure.key: float(Units.of(part, find_metric(measure.metric)).estimate()[0])
        for measure, part in benchmark.parts(matrix)
    }


def test_mmstar_is_the_mean_over_categories():
    rng = random.Random(1)
    docs = [
        {
            "doc_id": i,
            "index": i,
            "question": "?",
            "answer": rng.choice(LETTERS),
            "category": category,
            "l2_category": part,
        }
        for i, (category, part) in enumerate(
            (category, part)
            for category, parts in mmstar.eval_type_dict.items()
            for part in parts
            for _ in range(rng.randint(3, 9))
        )
    ]
    answers = [answer_letter(rng, doc["answer"]) for doc in docs]
    metrics = [mmstar.mmstar_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    found = ours("mmstar", [logged(*each) for each in zip(docs, answers, metrics, strict=True)])
    for key in ("average", *mmstar.eval_type_dict):
        theirs = mmstar.mmstar_aggregate_results([each[key] for each in metrics if key in each])
        assert found[key] == pytest.approx(theirs, abs=1e-9), key


def test_mme_is_the_sum_over_categories_of_pair_scores():
    rng = random.Random(2)
    categories = [*mme.eval_type_dict["Perception"], *mme.eval_type_dict["Cognition"]]
    docs = [
        {"question_id": f"{category}/{pair}.jpg", "category": category, "question": "?", "answer": answer}
        for category in categories
        for pair in range(rng.randint(2, 8))
        for answer in ("Yes", "No")
    ]
    docs = [{"doc_id": i, **doc} for i, doc in enumerate(docs)]
    answers = [rng.choice([doc["answer"], doc["answer"], "yes", "No.", "nope", "y", "unsure"]) for doc in docs]
    metrics = [mme.mme_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    found = ours("mme", [logged(*each) for each in zip(docs, answers, metrics, strict=True)])
    for key in ("mme_perception_score", "mme_cognition_score"):
        theirs = mme.mme_aggregate_results([each[key] for each in metrics if key in each])
        assert found[key] == pytest.approx(theirs, abs=1e-9), key
    assert found["mme_total_score"] == pytest.approx(found["mme_perception_score"] + found["mme_cognition_score"])


def mmmu_samples(
    said: Callable[[random.Random, dict[str, Any]], str],
) -> tuple[list[dict[str, Any]], Callable[[], float]]:
    """Return logged samples, and a function that scores the same answers once more upstream."""
    rng = random.Random(3)
    docs = []
    for subject in ("Art", "Math", "Accounting", "Computer_Science"):
        for number in range(1, 16):
            doc = {
                "doc_id": len(docs),
                "id": f"validation_{subject}_{number}",
                "question": f"What?\nA. trap <image {number}>",
            }
            if number % 5:
                options = ["a red apple", "12", "3.5", "the method of least squares, as Gauss had it"]
                doc |= {"question_type": "multiple-choice", "options": repr(options), "answer": rng.choice(LETTERS)}
            else:
                doc |= {"question_type": "open", "options": "[]", "answer": rng.choice(["24", "3.75", "oak"])}
            docs.append(doc)
    answers = [said(rng, doc) for doc in docs]

    def run() -> list[dict[str, Any]]:
        return [mmmu.mmmu_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]

    prompts = [mmmu.construct_prompt(doc, "Answer with the letter.", "Answer briefly.") for doc in docs]
    samples = [logged(*each) for each in zip(docs, answers, run(), prompts, strict=True)]
    return samples, lambda: mmmu.mmmu_aggregate_results([each["mmmu_acc"] for each in run()])


def test_mmmu_is_accuracy_where_every_answer_can_be_parsed():
    def said(rng, doc):
        if doc["question_type"] == "open":
            return rng.choice([doc["answer"], "it is 24", "so it is 3.75.", "oak tree", "none"])
        return rng.choice(
            [doc["answer"], "(B)", "C.", "I think that it was the method of least squares, as Gauss had it"]
        )

    samples, theirs = mmmu_samples(said)
    assert ours("mmmu_val", samples)["mmmu_acc"] == pytest.approx(theirs(), abs=6e-6)


def test_mmmu_counts_a_guess_at_its_expected_worth(monkeypatch):
    def said(rng, doc):
        return rng.choice([doc["answer"], "no idea", "none of the above seems right to me here"])

    samples, theirs = mmmu_samples(said)
    scores = []
    for guess in range(4):
        monkeypatch.setattr(mmmu_mcq_utils.random, "choice", lambda choices, guess=guess: choices[guess])
        scores.append(theirs())
    monkeypatch.undo()
    assert max(scores) > min(scores)
    assert ours("mmmu_val", samples)["mmmu_acc"] == pytest.approx(np.mean(scores), abs=2e-5)


def test_mmbench_counts_a_question_only_if_every_rotation_is_right(monkeypatch, tmp_path):
    monkeypatch.setattr(mmbench, "generate_submission_file", lambda name, args: tmp_path / name)
    rng = random.Random(4)
    docs = []
    for question in range(60):
        options = rng.sample(["a cat", "a dog", "two boats", "nothing", "a banana"], rng.choice([2, 3, 4]))
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            doc = {"index": question + 1_000_000 * turn, "question": "?", "hint": "nan", "source": "s", "split": "dev"}
            doc |= {"answer": LETTERS[turned.index(options[0])], "category": f"c{question % 7}", "L2-category": "l"}
            doc |= dict(zip(LETTERS, [*turned, "nan", "nan"][:4], strict=False))
            docs.append(doc)
    rng.shuffle(docs)
    docs = [{"doc_id": i, **doc} for i, doc in enumerate(docs)]
    answers = [
        rng.choice([doc["answer"]] * 9 + [f"{doc['answer']}. {doc[doc['answer']]}", doc[doc["answer"]], "A", "hm"])
        for doc in docs
    ]
    metrics = [mmbench.mmbench_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    theirs = mmbench.mmbench_aggregate_dev_results_static([each["gpt_eval_score"] for each in metrics], None)
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    assert 0 < theirs < 100
    assert ours("mmbench_en_dev_static", samples)["gpt_eval_score"] == pytest.approx(theirs, abs=1e-9)
    records = [BENCHMARKS["mmbench_en_dev_static"].record(sample) for sample in samples]
    rotations = Counter(record.cluster for record in records)
    assert all(record.size == rotations[record.cluster] for record in records)


def test_pope_has_upstreams_recall_that_forgets_other_answers():
    rng = random.Random(5)
    docs = [
        {"doc_id": i, "question_id": str(i + 1), "question": "?", "answer": rng.choice(["yes", "no"])}
        for i in range(300)
    ]
    answers = [rng.choice([doc["answer"], "Yes", "no", "yes.", "maybe"]) for doc in docs]
    metrics = [pope.pope_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    found = ours("pope", [logged(*each) for each in zip(docs, answers, metrics, strict=True)])
    for name in ("accuracy", "precision", "recall", "f1_score"):
        rows = [each[f"pope_{name}"] for each in metrics]
        assert found[f"pope_{name}"] == pytest.approx(getattr(pope, f"pope_aggregate_{name}")(rows), abs=1e-9), name


def hallusion_answers() -> tuple[list[dict[str, Any]], list[str], list[dict[str, Any]]]:
    rng = random.Random(6)
    docs = []
    for category, part, group in itertools.product(("VD", "VS"), ("chart", "map"), range(6)):
        for figure, question in itertools.product(range(rng.randint(1, 3)), range(rng.randint(1, 3))):
            doc = {"category": category, "subcategory": part, "set_id": str(group), "figure_id": str(figure)}
            doc |= {"question_id": str(question), "question": "?", "gt_answer": rng.choice("01"), "visual_input": "1"}
            docs.append({"doc_id": len(docs), **doc, "gt_answer_details": "..."})
    answers = [rng.choice(["Yes, it is.", "No.", "I can't tell", "Not at all"]) for _ in docs]
    metrics = [evaluate_hb.hb_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    return docs, answers, metrics


def test_hallusion_bench_reads_the_judges_verdicts_as_logged(monkeypatch, tmp_path):
    def judge(data, correctness_entry, **_):
        for row in data:
            row[correctness_entry] = "1112200"[row["doc_id"] % 7]  # right, can't tell, wrong
        return data

    monkeypatch.setattr(evaluate_hb, "evaluate_by_chatgpt", judge)
    docs, answers, metrics = hallusion_answers()
    aggregates = {key: getattr(evaluate_hb, f"hb_aggregation_result_{key}") for key in ("aAcc", "qAcc", "fAcc")}
    where = SimpleNamespace(output_path=str(tmp_path))
    theirs = {key: aggregate([each[key] for each in metrics], where) for key, aggregate in aggregates.items()}
    found = ours("hallusion_bench_image", [logged(*each) for each in zip(docs, answers, metrics, strict=True)])
    for key, number in theirs.items():
        assert found[key] == pytest.approx(number, abs=6e-5), key  # upstream rounds to 4 decimals


def test_hallusion_bench_without_a_judge_goes_by_upstreams_rule():
    docs, answers, metrics = hallusion_answers()
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    found = ours("hallusion_bench_image", samples)
    for key in ("aAcc", "qAcc"):
        theirs = getattr(evaluate_hb, f"hb_aggregation_result_{key}_intern")([each[key] for each in metrics])
        assert found[key] == pytest.approx(100 * theirs, abs=1e-9), key
    assert "yes/no rule" in BENCHMARKS["hallusion_bench_image"].record(samples[0]).remark


def test_textvqa_scores_are_shares_of_annotators():
    rng = random.Random(9)
    docs = [
        {
            "doc_id": i,
            "question_id": 100 + i,
            "question": "?",
            "answers": rng.choices(["one", "two", "1", "ONE", ""], k=10),
        }
        for i in range(80)
    ]
    answers = [rng.choice(["one", "Two", "one.", "three", ""]) for _ in docs]
    metrics = [
        textvqa.textvqa_process_results({**doc, "answers": list(doc["answers"])}, [answer])
        for doc, answer in zip(docs, answers, strict=True)
    ]
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    theirs = np.mean([each["exact_match"] for each in metrics])
    assert ours("textvqa_val", samples)["exact_match"] == pytest.approx(theirs, abs=1e-9)
    assert BENCHMARKS["textvqa_val"].record(samples[3]).question == "103"


def test_plain_accuracies_are_means():
    rng = random.Random(10)
    docs = [{"doc_id": i, "answer": rng.randrange(4), "choices": list("wxyz")} for i in range(60)]
    answers = [answer_letter(rng, LETTERS[doc["answer"]]) for doc in docs]
    metrics = [scienceqa.sqa_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    assert ours("scienceqa_img", samples)["exact_match"] == np.mean([each["exact_match"] for each in metrics])
    docs = [{"doc_id": i, "answer": rng.choice(["A", "B", "7"])} for i in range(60)]
    answers = [rng.choice(["A", "(B)", "7.", "8"]) for _ in docs]
    metrics = [
        realworldqa.realworldqa_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)
    ]
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    found = [ours(task, samples)["exact_match"] for task in ("realworldqa", "gqa", "ai2d")]
    assert found == [np.mean([each["exact_match"] for each in metrics])] * 3


def test_mathvision_is_in_percent():
    rng = random.Random(11)
    docs = [{"doc_id": i, "answer": rng.choice(["A", "B"]), "options": ["3", "4"]} for i in range(40)]
    answers = [rng.choice(["\\boxed{A}", "\\boxed{4}", "the answer is 3", "none"]) for _ in docs]
    metrics = [mathvision.mathvision_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    theirs = mathvision.mathvision_aggregate_results_eval([each["mathvision_standard_eval"] for each in metrics])
    samples = [logged(*each) for each in zip(docs, answers, metrics, strict=True)]
    assert 0 < theirs < 100
    assert ours("mathvision_testmini", samples)["mathvision_standard_eval"] == pytest.approx(theirs, abs=6e-3)
