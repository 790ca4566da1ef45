"""MathVista without a judge: upstream's prompts and documents, and rules that say what they can't decide."""

from __future__ import annotations

import ast
import re
import sys

import benchmark_tables as tables
import pytest
from family_folders import of_model
from hypothesis import given
from hypothesis import strategies as st
from test_harness_runs import config_file, evaluate, task_manager
from upstream_mathvista import edits, upstream_mathvista

from lmms_plam.errors import DataError, UnsupportedError
from lmms_plam.harness import host
from lmms_plam.scoring.benchmarks import BENCHMARKS
from lmms_plam.scoring.mathvista import REMARKS, accuracy, doc_to_text, extract, is_right, process_results
from lmms_plam.scoring.units import count_remarks
from lmms_plam.stats.matrix import ScoreMatrix

DOCUMENTS = list(tables.mathvista.documents())
FORMS = {"cot": "step-by-step", "solution": "solution", "format": "format-prompt"}
COLOURS = ["red", "blue", "dark red", "5.2"]


@pytest.fixture(scope="module")
def upstream():
    with upstream_mathvista() as utils:
        yield utils


def choice(choices=COLOURS, answer="blue"):
    return {"question_type": "multi_choice", "answer_type": "text", "choices": choices, "answer": answer}


def free(kind, answer="14", precision=None):
    asked = {"question_type": "free_form", "answer_type": kind, "choices": None}
    return asked | {"answer": answer, "precision": precision}


@pytest.mark.parametrize("form", FORMS.values())
def test_the_prompts_are_upstreams_word_for_word(upstream, form):
    given = {"shot_type": form, "shot": 0, "use_caption": False, "use_ocr": False}
    for doc in DOCUMENTS:
        assert doc_to_text(doc, given) == upstream.mathvista_doc_to_text(doc, given)


@pytest.mark.parametrize("name", FORMS)
def test_a_static_task_is_upstreams_but_for_who_reads_the_answers(upstream, name, monkeypatch):
    monkeypatch.setattr(host, "_manager", task_manager(None))
    ours, theirs = map(host.task_config, (f"mathvista_testmini_{name}_static", f"mathvista_testmini_{name}"))
    for key in ("dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_target", "generation_kwargs"):
        assert ours[key] == theirs[key]
    assert ours["lmms_eval_specific_kwargs"] == theirs["lmms_eval_specific_kwargs"]
    assert host.find_tasks(["mathvista_testmini_static"], host._manager) == [
        f"{task}_static" for task in host.find_tasks(["mathvista_testmini"], host._manager)
    ]


def test_a_precision_without_words_is_refused_by_the_question():
    doc = DOCUMENTS[3] | {"precision": 3.0}
    with pytest.raises(DataError, match="question 4: MathVista's prompt has words for 1 or 2 decimals, not 3"):
        doc_to_text(doc, {"shot_type": "solution"})


@pytest.mark.parametrize(
    ("doc", "answer", "found", "rule", "read"),
    [
        (choice(), "B", "blue", "letter", "meant"),
        (choice(), "(c)", "dark red", "letter", "meant"),
        (choice(), "B. blue", "blue", "letter", "meant"),
        (choice(), "A red car and a blue one.\nThe answer is **B**.", "blue", "letter", "meant"),
        (choice(), "Not A.\nSo the answer is A? No: the answer is (B) blue.", "blue", "letter", "meant"),
        (choice(), "Thus \\boxed{\\text{C}}", "dark red", "letter", "meant"),
        (choice(), "Dark red.", "dark red", "words", "meant"),
        (choice(), "Answer: 5.2", "5.2", "words", "meant"),
        (choice(), "I see that it is blue here.", "blue", "words", "fallback"),
        (choice(), "The car is dark red.", None, "undecided", "not"),  # which holds two options
        (choice(), "It is reddish, 15.2 in all.", None, "undecided", "not"),
        (choice(), "E", None, "undecided", "not"),
        (choice(["-5", "5"], "5"), "-5", "-5", "words", "meant"),
        (choice(["Yes", "No"], "No"), "No, there is nothing", "No", "words", "fallback"),
        (choice(), "", None, "undecided", "not"),
        (free("integer"), "14", "14", "number", "meant"),
        (free("integer"), "14 circles.", "14", "number", "meant"),
        (free("integer"), "-3", "-3", "number", "meant"),
        (free("integer"), "1,234", "1234", "number", "meant"),
        (free("integer"), "7 + 7 = 14", "14", "number", "meant"),
        (free("integer"), "7 and 7.\nThe answer is 7 + 7 = 14.", "14", "number", "meant"),
        (free("integer"), "The answer is $\\boxed{14}$ as 2 x 7 shows", "14", "number", "meant"),
        (free("integer"), "The answer is 14, since 7 and 7 are", "14", "number", "meant"),
        (free("integer"), "There are 2 rows of 7.\nSo there must be 14 of them.", "14", "number", "fallback"),
        (free("integer"), "There are 7 or 14 of them in it.", None, "undecided", "not"),
        (free("integer"), "1/2", None, "undecided", "not"),
        (free("integer"), "1,2,3", None, "undecided", "not"),
        (free("integer"), "fourteen", None, "undecided", "not"),
        (free("float"), "$13.10", "13.10", "number", "meant"),
        (free("float"), ".5", ".5", "number", "meant"),
        (free("list"), "[0, 5]", "[0, 5]", "list", "meant"),
        (free("list"), "The answer is [0,5].", "[0,5]", "list", "meant"),
        (free("list"), "From [1, 2] on.\nWe get to [0, 5] then", "[0, 5]", "list", "fallback"),
        (free("list"), "[1, 2] or [0, 5]", None, "undecided", "not"),
        (free("list"), "[a, b]", None, "undecided", "not"),
    ],
)
def test_a_rule_takes_what_an_answer_says_and_no_more(doc, answer, found, rule, read):
    extraction = extract(answer, doc)
    assert (extraction.found, extraction.rule, extraction.read) == (found, rule, read)


def upstreams_verdict(upstream, extraction: str | None, doc) -> bool:
    """Compare as upstream does, with a precision that its rounding can take, and lists written alike."""
    if extraction is None:
        return False
    precision = None if doc["precision"] is None else int(doc["precision"])
    evaluator = upstream.mathvista_evaluator
    types = doc["question_type"], doc["answer_type"]
    return evaluator.safe_equal(
        evaluator.normalize_extracted_answer(extraction, doc["choices"], *types, precision), doc["answer"]
    )


@pytest.mark.parametrize("doc", DOCUMENTS[:6], ids=lambda doc: doc["answer"])
@pytest.mark.parametrize(
    "found", ["14", "14.0", "14.9", "13", "1.5", "1.54", "1.56", "13.1", "13.104", "13.2", "[0, 5]"]
)
def test_what_is_right_is_what_upstream_calls_right(upstream, doc, found):
    if doc["choices"]:
        for option in doc["choices"]:
            assert is_right(option, doc) == upstreams_verdict(upstream, option, doc)
    elif (doc["answer_type"] == "list") == found.startswith("["):
        written = doc | {"answer": "13.1"} if doc["answer"] == "13.10" else doc  # upstream never finds 13.10 right
        assert is_right(found, doc) == upstreams_verdict(upstream, found, written)


def test_upstream_scores_every_float_as_wrong_which_is_why_ours_differs(upstream):
    doc = DOCUMENTS[3]
    assert doc["precision"] == 1.0
    theirs = upstream.mathvista_process_results(doc, ["1.5"])["llm_as_judge_eval"]
    assert (theirs["extraction"], theirs["true_false"]) == ("1.5", False)
    assert process_results(doc, ["1.5"])["accuracy"]["score"] == 1


def test_lists_are_compared_by_their_numbers():
    doc = free("list", "[0, 5]")
    assert is_right("[0,5]", doc)
    assert is_right("[0.0, 5]", doc)
    assert not is_right("[5, 0]", doc)
    assert not is_right("[]", free("list", "[]"))


NUMBERS = re.compile(r"\d+")


@given(st.lists(st.sampled_from(["so", "we", "count", "7", "14", "and", "then", "\n"]), max_size=12))
def test_without_a_stated_answer_only_a_lone_number_of_the_last_line_is_taken(words):
    """The oracle: lines of words and numbers, without any of the phrases that state an answer."""
    text = " ".join(words)
    last = (text.strip().splitlines() or [""])[-1]
    numbers = [word for word in last.split() if NUMBERS.fullmatch(word)]
    extraction = extract(text, free("integer"))
    assert extraction.found == (numbers[0] if len(numbers) == 1 else None)
    assert (extraction.read == "not") == (len(numbers) != 1)


@given(st.integers(-9999, 9999), st.sampled_from(["{}", "The answer is {}.", "\\boxed{{{}}}", "Answer: {}", "**{}**"]))
def test_a_number_is_found_however_it_is_stated(number, frame):
    doc = free("integer", str(number))
    for written in (str(number), f"{number:,}", str(number).replace("-", "−")):
        extraction = extract(frame.format(written), doc)
        assert extraction.read == "meant"
        assert is_right(extraction.found, doc)


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=4), st.sampled_from(["{}", "The answer is {}."]))
def test_a_list_is_found_however_it_is_stated(numbers, frame):
    extraction = extract(frame.format(numbers), free("list"))
    assert ast.literal_eval(str(extraction.found)) == numbers
    assert is_right(extraction.found, free("list", str(numbers)))


@given(st.text(max_size=60), st.sampled_from(DOCUMENTS[:6]))
def test_no_answer_breaks_a_rule(text, doc):
    scored = process_results(doc, [text])["accuracy"]
    assert scored["score"] in (0, 1)
    assert (scored["extraction"] is None) == (scored["rule"] == "undecided") == (scored["read"] == "not")
    assert scored["rule"] in REMARKS


def test_a_reader_is_told_how_each_answer_was_scored():
    doc, read = DOCUMENTS[0], BENCHMARKS["mathvista_testmini_format_static"].record
    rules = {"A": "letter", "No": "words", "Hm": "undecided"}
    for answer, rule in rules.items():
        values = process_results(doc, [answer])
        record = read({"doc_id": 0, "filtered_resps": [answer], **values})
        assert (record.remark, record.score) == (REMARKS[rule], float(rule == "words"))
        assert record.stratum == "figure question answering"


def test_a_rule_takes_a_line_for_each_variant_or_one_for_many():
    few = [("base", "x"), ("merged", "x"), ("base", "x"), ("base", "")]
    assert count_remarks(few) == ["base: 2 answers x", "merged: 1 answers x"]
    many = [(f"v{place}", "x") for place in range(5)]
    assert count_remarks([*many, ("v0", "x"), ("v1", "y")]) == [
        "v0 2, v1 1, v2 1, v3 1, v4 1: so many answers x",
        "v1: 1 answers y",
    ]


def test_accuracy_is_in_percent_and_counts_the_undecided():
    answers = ["No", "Hm", "14", "A"]
    rows = [process_results(doc, [answer])["accuracy"] for doc, answer in zip(DOCUMENTS, answers, strict=False)]
    assert accuracy(rows) == 25


def test_a_judged_run_is_read_by_its_verdicts_before_and_after_upstream_aggregates(upstream):
    rows = [
        upstream.mathvista_process_results(DOCUMENTS[place], [answer])["llm_as_judge_eval"]
        for place, answer in ((0, "No"), (1, "14"), (1, "13"))
    ]
    benchmark = BENCHMARKS["mathvista_testmini_cot"]

    def read():
        return [benchmark.record({"doc_id": 0, "filtered_resps": ["x"], "llm_as_judge_eval": row}) for row in rows]

    before = read()
    rows_given = [dict(row) for row in rows]
    theirs = upstream.mathvista_aggregate_results(rows, None)
    assert rows != rows_given, "upstream moves what metadata holds"
    assert read() == before
    assert 100 * sum(record.score for record in before) / 3 == pytest.approx(theirs, abs=6e-3)


def test_a_task_whose_package_or_key_is_missing_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(host, "_manager", task_manager(None))
    monkeypatch.setitem(sys.modules, "Levenshtein", None)
    monkeypatch.delitem(sys.modules, "lmms_eval.tasks.mathvista.mathvista_evals", raising=False)
    with pytest.raises(
        UnsupportedError, match=r"'mathvista_testmini_cot' can't be loaded here \(.*Levenshtein"
    ) as told:
        host.task_config("mathvista_testmini_cot")
    assert str(told.value).endswith("; 'mathvista_testmini_cot_static' asks no judge")


@pytest.mark.usefixtures("benchmark_fixtures")
def test_a_comparison_asks_upstreams_judge_where_its_task_does(upstream, pairs, tmp_path, monkeypatch):
    asked = []

    def judge(_, prompt, **__):
        asked.append(prompt)
        return "14"

    monkeypatch.setattr(type(upstream.mathvista_evaluator), "get_chat_response", judge)
    merge = {"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0}
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=merge)
    task = "plam_compare_mathvista_testmini_cot"
    found = evaluate("plam", f"config={path}", [task], output=tmp_path / "runs", limit=6, gen_kwargs="max_new_tokens=4")
    assert len(asked) == 1 + 2 * 6, "the first answer as a taste, then once for each, never again for the interval"
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / task / "matrix.parquet")
    assert matrix.scores[1].tolist() == [1, 1], "the judge's 14 is right for the second document"
    assert found["results"][task]["merged,none"] == pytest.approx(100 * matrix.scores[:, 1].mean())


def test_a_judge_that_gave_no_answer_is_no_wrong_answer():
    row = {"question_id": "1", "extraction": "", "true_false": False, "metadata": {"task": "math word problem"}}
    read = BENCHMARKS["mathvista_testmini_cot"].record
    with pytest.raises(DataError, match="document 3: the judge was asked and gave no answer"):
        read({"doc_id": 3, "filtered_resps": ["It may be 7."], "llm_as_judge_eval": row})
    assert read({"doc_id": 3, "filtered_resps": [""], "llm_as_judge_eval": row}).score == 0


def test_the_stand_in_for_levenshtein_counts_edits():
    assert [edits("kitten", "sitting"), edits("", "abc"), edits("same", "same")] == [3, 3, 0]
