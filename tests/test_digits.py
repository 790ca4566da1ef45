"""The embedded pair and its benchmark as a user meets them: files, tokens, questions, and the host's own backend."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open

from lmms_plam.digits import benchmark
from lmms_plam.digits.grids import CELLS, draw_grid, members
from lmms_plam.embedded.scoring import mean_score
from lmms_plam.paths import PACKAGE, data_folder

PAIR = PACKAGE / "digits"
DOCUMENTS = [json.loads(line) for line in (data_folder("tasks") / "plam_digits.jsonl").read_text().splitlines()]


def right_answer(question, digits):
    """Answer a question from its text alone, apart from the code that drew it."""
    at = dict(zip(CELLS, digits, strict=True))
    cells = [at[name] for name in re.findall(r"(?:top|bottom) (?:left|middle|right)", question)]
    if question.startswith("digit at"):
        return str(cells[0])
    if question.startswith("how many"):
        return str(digits.count(int(question[-2])))
    if question.startswith("any"):
        return "yes" if int(question[-2]) in digits else "no"
    if question.startswith("larger of"):
        return str(max(cells))
    if question.startswith("sum of"):
        return str(sum(cells))
    if question == "largest digit?":
        return str(max(digits))
    assert question.startswith("even or odd at")
    return ["even", "odd"][cells[0] % 2]


def test_every_answer_of_the_benchmark_is_right():
    for document in DOCUMENTS:
        assert document["answer"] == right_answer(document["question"], document["digits"]), document


def test_the_shipped_questions_are_those_that_the_code_draws():
    assert list(benchmark.documents()) == DOCUMENTS


def test_the_benchmark_shows_only_its_own_images_of_the_digits_it_names():
    from sklearn.datasets import load_digits

    labels, own = load_digits().target, set(members("benchmark").tolist())
    for document in DOCUMENTS:
        assert set(document["images"]) <= own
        assert labels[document["images"]].tolist() == document["digits"]


def test_a_record_counts_for_all_questions_and_for_its_kind():
    document = DOCUMENTS[4]
    right, wrong = (benchmark.score(document, [answer]) for answer in (f" {document['answer']} ", "no idea"))
    assert set(right) == {"accuracy", document["kind"]}
    assert mean_score([right["accuracy"], wrong["accuracy"]]) == 0.5


def test_the_pair_fits_its_size_and_is_stored_in_bfloat16():
    files = [path for name in ("base_lm", "vlm") for path in (PAIR / name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_the_tokenizers_survive_the_auto_classes_and_know_every_word():
    from transformers import AutoProcessor, AutoTokenizer

    base, vlm = AutoTokenizer.from_pretrained(PAIR / "base_lm"), AutoTokenizer.from_pretrained(PAIR / "vlm")
    processor = AutoProcessor.from_pretrained(PAIR / "vlm")
    for text in {document["question"] for document in DOCUMENTS}:
        ids = base.encode(text)
        assert ids == vlm.encode(text) == processor.tokenizer.encode(text)
        assert len(ids) == len(re.findall(r"\w+|\?", text)) + (text[-2].isdigit())  # a number's space is a token
        assert base.decode(ids) == text
    assert len(base.encode("12")) == 2
    assert base.eos_token == vlm.eos_token == "<|im_end|>"


def test_a_prompt_holds_24_vision_tokens_and_no_system_message():
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(PAIR / "vlm", min_pixels=3136, max_pixels=200704)
    document = DOCUMENTS[0]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": document["question"]}]},
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    start = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    assert prompt == f"{start}{document['question']}<|im_end|><|im_start|>assistant\n"
    inputs = processor(text=[prompt], images=[draw_grid(document["images"])], return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 24


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM

    load = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    return (
        Qwen2ForCausalLM.from_pretrained(PAIR / "base_lm", **load),
        Qwen2_5_VLForConditionalGeneration.from_pretrained(PAIR / "vlm", **load),
        AutoTokenizer.from_pretrained(PAIR / "base_lm"),
    )


def test_the_shipped_models_score_what_their_report_says(shipped):
    from lmms_plam.digits.packing import GridPacker
    from lmms_plam.digits.train import accuracy

    base_lm, vlm, tokenizer = shipped
    report = json.loads((PAIR / "training.json").read_text())["seed 0"]
    text, pictures = GridPacker(tokenizer, pictures=False), GridPacker(tokenizer, pictures=True)
    measured = {
        "base_lm_on_text": accuracy(base_lm, text, "benchmark"),
        "vlm_on_text": accuracy(vlm, text, "benchmark"),
        "vlm_on_pictures": accuracy(vlm, pictures, "benchmark"),
    }
    for name, scores in measured.items():  # bfloat16 differs a little from one processor to the next
        assert scores["accuracy"] == pytest.approx(report[name]["benchmark"]["accuracy"], abs=0.01), name


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_the_hosts_own_backend_runs_the_pair(simple, tmp_path, monkeypatch):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    results = simple_evaluate(
        model="qwen2_5_vl",
        model_args=f"pretrained={PAIR / 'vlm'},device=cpu,device_map=cpu,min_pixels=3136,max_pixels=200704",
        tasks=["plam_digits", "plam_digits_text"],
        limit=28,
        batch_size=1,
        force_simple=simple,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(data_folder("tasks")), model_name="qwen2_5_vl"),
        cli_args=None,
    )
    assert results["results"]["plam_digits"]["accuracy,none"] > 0.7
    assert results["results"]["plam_digits_text"]["accuracy,none"] > 0.3
