"""The format audit: parts that sum to the difference for every metric, and how each benchmark's parser read answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_plam.audit.lengths import count_pieces, ends_sentence, most_tokens, wall
from lmms_plam.audit.parts import KINDS, audit
from lmms_plam.scoring.audits import TaskAudit
from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.scoring.declared import find_benchmarks
from lmms_plam.scoring.mathvista import process_results
from lmms_plam.scoring.reading import stated_letter
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import METRICS, find_metric
from lmms_plam.stats.units import Units

QUICK = Settings(draws=200)
ANSWERS = {"meant": ("yes", "no"), "fallback": ("I know", "nobody"), "not": ("", "well"), "": ("yes", "no")}


def matrix(cells: list[list[tuple[str, str, float]]]) -> ScoreMatrix:
    """Two variants' answers to pairs of documents in three strata; a cell is (read, cut_off, score)."""
    rows = []
    for doc_id, pair in enumerate(cells):
        for variant, (read, cut_off, score) in zip(("base", "merged"), pair, strict=True):
            rows.append(
                {
                    "doc_id": doc_id,
                    "variant": variant,
                    "answer": ANSWERS[read][doc_id % 2],
                    "score": score,
                    "cluster": str(doc_id // 2),
                    "stratum": f"part {doc_id // 2 % 3}",
                    "read": read,
                    "cut_off": cut_off,
                    "length": 3 + doc_id,
                    "question": str(doc_id // 3),
                    "figure": "" if doc_id % 5 == 0 else str(doc_id // 2),
                }
            )
    return ScoreMatrix.from_rows(rows)


cell = st.tuples(st.sampled_from(["meant", "fallback", "not", ""]), st.sampled_from(["yes", "likely", "no", ""]))
scored = st.tuples(cell, st.sampled_from([0.0, 0.5, 1.0])).map(lambda pair: (*pair[0], pair[1]))


@settings(max_examples=60)
@given(
    cells=st.lists(st.tuples(scored, scored).map(list), min_size=6, max_size=16), name=st.sampled_from(list(METRICS))
)
def test_the_parts_sum_to_the_difference_whatever_the_metric(cells, name):
    found_in, metric = matrix(cells), METRICS[name]
    found = audit(found_in, metric, "base", "merged", QUICK)
    base, merged = Units.of(found_in, metric).estimate()
    assert found.total == pytest.approx(merged - base, abs=1e-9)
    assert sum(part.difference.value for part in found.parts) == pytest.approx(merged - base, abs=1e-9)
    assert sum(part.documents for part in found.parts) == len(cells)
    higher = found_in.scores[:, 1] - found_in.scores[:, 0]
    assert sum(part.gained for part in found.parts) == (higher > 0).sum()
    assert sum(part.lost for part in found.parts) == (higher < 0).sum()
    assert [part.kind for part in found.parts] == [kind for kind in KINDS if found.part(kind)]


@settings(max_examples=30)
@given(cells=st.lists(st.tuples(scored, scored).map(list), min_size=6, max_size=16))
def test_of_an_accuracy_a_part_is_its_documents_own_credit(cells):
    found_in = matrix(cells)
    found = audit(found_in, find_metric("macro"), "base", "merged", QUICK)
    sizes = {name: (found_in.strata == name).sum() for name in set(found_in.strata)}
    own = dict.fromkeys(KINDS, 0.0)
    for row, pair in enumerate(cells):
        (read_a, cut_a, a), (read_b, cut_b, b) = pair
        reads = {read_a, read_b}
        if {cut_a, cut_b} & {"yes", "likely"}:
            kind = "cut_off"
        elif "" in reads:
            kind = "unknown"
        elif reads == {"not"}:
            kind = "neither_read"
        elif "not" in reads:
            kind = "one_read"
        else:
            kind = "fallback" if "fallback" in reads else "bare"
        own[kind] += (b - a) / sizes[found_in.strata[row]] / len(sizes)
    for kind, value in own.items():
        part = found.part(kind)
        assert (part.difference.value if part else 0.0) == pytest.approx(value, abs=1e-12), kind


def test_words_around_the_same_letter_are_told_from_bare_letters():
    rows = [
        {"doc_id": doc_id, "variant": variant, "answer": answer, "score": 1.0}
        | {"read": "meant", "cut_off": "no", "length": 2}
        for doc_id, pair in enumerate([("A", "(B)"), ("A", "D: trees"), ("yes.", "no")])
        for variant, answer in zip(("base", "merged"), pair, strict=True)
    ]
    found = audit(ScoreMatrix.from_rows(rows), find_metric("mean"), "base", "merged", QUICK)
    assert {part.kind: part.documents for part in found.parts} == {"bare": 2, "meant": 1}


def test_gained_against_lost_is_tested_where_documents_are_independent():
    gains = [1.0] * 15 + [-1.0] * 6 + [0.0] * 4

    def rows(cluster):
        return [
            {"doc_id": doc_id, "variant": variant, "answer": "A", "score": score, "cluster": cluster(doc_id)}
            | {"read": "meant", "cut_off": "no", "length": 2}
            for doc_id, gain in enumerate(gains)
            for variant, score in (("base", float(gain < 0)), ("merged", float(gain > 0)))
        ]

    alone, paired = (
        audit(ScoreMatrix.from_rows(rows(cluster)), find_metric("mean"), "base", "merged", QUICK).part("bare")
        for cluster in (str, lambda doc_id: str(doc_id // 2))
    )
    assert (alone.gained, alone.lost) == (15, 6)
    assert alone.count_p == pytest.approx(0.0784, abs=5e-5)
    assert paired.count_p is None


def test_what_nobody_knows_is_no_zero():
    plain = ScoreMatrix.from_rows(
        {"doc_id": doc_id, "variant": variant, "score": 1.0} for doc_id in range(4) for variant in ("base", "merged")
    )
    assert audit(plain, find_metric("mean"), "base", "merged") is None
    of_nothing = TaskAudit("mine", "accuracy", True, "base", "merged", 1.0, None)
    assert of_nothing.missing.startswith("mine: format audit not available: nobody kept")
    unread = matrix([[("", "no", 1.0), ("", "no", 0.0)]] * 6)
    found = audit(unread, find_metric("mean"), "base", "merged", QUICK)
    said = TaskAudit("mine", "accuracy", True, "base", "merged", 1.0, found)
    assert "not available: nobody says which answers its scoring can read" in said.missing
    assert not said.warnings
    assert found.sides[0].meant is None
    assert found.sides[0].cut_off == 0


def test_more_than_a_hundredth_cut_off_is_a_warning_with_a_limit_to_set():
    cells = [[("meant", "no", 1.0), ("meant", "yes" if place < 2 else "no", 1.0)] for place in range(100)]
    found = audit(matrix(cells), find_metric("mean"), "base", "merged", QUICK)
    (warning,) = TaskAudit("mine", "accuracy", True, "base", "merged", 1.0, found).warnings
    assert "2.0% of the answers of merged are cut off at 4 new tokens" in warning
    assert "--gen_kwargs max_new_tokens=64" in warning
    rare = [[("meant", "no", 1.0), ("meant", "yes" if place < 1 else "no", 1.0)] for place in range(100)]
    found = audit(matrix(rare), find_metric("mean"), "base", "merged", QUICK)
    assert not TaskAudit("mine", "accuracy", True, "base", "merged", 1.0, found).warnings


def test_how_answers_were_given_and_read_outlives_the_disk(tmp_path):
    cells = [[("meant", "yes", 1.0), ("not", "", 0.0)], [("fallback", "likely", 0.0), ("", "no", 1.0)]]
    before = matrix(cells)
    before.formats.length[0, 1] = np.nan
    before.write(tmp_path / "matrix.parquet")
    after = ScoreMatrix.read(tmp_path / "matrix.parquet")
    for name in ("read", "cut_off"):
        assert getattr(after.formats, name).tolist() == getattr(before.formats, name).tolist()
    np.testing.assert_array_equal(after.formats.length, before.formats.length)
    one = after.select(np.array([False, True])).take([1])
    assert (one.formats.read.tolist(), one.formats.length.tolist()) == ([[""]], [[4.0]])


def test_a_benchmarks_own_column_may_be_called_length(tmp_path):
    rows = [
        {"doc_id": doc_id, "variant": "base", "score": 1.0, "length": f"{doc_id} words", "read": "x", "cut_off": "y"}
        for doc_id in range(3)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    own = ScoreMatrix._pivot(columns | {"answer": [""] * 3, "cluster": list("abc"), "stratum": [""] * 3}, "mine")
    own.write(tmp_path / "matrix.parquet")
    read = ScoreMatrix.read(tmp_path / "matrix.parquet")
    assert read.formats is None
    assert read.columns["length"].tolist() == ["0 words", "1 words", "2 words"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("B", "B"), ("b", "B"), (" B.", "B"), ("(B)", "B"), ("**B**", "B"), ("(B) 7", "B"), ("B: trees", "B")),
        *(("B. A red car", "B"), ("The answer is B.", "B"), ("Answer: (B)", "B"), ("答案是B。", "B"), ("选项：B", "B")),
        *(("They add up.\n\nB", "B"), ("B) it says so", "B"), ("B，因为", "")),
        *(("A red car", ""), ("To find B we", ""), ("", ""), ("Brown", ""), ("The answer is A red car", "")),
    ],
)
def test_the_letter_that_an_answer_plainly_says(answer, letter):
    assert stated_letter(answer) == letter


def choice(prediction: str) -> dict[str, object]:
    row = {"index": 3, "question": "?", "answer": "A", "prediction": prediction, "category": "c"}
    return {"gpt_eval_score": row | {"A": "a red car", "B": "a boat", "C": "nan", "D": "nan"}}


def seed(prediction: str) -> dict[str, object]:
    row = {"pred": prediction.strip()[:1], "answer": "A", "question_id": "1"}
    return {"seedbench_2_plus_Web": row, "seedbench_2_plus_all": row}


def mmmu(prediction: str, kind: str = "multiple-choice") -> dict[str, object]:
    row = {"id": "validation_Art_1", "subdomain": "Art", "question_type": kind, "answer": "B", "parsed_pred": [["B"]]}
    return {"mmmu_acc": row, "doc": {"options": "['a red car', 'the boat']"}}


def mmstar(_: str) -> dict[str, object]:
    row = {"question_id": 1, "l2_category": "geometry", "score": 0.0}
    return {"math": row, "average": row}


def mme(_: str) -> dict[str, object]:
    return {"mme_perception_score": {"question_id": "1.png", "category": "count", "score": 1.0}}


def pope(prediction: str) -> dict[str, object]:
    return {"pope_accuracy": {"question_id": "1", "score": 1.0, "prediction": prediction.lower().strip()}}


def mathvista(prediction: str) -> dict[str, object]:
    doc = {"pid": "1", "question_type": "free_form", "answer_type": "integer", "answer": "7", "choices": None}
    return process_results(doc | {"metadata": {"task": "math word problem"}}, [prediction])


def exact(target: str):
    return lambda _: {"exact_match": 1.0, "target": target}


@pytest.mark.parametrize(
    ("task", "sample", "by_reading"),
    [
        ("mmstar", mmstar, {"meant": ("A", "(D) 7", "D: trees"), "fallback": ("A red car", "To C"), "not": ("Hm", "")}),
        ("mme", mme, {"meant": ("Yes", "no.", "Yes, it is"), "fallback": ("nope", "know"), "not": ("Perhaps",)}),
        ("pope", pope, {"meant": ("Yes", "no"), "not": ("Yes.", "Yes, it is", "")}),
        (
            "mmmu_val",
            mmmu,
            {"meant": ("B", "(B)", "B. the boat"), "fallback": ("no idea", "see B for more"), "not": ()},
        ),
        (
            "mmbench_cn_dev_static",
            choice,
            {"meant": ("A", "B.", "A red car.", "答案是B"), "fallback": ("a boat, or so it seems",), "not": ("嗯", "")},
        ),
        ("seedbench_2_plus", seed, {"meant": ("a", "B. 7"), "fallback": ("Dark blue", "A red car"), "not": ("To C",)}),
        ("realworldqa", exact("B"), {"meant": ("B", "(A)"), "fallback": ("A red car",), "not": ("left",)}),
        ("realworldqa", exact("7"), {"meant": ("7", "two lanes"), "not": ("", "there are seven lanes in the picture")}),
        ("gqa", exact("red"), {"meant": ("Red.", "to the left of"), "not": ("", "The colour of the car is red.")}),
        ("textvqa_val", exact("answer"), {"meant": ("stop", "no parking at any time of day"), "not": ("", " ")}),
        (
            "mathvista_testmini_format_static",
            mathvista,
            {"meant": ("7", "The answer is 7."), "fallback": ("So there are 7 of them in all",), "not": ("7 or 8", "")},
        ),
        ("scienceqa_img", exact("B"), {"meant": ("B", "b", "B. soft"), "not": ("(B)", "The answer is B", "")}),
    ],
)
def test_how_a_benchmarks_parser_reads_an_answer(task, sample, by_reading):
    for reading, answers in by_reading.items():
        for answer in answers:
            record = BENCHMARKS[task].record({"doc_id": 1, "filtered_resps": [answer], **sample(answer)})
            assert record.read == reading, (answer, record.read)


def test_a_task_of_the_users_own_says_what_its_scoring_can_read():
    config = {"metric_list": [{"metric": "mine"}], "metadata": {"plam": {"reads": "[a-d]|\\d+"}}}
    samples = [
        {"doc_id": place, "mine": 1.0, "filtered_resps": answer} for place, answer in enumerate(("a ", "ab", ""))
    ]
    (benchmark,) = find_benchmarks("mine", config, samples)
    assert [benchmark.record(sample).read for sample in samples] == ["meant", "not", "not"]
    (unsaid,) = find_benchmarks("mine", {**config, "metadata": {}}, samples)
    assert {unsaid.record(sample).read for sample in samples} == {None}


def test_lengths_of_answers_show_a_limit():
    assert [count_pieces(text) for text in ("A", "(D) 7", "To find the total", "我们已知：\n\n", "")] == [1, 4, 4, 2, 0]
    for text in ("A", "(D) 7", "To find the total", "antidisestablishmentarianism", "我们已知：\n\n"):
        assert count_pieces(text) <= most_tokens(text) <= len(text)
    assert ends_sentence("It is red.")
    assert ends_sentence('He said "no."')
    assert not ends_sentence("To find the")
    assert wall([1] * 90 + [4] * 5) == 4
    assert wall([1] * 90 + [2] * 50) is None, "a letter with a bracket"
    assert wall([1] * 90 + [30]) is None, "a single long answer is no wall"
    assert wall([16, 14, 13, 2, 1]) == 13
    assert wall([]) is None
