"""The `plam` model type is its backend, token for token, but for the merged weights; and it never hides a failure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from shutil import copytree

import pytest
import torch
import yaml
from checkpoints import FAMILIES
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from loguru import logger
from PIL import Image
from transformers import PreTrainedModel

from lmms_plam.errors import CheckpointError, ConfigError, GenerationError, UnsupportedError
from lmms_plam.harness.backends import build_backend
from lmms_plam.harness.intercept import intercept_generate
from lmms_plam.harness.model import Plam
from lmms_plam.harness.provenance import files_digest
from lmms_plam.merge import digest_tensors

BATCHING = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
QUESTIONS = ("what is this ?", "is there a red thing in this picture ?", "how many", "name the colour of the left half")


@dataclass
class Documents:
    """Questions about plain pictures, as lmms-eval's requests for a model."""

    count: int = 3
    max_new_tokens: int = 6
    images: list[Image.Image] = field(init=False)

    def __post_init__(self) -> None:
        colours = ["red", "green", "blue", "white", "black"]
        self.images = [Image.new("RGB", (56, 56), colours[index % 5]) for index in range(self.count)]

    def question(self, index: int) -> str:
        return QUESTIONS[index % len(QUESTIONS)]

    def _attach(self, lm) -> None:
        lm.task_dict["pictures"] = {"test": list(range(self.count))}

    def _metadata(self, index: int) -> dict[str, object]:
        return {"task": "pictures", "doc_id": index, "repeats": 1, "split": "test"}

    def generation(self, lm) -> list[Instance]:
        self._attach(lm)
        requests = []
        for index in range(self.count):
            options = {"max_new_tokens": self.max_new_tokens, "temperature": 0}
            if lm.is_simple:
                ask = (self.question(index), options, self.visuals)
            else:
                ask = (self.question(index), self.messages, options)
            arguments = (*ask, index, "pictures", "test")
            requests.append(Instance("generate_until", arguments, idx=0, metadata=self._metadata(index)))
        return requests

    def scoring(self, lm, continuations: list[str]) -> list[Instance]:
        self._attach(lm)
        return [
            Instance(
                "loglikelihood",
                (self.question(0), continuation, self.visuals, 0, "pictures", "test"),
                idx=index,
                metadata=self._metadata(0),
            )
            for index, continuation in enumerate(continuations)
        ]

    def visuals(self, doc: int) -> list[Image.Image]:
        return [self.images[doc]]

    def messages(self, doc: int) -> list[dict[str, object]]:
        content = [{"type": "image", "url": self.images[doc]}, {"type": "text", "text": self.question(doc)}]
        return [{"role": "user", "content": content}]


def plam(pair, folder, **overrides) -> Plam:
    path = folder / "pair.yaml"
    content = {"vlm": str(pair.vlm), "base_lm": str(pair.base_lm), "backend_args": pair.backend_args}
    path.write_text(yaml.safe_dump(content))
    return Plam(config=str(path), **overrides)


def own_backend(pair):
    settings = {"pretrained": str(pair.vlm), "device": "cpu", "device_map": "cpu", "batch_size": 1}
    return get_model(pair.backend)(**settings, **pair.backend_args)


def ask(lm, documents: Documents) -> tuple[list[list[int]], list[str]]:
    """Return the token ids of all prompts, and all answers."""
    prompts: list[list[int]] = []

    def answer(generate, **inputs):
        prompts.extend(inputs["input_ids"].tolist())
        return generate(**inputs)

    with intercept_generate(lm.model, answer):
        answers = lm.generate_until(documents.generation(lm))
    return prompts, [getattr(answer, "text", answer) for answer in answers]


@pytest.mark.parametrize("overrides", [{}, {"merge.lambda_lm": 0, "merge.lambda_vlm": 1, "merge.start_layer": 0}])
def test_untouched_weights_give_the_prompts_and_answers_of_the_backend(pair, tmp_path, overrides):
    documents = Documents()
    expected = ask(own_backend(pair), documents)
    assert ask(plam(pair, tmp_path, **overrides), documents) == expected
    assert len(set(expected[1])) > 1, "constant answers would make this test blind"


def test_a_full_merge_changes_the_answers(pair, tmp_path):
    documents = Documents()
    merged = plam(pair, tmp_path, **{"merge.lambda_lm": 1, "merge.lambda_vlm": 0, "merge.start_layer": 0})
    assert ask(merged, documents) != ask(own_backend(pair), documents)


@pytest.mark.parametrize("family", BATCHING)
def test_batches_answer_as_single_prompts_do(pairs, family, tmp_path):
    documents = Documents(count=6)
    one, four = plam(pairs[family], tmp_path), plam(pairs[family], tmp_path, batch_size=4)
    for lm in (one, four):
        lm.model.float()  # where answers don't hang on the rounding of a near-tie
    _, single = ask(one, documents)
    _, batched = ask(four, documents)
    assert batched == single


def test_a_failing_generation_ends_the_run(pair, tmp_path, monkeypatch):
    lm = plam(pair, tmp_path)

    def fail(**inputs):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(lm.model, "generate", fail, raising=False)
    with pytest.raises(GenerationError, match="RuntimeError: no memory left"):
        lm.generate_until(Documents().generation(lm))


def test_an_image_that_the_backend_would_drop_ends_the_run(pairs, tmp_path, monkeypatch):
    lm = plam(pairs["qwen2_vl"], tmp_path)

    def fail(image):
        raise ValueError("broken image")

    monkeypatch.setattr(lm.backend, "_encode_image_data_url", fail)
    with pytest.raises(GenerationError, match="broken image"):
        lm.generate_until(Documents().generation(lm))


def test_generate_is_the_models_own_again_after_a_run(pair, tmp_path):
    lm = plam(pair, tmp_path)
    lm.generate_until(Documents(count=1).generation(lm))
    assert "generate" not in vars(lm.model)


def test_loglikelihood_is_the_log_probability_of_one_forward_pass(pair, tmp_path):
    lm, documents = plam(pair, tmp_path), Documents(count=1)
    seen: dict[str, torch.Tensor] = {}

    def keep(generate, **inputs):
        seen.update(inputs)
        return generate(**inputs)

    continuations = [" red", " is there a thing"]
    with intercept_generate(lm.model, keep):
        scores = lm.loglikelihood(documents.scoring(lm, continuations))
    assert len(scores) == 2
    for continuation, (log_probability, _) in zip(continuations, scores, strict=True):
        expected = one_forward(lm, seen, continuation)
        assert log_probability == pytest.approx(expected, rel=0.02, abs=0.05)  # bf16, other summation order
        assert log_probability < 0


def one_forward(lm, inputs: dict[str, torch.Tensor], continuation: str) -> float:
    """Teacher-forced log-probability by a single forward pass over prompt and continuation."""
    prompt = inputs["input_ids"]
    if lm.tokenizer.decode(prompt[0])[-1].isspace():
        continuation = continuation.lstrip()
    tokens = torch.tensor([lm.tokenizer.encode(continuation, add_special_tokens=False)])
    media = {name: value for name, value in inputs.items() if name.startswith(("pixel", "image_"))}
    extended = {"input_ids": torch.cat([prompt, tokens], 1)}
    extended["attention_mask"] = torch.ones_like(extended["input_ids"])
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        extended["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(tokens)], 1)
    with torch.inference_mode():
        logits = lm.model(**extended, **media).logits[0, prompt.shape[1] - 1 : -1].float()
    return float(logits.log_softmax(-1).gather(1, tokens.T).sum())


def test_the_better_continuation_scores_higher(pair, tmp_path):
    lm, documents = plam(pair, tmp_path), Documents(count=1, max_new_tokens=1)
    first: list[torch.Tensor] = []

    def watch(generate, **inputs):
        output = generate(**inputs, output_logits=True, return_dict_in_generate=True)
        first.append(output.logits[0][0])
        return output.sequences

    with intercept_generate(lm.model, watch):
        lm.generate_until(documents.generation(lm))
    words = {token: lm.tokenizer.decode([token]) for token in range(300, 380)}
    words = {t: word for t, word in words.items() if lm.tokenizer.encode(word, add_special_tokens=False) == [t]}
    words = {t: word for t, word in words.items() if word == word.strip()}
    ranked = sorted(words, key=lambda token: float(first[0][token]))
    worse, better = ranked[0], ranked[-1]
    scores = lm.loglikelihood(documents.scoring(lm, [words[worse], words[better]]))
    assert scores[0][0] < scores[1][0]
    assert [greedy for _, greedy in scores] == [int(first[0].argmax()) == token for token in (worse, better)]


def test_the_record_beside_the_results_says_what_answered(pairs, tmp_path):
    lm = plam(pairs["qwen2_5_vl"], tmp_path, **{"merge.start_layer": 1})
    record = json.loads(json.dumps(lm.provenance.to_dict()))
    assert record["backend"] == "qwen2_5_vl"
    assert record["config"]["merge"]["start_layer"] == 1
    assert record["merge"]["start_layer"] == 1
    assert set(record["versions"]) >= {"lmms-plam", "lmms-eval", "torch", "transformers", "python"}
    assert len(record["fingerprint"]) == 16


def test_the_fingerprint_follows_recipe_weights_and_prompt_files(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]

    def fingerprint(vlm=pair.vlm, **overrides):
        return plam(pair, tmp_path, vlm=str(vlm), **overrides).provenance

    plain = fingerprint()
    assert fingerprint().fingerprint == plain.fingerprint
    assert fingerprint(name="other").fingerprint == plain.fingerprint
    assert fingerprint(**{"merge.lambda_lm": 0.4}).fingerprint != plain.fingerprint
    assert fingerprint(**{"merge.lambda_lm": 0.4}).weights != plain.weights
    changed = copytree(pair.vlm, tmp_path / "changed")
    (changed / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint(changed).files != plain.files


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "spiece.model",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "processor_config.json",
        "preprocessor_config.json",
        "image_processing_own.py",
    ],
)
def test_a_changed_small_file_changes_the_fingerprint(pairs, tmp_path, file):
    folder = copytree(pairs["qwen2_5_vl"].vlm, tmp_path / "vlm")
    before = files_digest(folder)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.read_text() + " " if path.exists() else "new")
    added = files_digest(folder)
    assert added != before
    path.rename(path.with_stem("renamed"))
    assert files_digest(folder) not in (added, before)


@pytest.mark.parametrize(
    "file", ["README.md", ".gitattributes", ".cache/x.json", "model.safetensors.index.json", "x.bin"]
)
def test_what_no_answer_depends_on_leaves_the_fingerprint(pairs, tmp_path, file):
    folder = copytree(pairs["qwen2_5_vl"].vlm, tmp_path / "vlm")
    before = files_digest(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("new")
    assert files_digest(folder) == before


def test_weights_are_told_by_themselves_and_the_fingerprint_by_versions_too(pairs, tmp_path, monkeypatch):
    said: list[str] = []
    sink = logger.add(said.append, level="INFO", format="{message}")
    try:
        now = plam(pairs["qwen2_5_vl"], tmp_path).record()
    finally:
        logger.remove(sink)
    assert f"weights {now['weights']}, fingerprint {now['fingerprint']}" in "".join(said)
    monkeypatch.setattr("lmms_plam.harness.provenance.version", lambda name: "0.0")
    later = plam(pairs["qwen2_5_vl"], tmp_path).record()
    assert later["weights"] == now["weights"]
    assert later["fingerprint"] != now["fingerprint"]


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        (
            {"merge.lambda_lm": 0.9},
            ["lambda_lm + lambda_vlm = 1.4: merged weights are about 1.4 times as large", "1.96"],
        ),
        ({"merge.lambda_lm": 0.3, "merge.lambda_vlm": 0.7}, []),
        ({"merge": "none"}, []),
    ],
)
def test_coefficients_that_dont_sum_to_one_are_said_once(pairs, tmp_path, fields, warned):
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    try:
        plam(pairs["qwen2_5_vl"], tmp_path, **fields)
    finally:
        logger.remove(sink)
    assert len([line for line in said if "lambda_lm" in line]) == bool(warned)
    assert all(words in "".join(said) for words in warned)


@pytest.mark.parametrize(
    ("arguments", "loose"),
    [
        ("config=digits,merge.modules=q,k,merge.start_layer=3", "k"),
        ("digits", "digits"),
        ("config=digits,merge.modules=q, k ,v", "k"),
    ],
)
def test_a_list_with_commas_in_model_args_is_told_how_to_write_it(arguments, loose):
    with pytest.raises(
        ConfigError, match=rf"'{loose}' in --model_args is no FIELD=VALUE: .* as in merge\.modules=q\+k"
    ):
        Plam.create_from_arg_string(arguments, {"device": "cpu"})


def test_tensors_are_digested_wherever_they_lie_in_memory():
    whole = torch.arange(20, dtype=torch.bfloat16)
    (apart,) = digest_tensors({"x": whole[3:13].clone()}).values()
    assert digest_tensors({"x": whole[3:13]}) == {"x": apart}
    assert digest_tensors({"x": whole[4:14]}) != {"x": apart}


@pytest.mark.parametrize("merge", ["none", {"start_layer": 2}])
def test_a_model_that_is_not_all_in_memory_is_refused_by_name(pair, tmp_path, monkeypatch, merge):
    def offloaded(*args, **kwargs):
        backend = build_backend(*args, **kwargs)
        backend.model.get_submodule("model.language_model.layers.1.mlp").to("meta")
        return backend

    monkeypatch.setattr("lmms_plam.harness.model.build_backend", offloaded)
    with pytest.raises(UnsupportedError, match=r"layers\.1\.mlp\..*' isn't in this process's memory"):
        plam(pair, tmp_path, merge=merge)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_its_backend_by_itself(pairs, family, tmp_path):
    lm = plam(pairs[family], tmp_path)
    assert lm.backend_name == pairs[family].backend
    assert next(lm.model.parameters()).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("family", "device", "expected"),
    [("llava", "cuda", "cuda"), ("llava", "cuda:1", "cuda:1"), ("qwen2_5_vl", "cuda:1", "cuda:1")],
)
def test_a_backend_on_a_gpu_is_told_where_to_load_what_transformers_can_take(
    family, device, expected, pairs, tmp_path, monkeypatch
):
    seen = []

    def load(*args, device_map, **options):
        seen.append(device_map)
        raise RuntimeError("seen")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
    with pytest.raises(CheckpointError, match="seen"):
        plam(pairs[family], tmp_path, device=device)
    assert seen == [expected]
