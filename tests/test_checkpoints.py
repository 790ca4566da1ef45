"""The tiny checkpoints load without remainder, and lmms-eval's own backends answer through them."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoints import FAMILIES, build_base_lm, tiny_model
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from safetensors.torch import load_file
from tiny_configs import LM_ROWS, WORDS
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

RELEASED_NAMES = {
    "qwen2_vl": ("model.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.qkv.weight"),
    "qwen2_5_vl": ("model.layers.0.self_attn.q_proj.bias", "visual.merger.ln_q.weight"),
    "qwen3_vl": ("model.language_model.layers.0.self_attn.q_norm.weight", "model.visual.pos_embed.weight"),
    "llava": (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
    "llava_onevision": ("language_model.model.layers.0.self_attn.q_proj.bias", "image_newline"),
    "internvl": ("language_model.lm_head.weight", "vision_tower.encoder.layer.0.attention.q_proj.weight"),
}


def test_vlm_loads_without_remainder(pair):
    model, info = AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == (torch.float16 if pair.family == "llava" else torch.bfloat16)
    names = load_file(pair.vlm / "model.safetensors").keys()
    assert names >= set(RELEASED_NAMES[pair.family])


def test_base_lm_loads_without_remainder_and_fits_the_decoder(pair):
    lm, info = AutoModelForCausalLM.from_pretrained(pair.base_lm, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    decoder = tiny_model(pair.family).model.language_model
    shapes = {name: tensor.shape for name, tensor in lm.model.layers.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in decoder.layers.state_dict().items()}


def test_vocabularies_differ_as_released(pairs):
    def rows(family):
        return tiny_model(family).get_input_embeddings().num_embeddings

    assert rows("llava") > WORDS == len(AutoTokenizer.from_pretrained(pairs["llava"].base_lm))
    assert rows("internvl") < rows("llava_onevision") < LM_ROWS == rows("qwen2_5_vl")


@pytest.mark.parametrize("layout", ["sharded", "pickled"])
def test_shards_hold_the_tensors_of_the_single_file_and_a_layer_straddles_two(tmp_path, layout):
    for kind in ("single", layout):
        build_base_lm("qwen2", tmp_path / kind, kind)
    expected = load_file(tmp_path / "single" / "model.safetensors")
    (index,) = (tmp_path / layout).glob("*.index.json")
    files = json.loads(index.read_text())["weight_map"]
    read = {
        file: (load_file if layout == "sharded" else torch.load)(tmp_path / layout / file) for file in files.values()
    }
    assert files.keys() == expected.keys()
    assert all(torch.equal(read[file][name], expected[name]) for name, file in files.items())
    of_layer = [{file for name, file in files.items() if f".{layer}." in name} for layer in range(5)]
    assert max(map(len, of_layer)) == 2


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_tokenizer_round_trip(pairs, family):
    text = "Is there a réd cat, 12?\n\nYes  B."
    tokenizer = AutoTokenizer.from_pretrained(pairs[family].vlm)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    base = AutoTokenizer.from_pretrained(pairs[family].base_lm)
    assert base.encode(text) == tokenizer.encode(text)


def test_own_backend_answers_by_question_and_by_image(pair, task_folder):
    arguments = {"pretrained": str(pair.vlm), "device_map": "cpu", **pair.backend_args}
    results = simple_evaluate(
        pair.backend,
        model_args=",".join(f"{name}={value}" for name, value in arguments.items()),
        device="cpu",
        batch_size=1,
        tasks=["tiny_look", "tiny_compare", "tiny_polite"],
        task_manager=TaskManager(include_path=str(task_folder), model_name=pair.backend),
    )
    answers = {name: [sample["filtered_resps"][0] for sample in rows] for name, rows in results["samples"].items()}
    assert all(answers["tiny_look"]), "an empty answer stands for a swallowed exception"
    assert len(set(answers["tiny_look"])) > 3
    assert answers["tiny_look"] != answers["tiny_compare"] != answers["tiny_polite"]
    assert 0 < results["results"]["tiny_look"]["luck,none"] < 1


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_tiny_model_has_the_layers_asked_for_and_is_the_same_each_time(family):
    first, second = tiny_model(family, layers=3), tiny_model(family, layers=3)
    assert len(first.model.language_model.layers) == 3
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Ranker(lmms):
    """Finds a continuation the likelier the shorter it is."""

    def loglikelihood(self, requests):
        return [(-float(len(request.args[1])), False) for request in requests]

    generate_until = generate_until_multi_round = loglikelihood


def test_multiple_choice_task_asks_for_every_choice_and_takes_the_likeliest(task_folder):
    manager = TaskManager(include_path=str(task_folder))
    results = simple_evaluate(Ranker(), tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
    assert results["results"]["tiny_choice"]["acc,none"] == pytest.approx(1 / 6)  # "red" is right for one of six
    assert {len(sample["resps"]) for sample in results["samples"]["tiny_choice"]} == {6}
