"""The small world and its benchmarks as a user meets them: files, tokens, questions, the host's backend, the truth."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from family_folders import of_model
from safetensors import safe_open
from test_harness_runs import evaluate

from lmms_plam.errors import DataError
from lmms_plam.microworld import benchmark
from lmms_plam.microworld.benchmark import QUIZZES
from lmms_plam.microworld.grids import CELLS, draw_grid, members
from lmms_plam.microworld.questions import KINDS, NARROW
from lmms_plam.paths import PACKAGE, data_folder
from lmms_plam.scoring.declared import find_benchmarks

WORLD = PACKAGE / "microworld"
MODELS = ("base_lm", "aligned", "narrow", "upper", "broad")
PIXELS = "min_pixels=7840,max_pixels=7840"


@cache
def documents(task):
    return [json.loads(line) for line in (data_folder("tasks") / f"{task}.jsonl").read_text().splitlines()]


def right_answer(document):
    """Answer a question from its text, its digits and its list alone, apart from the code that drew it."""
    digits, (*lists, question) = document["digits"], document["question"].split("\n")
    listed = [int(digit) for digit in "".join(lists).removeprefix("list ")]
    kind, *words = question.rstrip("?").split()
    cells = [CELLS.index(word) for word in words if word.isalpha()]
    numbers = [int(word) for word in words if word.isdecimal()]
    at = [digits[cell] for cell in cells]
    hop = lambda digit, times: digit if times == 0 else hop(digits[digit], times - 1)  # noqa: E731
    answers = {
        "read": lambda: at[0],
        "larger": lambda: max(at),
        "sum": lambda: sum(at),
        "largest": lambda: max(digits),
        "parity": lambda: ["even", "odd"][at[0] % 2],
        "plus": lambda: at[0] + numbers[0],
        "twice": lambda: hop(at[0], 1),
        "thrice": lambda: hop(at[0], 2),
        "via": lambda: listed[at[0]],
        "item": lambda: listed[numbers[0]],
    }
    return str(answers[kind]())


@pytest.mark.parametrize("task", QUIZZES)
def test_every_answer_of_the_benchmark_is_right(task):
    for document in documents(task):
        assert document["answer"] == right_answer(document), document


@pytest.mark.parametrize("task", QUIZZES)
def test_the_shipped_questions_are_those_that_the_code_draws(task):
    assert list(benchmark.documents(QUIZZES[task])) == documents(task)


@pytest.mark.parametrize(
    ("task", "split"), [("plam_microworld", "benchmark"), ("plam_microworld_held_out", "held_out")]
)
def test_a_benchmark_shows_only_its_own_images_of_the_digits_it_names(task, split):
    from sklearn.datasets import load_digits

    labels, own = load_digits().target, set(members(split))
    for document in documents(task):
        assert set(document["images"]) <= own
        assert labels[document["images"]].tolist() == document["digits"]


def test_a_grid_holds_each_kind_once_and_counts_for_all_its_group_and_its_kind():
    asked = documents("plam_microworld")
    for start in range(0, len(asked), len(KINDS)):
        grid = asked[start : start + len(KINDS)]
        assert [document["kind"] for document in grid] == list(KINDS)
        assert len({document["grid"] for document in grid}) == 1
    twice = next(document for document in asked if document["kind"] == "twice")
    assert set(benchmark.score(twice, [twice["answer"]])) == {"accuracy", "unseen", "twice"}
    assert {document["group"] for document in asked if document["kind"] in NARROW} == {"trained"}


def test_boxes_hold_the_asked_digits():
    document = next(document for document in documents("plam_microworld") if document["kind"] == "sum")
    picture = draw_grid(document["images"])
    assert len(document["boxes"]) == 2
    for cell in re.findall(r" ([a-j])", document["question"]):
        place = CELLS.index(cell)
        box = next(tuple(box) for box in document["boxes"] if box[0] == 28 * place)
        assert picture.crop(box).tobytes() == draw_grid([document["images"][place]]).crop((0, 0, 28, 28)).tobytes()


def test_the_models_fit_their_size_and_are_stored_in_bfloat16():
    files = [path for name in MODELS for path in (WORLD / name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_what_upper_keeps_is_the_aligned_vlms():
    with (
        safe_open(WORLD / "aligned" / "model.safetensors", "pt") as aligned,
        safe_open(WORLD / "upper" / "model.safetensors", "pt") as upper,
    ):
        changed = {key for key in upper.keys() if not torch.equal(upper.get_tensor(key), aligned.get_tensor(key))}  # noqa: SIM118
    layers = {int(re.search(r"layers\.(\d+)\.", key)[1]) for key in changed}
    assert layers == set(range(4, 12))


def test_the_tokenizers_survive_the_auto_classes_and_know_every_word():
    from transformers import AutoProcessor, AutoTokenizer

    tokenizers = [AutoTokenizer.from_pretrained(WORLD / name) for name in MODELS]
    processor = AutoProcessor.from_pretrained(WORLD / "upper")
    for document in documents("plam_microworld"):
        text = document["question"]
        ids = tokenizers[0].encode(text)
        assert all(tokenizer.encode(text) == ids for tokenizer in (*tokenizers, processor.tokenizer))
        spaces = len(re.findall(r" \d", text))
        assert len(ids) == len(re.findall(r"[a-z]+|\d|\?|\n", text)) + spaces  # a number's space is a token
        assert tokenizers[0].decode(ids) == text
        assert len(tokenizers[0].encode(document["answer"])) == (
            len(document["answer"]) if document["answer"].isdecimal() else 1
        )
    assert {tokenizer.eos_token for tokenizer in tokenizers} == {"<|im_end|>"}


def test_a_prompt_holds_ten_vision_tokens_in_one_row():
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(WORLD / "upper", min_pixels=7840, max_pixels=7840)
    document = documents("plam_microworld")[0]
    content = [{"type": "image"}, {"type": "text", "text": benchmark.ask_about_picture(document)}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[draw_grid(document["images"])], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 2, 20]]
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 10


@pytest.fixture(scope="module")
def truth():
    """The benchmark script, and the shipped models on fewer questions than it asks."""
    path = Path(__file__).parents[1] / "benchmarks" / "known_truth.py"
    spec = importlib.util.spec_from_file_location("known_truth", path)
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # where its dataclasses look for their module
    spec.loader.exec_module(script)
    return script, script.World(grids=100)


def test_the_shipped_models_score_what_their_report_says(truth):
    from lmms_plam.microworld.answering import accuracy
    from lmms_plam.microworld.architecture import GridPacker
    from lmms_plam.microworld.train import CHOICES

    _, world = truth
    report = json.loads((WORLD / "training.json").read_text())["0"]
    text = GridPacker(world.packer.tokenizer, pictures=False, kinds=tuple(KINDS))
    measured = {"base_lm": accuracy(world.base_lm, text, CHOICES)}
    assert measured["base_lm"]["accuracy"] == pytest.approx(report["base_lm"]["text"]["accuracy"], abs=0.01)
    for name in MODELS[1:]:  # bfloat16 differs a little from one processor to the next
        scores = accuracy(world.vlm(name), world.packer, CHOICES)
        assert scores["accuracy"] == pytest.approx(report[name]["pictures"]["accuracy"], abs=0.01), name


def test_what_is_said_of_the_world_is_true(truth):
    script, world = truth
    for claim in script.claims(world):
        assert claim.holds, claim


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_the_hosts_own_backend_answers_as_the_fast_forward_pass_does(simple, truth, tmp_path, monkeypatch):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from lmms_plam.microworld.answering import right_answers
    from lmms_plam.microworld.architecture import GridPacker

    _, world = truth
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    grids = 3
    results = simple_evaluate(
        model="qwen2_5_vl",
        model_args=f"pretrained={WORLD / 'upper'},device=cpu,device_map=cpu,{PIXELS}",
        tasks=["plam_microworld", "plam_microworld_text"],
        limit=grids * len(KINDS),
        batch_size=1,
        force_simple=simple,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(data_folder("tasks")), model_name="qwen2_5_vl"),
        cli_args=None,
    )
    quiz = QUIZZES["plam_microworld"][:grids]
    for task, pictures in (("plam_microworld", True), ("plam_microworld_text", False)):
        packer = GridPacker(world.packer.tokenizer, pictures=pictures, kinds=tuple(KINDS))
        expected = right_answers(world.vlm("upper"), packer, quiz).reshape(-1)
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        scores = [sample["accuracy"]["score"] for sample in samples]
        assert sum(score != right for score, right in zip(scores, expected, strict=True)) <= 1, task


def test_a_comparison_reports_each_kind_and_group_beside_the_whole(tmp_path):
    evaluate("plam", "config=microworld", ["plam_compare_microworld"], output=tmp_path, limit=5 * len(KINDS))
    results = json.loads((of_model(tmp_path) / "plam_compare_microworld" / "comparison.json").read_text())
    results = [result for result in results if result["variant"] == "merged"]
    assert [result["metric"] for result in results] == ["accuracy", "trained", "unseen", *KINDS]
    by_metric = {result["metric"]: result for result in results}
    whole, parts = by_metric["accuracy"]["b"], [by_metric[kind]["b"] for kind in KINDS]
    assert whole == pytest.approx(sum(parts) / len(parts))


def test_a_part_that_nothing_logs_is_refused_by_its_name():
    config = {"metadata": {"plam": {"score": "accuracy", "parts": ["kind"]}}}
    (declared,) = find_benchmarks("own", config, [{"accuracy": 1.0}])
    assert declared.record({"doc_id": 3, "accuracy": 1.0, "kind": "sum"}).columns == {"part: kind": "sum"}
    with pytest.raises(DataError, match="document 3: 'kind' is not among what is logged"):
        declared.record({"doc_id": 3, "accuracy": 1.0})
