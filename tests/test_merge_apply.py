"""Merging into a loaded VLM: every tensor accounted for, the right values, and refusals before anything changes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
)

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import CheckpointError, ConfigError, MergeError, UnsupportedError
from lmms_plam.merge import Checkpoint, merge_into, merged_tensors, plan_merge
from lmms_plam.merge.apply import _is_finite

DEPTH = 4
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "out_hidden_size": 16,
    "intermediate_size": 24,
    "fullatt_block_indexes": [0],
}
ALL = {"modules": "all", "start_layer": 0}


def recipe(**fields) -> MergeRecipe:
    return MergeRecipe.model_validate(fields)


def qwen_vlm(vocab=40, tied=False, dtype=torch.bfloat16, **sizes):
    text = {
        **SIZES,
        **sizes,
        "vocab_size": vocab,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]},
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=tied)
    config.text_config.rms_norm_eps = 1e-6
    torch.manual_seed(1)
    return scrambled(AutoModelForImageTextToText.from_config(config, dtype=dtype))


def qwen_lm(folder, vocab=40, tied=False, dtype=torch.bfloat16, **sizes) -> str:
    torch.manual_seed(2)
    config = Qwen2Config(**{**SIZES, **sizes}, vocab_size=vocab, tie_word_embeddings=tied)
    scrambled(AutoModelForCausalLM.from_config(config, dtype=dtype)).save_pretrained(folder)
    return str(folder)


def scrambled(model):
    """Fill biases and norms too with random values, which are all 0 or 1 at the start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model, before) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def edit_weights(folder, edit) -> None:
    path = f"{folder}/model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("module", ["q", "k", "v", "o"])
def test_a_single_module_is_merged_with_its_bias_in_the_chosen_layers_and_nothing_else(tmp_path, module):
    model = qwen_vlm()
    before = snapshot(model)
    report = merge_into(model, qwen_lm(tmp_path), recipe(modules=module, start_layer=1, end_layer=3))
    kinds = ["weight"] if module == "o" else ["weight", "bias"]
    expected = {
        f"model.language_model.layers.{layer}.self_attn.{module}_proj.{kind}" for layer in (1, 2) for kind in kinds
    }
    assert changed(model, before) == expected
    assert {tensor.name for tensor in report.merged} == expected
    assert not any("visual" in name for name in report.kept)


def test_every_decoder_tensor_is_merged_or_kept_and_never_both(tmp_path):
    model = qwen_vlm()
    decoder = {name for name, _ in model.named_parameters() if "visual" not in name}
    for fields in ({}, {"modules": "mlp+norms", "start_layer": 2}, ALL):
        with Checkpoint(qwen_lm(tmp_path)) as source:
            plan = plan_merge(model, source, recipe(**fields))
        merged = {tensor.name for tensor in plan.merged}
        assert merged | set(plan.kept) == decoder
        assert not merged & set(plan.kept)
    assert merged == decoder


def test_the_embedding_belongs_to_the_first_layer_and_final_norm_and_head_to_the_last(tmp_path):
    lm = qwen_lm(tmp_path)
    for layers, expected in [
        ({"start_layer": 0, "end_layer": 3}, {"model.language_model.embed_tokens.weight"}),
        ({"start_layer": 1, "end_layer": 4}, {"model.language_model.norm.weight", "lm_head.weight"}),
    ]:
        model = qwen_vlm()
        before = snapshot(model)
        merge_into(model, lm, recipe(modules="embeddings+norms", **layers))
        assert {name for name in changed(model, before) if "layers." not in name} == expected


def test_schedules_give_each_layer_its_own_coefficients(tmp_path):
    model = qwen_vlm(dtype=torch.float32)
    before = snapshot(model)
    folder = qwen_lm(tmp_path, dtype=torch.float32)
    lm = load_file(f"{folder}/model.safetensors")
    report = merge_into(model, folder, recipe(schedule="linear", schedule_form="share", start_layer=0, modules="o"))
    for layer in range(DEPTH):
        share = 0.5 * layer / (DEPTH - 1)
        name = f"layers.{layer}.self_attn.o_proj.weight"
        expected = share * lm[f"model.{name}"] + (1 - share) * before[f"model.language_model.{name}"]
        assert torch.allclose(model.get_parameter(f"model.language_model.{name}"), expected, atol=1e-6)
    assert report.merged[0].source is None  # r = 0: nothing of the base LM was needed
    assert report.merged[-1].source == f"model.layers.{DEPTH - 1}.self_attn.o_proj.weight"


@pytest.mark.parametrize(("vlm_vocab", "lm_vocab"), [(40, 33), (33, 40)])
def test_embeddings_are_merged_over_the_rows_that_both_vocabularies_have(tmp_path, vlm_vocab, lm_vocab):
    model = qwen_vlm(vlm_vocab)
    before = snapshot(model)
    folder = qwen_lm(tmp_path, lm_vocab)
    report = merge_into(model, folder, recipe(**ALL, lambda_lm=1, lambda_vlm=0))
    lm = load_file(f"{folder}/model.safetensors")
    for name, key in [("model.language_model.embed_tokens.weight",) * 2, ("lm_head.weight",) * 2]:
        weight = model.get_parameter(name)
        assert torch.equal(weight[:33], lm[key.replace("language_model.", "")][:33])
        assert torch.equal(weight[33:], before[name][33:])
        assert next(tensor.rows for tensor in report.merged if tensor.name == name) == ((0, 33),)


def test_tied_weights_stay_tied_and_are_merged_once_as_the_embedding(tmp_path):
    model = qwen_vlm(tied=True)
    folder = qwen_lm(tmp_path, tied=True)
    report = merge_into(model, folder, recipe(**ALL, lambda_lm=1, lambda_vlm=0))
    embedding = model.get_input_embeddings().weight
    assert model.lm_head.weight is embedding
    assert torch.equal(embedding, load_file(f"{folder}/model.safetensors")["model.embed_tokens.weight"])
    assert "lm_head.weight" not in {tensor.name for tensor in report.merged}
    assert report.warnings == ()


def test_the_head_of_a_tied_base_lm_is_its_embedding(tmp_path):
    model = qwen_vlm(tied=False)
    folder = qwen_lm(tmp_path, tied=True)
    merge_into(model, folder, recipe(**ALL, lambda_lm=1, lambda_vlm=0))
    assert torch.equal(model.lm_head.weight, load_file(f"{folder}/model.safetensors")["model.embed_tokens.weight"])


def test_an_untied_base_lm_under_a_tied_vlm_is_warned_of(tmp_path):
    report = merge_into(qwen_vlm(tied=True), qwen_lm(tmp_path, tied=False), recipe(**ALL))
    assert any("lm_head.weight is left out" in warning for warning in report.warnings)


@pytest.mark.parametrize("qk_norms", [False, True])
def test_query_and_key_norms_are_merged_only_when_asked_for(tmp_path, qk_norms):
    text = {**SIZES, "vocab_size": 40, "head_dim": 8}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16, "intermediate_size": 24}
    vision["deepstack_visual_indexes"] = [0]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    model = scrambled(
        AutoModelForImageTextToText.from_config(
            Qwen3VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision), dtype=torch.bfloat16
        )
    )
    lm = scrambled(AutoModelForCausalLM.from_config(Qwen3Config(**text), dtype=torch.bfloat16))
    lm.save_pretrained(tmp_path)
    before = snapshot(model)
    merge_into(model, str(tmp_path), recipe(modules="all", start_layer=0, qk_norms=qk_norms))
    norms = {name for name in before if "q_norm" in name or "k_norm" in name}
    assert len(norms) == 2 * DEPTH
    assert changed(model, before) & norms == (norms if qk_norms else set())


class Fused(nn.Module):
    """The skeleton of an InternVL2.5: names and shapes of its decoder, as its own code lays them out."""

    def __init__(self):
        super().__init__()
        self.config = PretrainedConfig()
        self.config.llm_config = PretrainedConfig.from_dict({"model_type": "internlm2", **SIZES})
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.tok_embeddings = nn.Embedding(12, 16)
        self.language_model.model.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": nn.ModuleDict(
                        {"wqkv": nn.Linear(16, 32, bias=False), "wo": nn.Linear(16, 16, bias=False)}
                    ),
                    "feed_forward": nn.ModuleDict({"w1": nn.Linear(16, 24, bias=False)}),
                    "attention_norm": nn.LayerNorm(16, bias=False),
                    "ffn_norm": nn.LayerNorm(16, bias=False),
                }
            )
            for _ in range(DEPTH)
        )
        self.language_model.model.norm = nn.LayerNorm(16, bias=False)
        self.language_model.output = nn.Linear(16, 12, bias=False)
        scrambled(self)


def fused_lm(folder) -> str:
    model = Fused().language_model
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "internlm2", **SIZES}))
    return str(folder)


def test_weights_fused_on_both_sides_are_merged_fused(tmp_path):
    folder = fused_lm(tmp_path)
    model = Fused()
    before = snapshot(model)
    merge_into(model, folder, recipe(start_layer=2, lambda_lm=1, lambda_vlm=0))
    attention = {
        f"language_model.model.layers.{layer}.attention.{w}.weight" for layer in (2, 3) for w in ("wqkv", "wo")
    }
    assert changed(model, before) == attention
    merge_into(model, folder, recipe(**ALL, lambda_lm=1, lambda_vlm=0))
    for key, value in load_file(f"{folder}/model.safetensors").items():
        assert torch.equal(model.get_parameter(f"language_model.{key}"), value)


def test_a_part_of_fused_weights_is_refused(tmp_path):
    model = Fused()
    before = snapshot(model)
    with pytest.raises(UnsupportedError, match=r"wqkv.* holds k, q, v in one tensor: .* not q, v alone"):
        merge_into(model, fused_lm(tmp_path), recipe(modules="q+v"))
    assert not changed(model, before)


def test_weights_fused_on_one_side_only_are_refused(tmp_path):
    folder = qwen_lm(tmp_path)

    def fuse(tensors):
        prefix = "model.layers.3.self_attn."
        qkv = [tensors.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
        tensors[f"{prefix}qkv_proj.weight"] = torch.cat(qkv)

    edit_weights(folder, fuse)
    with pytest.raises(MergeError, match=r"qkv_proj.weight' has no counterpart"):
        merge_into(qwen_vlm(), folder, recipe())


def test_reads_nothing_of_the_base_lms_weights_when_its_coefficient_is_zero(tmp_path):
    model = qwen_vlm(dtype=torch.float32)
    before = snapshot(model)
    folder = qwen_lm(tmp_path, dtype=torch.float32)
    (tmp_path / "model.safetensors").unlink()
    report = merge_into(model, folder, recipe(lambda_lm=0, lambda_vlm=1.25, start_layer=0))
    assert report.bytes_read == 0
    for tensor in report.merged:
        assert torch.equal(model.get_parameter(tensor.name), before[tensor.name] * 1.25)


def test_the_identity_changes_no_bit(tmp_path):
    model = qwen_vlm()
    before = snapshot(model)
    report = merge_into(model, qwen_lm(tmp_path), recipe(**ALL, lambda_lm=0, lambda_vlm=1))
    assert not changed(model, before)
    assert report.merged


def test_tensors_larger_than_a_block_are_merged_alike(tmp_path, monkeypatch):
    folder = qwen_lm(tmp_path)
    whole, blocks = qwen_vlm(), qwen_vlm()
    merge_into(whole, folder, recipe(**ALL, lambda_lm=0.3))
    monkeypatch.setattr("lmms_plam.merge.blocks._READ_AT_ONCE", 50)  # three rows of 16, or 50 numbers of a bias
    monkeypatch.setattr("lmms_plam.merge.blocks._MERGED_AT_ONCE", 33)
    merge_into(blocks, folder, recipe(**ALL, lambda_lm=0.3))
    assert not changed(blocks, snapshot(whole))


def test_merged_tensors_can_be_had_without_touching_the_model_for_any_number_of_recipes(tmp_path):
    model = qwen_vlm()
    before = snapshot(model)
    with Checkpoint(qwen_lm(tmp_path)) as source:
        for lambda_lm in (0.2, 0.9):
            plan = plan_merge(model, source, recipe(lambda_lm=lambda_lm, start_layer=2))
            merged = {tensor.name: value for tensor, value in merged_tensors(model, source, plan)}
            expected = qwen_vlm()
            merge_into(expected, source.reference, recipe(lambda_lm=lambda_lm, start_layer=2))
            assert all(torch.equal(expected.get_parameter(name), value) for name, value in merged.items())
    assert not changed(model, before)


def test_the_report_says_what_was_done_in_one_line_and_in_json(tmp_path):
    folder = qwen_lm(tmp_path)
    report = merge_into(qwen_vlm(), folder, recipe(start_layer=0.5, lambda_lm=0.4, lambda_vlm=0.6))
    needed = sum(
        value.nbytes
        for key, value in load_file(f"{folder}/model.safetensors").items()
        if "self_attn" in key and key.split(".")[2] in "23"
    )
    assert report.bytes_merged == needed
    assert 0 < report.bytes_read - needed < 10_000  # the header
    assert report.summary() == (
        "merged 14 tensors (0.0 MB: q, k, v, o) in decoder layers 2 to 3 of 4, 0.4 base LM + 0.6 VLM; "
        f"read 0.0 MB of {folder}; kept 37 decoder tensors"
    )
    content = json.loads(json.dumps(report.to_dict()))
    assert content["merged"][0] == {
        "name": "model.language_model.layers.2.self_attn.q_proj.weight",
        "source": "model.layers.2.self_attn.q_proj.weight",
        "coefficients": {"lm": 0.4, "vlm": 0.6},
        "rows": [[0, 16]],
    }
    assert replace(report) == report


# Refusals: each before the first write, with the name of what is wrong


def refuse(error, message, model, folder, **fields):
    before = snapshot(model)
    with pytest.raises(error, match=message):
        merge_into(model, folder, recipe(**fields))
    assert not changed(model, before)


def test_a_base_lm_of_another_size_is_refused(tmp_path):
    lm = qwen_lm(tmp_path, num_hidden_layers=6)
    refuse(MergeError, "num_hidden_layers 6 and 4", qwen_vlm(), lm)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path):
    lm = qwen_lm(tmp_path, intermediate_size=32)
    refuse(MergeError, r"gate_proj.weight' has \[24, 16\]", qwen_vlm(), lm, modules="mlp")


def test_a_missing_tensor_is_refused_by_name(tmp_path):
    lm = qwen_lm(tmp_path)
    edit_weights(lm, lambda tensors: tensors.pop("model.layers.3.self_attn.k_proj.bias"))
    refuse(CheckpointError, r"no tensor for the decoder's layers\.3\.self_attn\.k_proj\.bias", qwen_vlm(), lm)


def test_a_tensor_without_counterpart_in_the_vlm_is_refused_by_name(tmp_path):
    lm = qwen_lm(tmp_path)
    edit_weights(lm, lambda tensors: tensors.update({"model.layers.3.self_attn.o_proj.bias": torch.ones(16)}))
    refuse(MergeError, r"'model\.layers\.3\.self_attn\.o_proj\.bias' has no counterpart", qwen_vlm(), lm)


def test_a_quantised_base_lm_is_refused_by_name(tmp_path):
    lm = qwen_lm(tmp_path)
    key = "model.layers.3.self_attn.q_proj.weight"
    edit_weights(lm, lambda tensors: tensors.update({key: tensors[key].to(torch.float8_e4m3fn)}))
    refuse(UnsupportedError, r"q_proj\.weight' .* stored as F8_E4M3", qwen_vlm(), lm)


@pytest.mark.parametrize("elsewhere", [torch.empty(16, 16, device="meta"), torch.empty(0)])
def test_offloaded_weights_are_refused_by_name(tmp_path, elsewhere):
    model = qwen_vlm()
    model.model.language_model.layers[3].self_attn.q_proj.weight = nn.Parameter(elsewhere)
    with pytest.raises(UnsupportedError, match=r"layers\.3\.self_attn\.q_proj\.weight' isn't in this process's memory"):
        merge_into(model, qwen_lm(tmp_path), recipe())


def test_quantised_weights_are_refused_by_name(tmp_path):
    model = qwen_vlm()
    attention = model.model.language_model.layers[3].self_attn
    attention.v_proj.weight = nn.Parameter(torch.ones(8, 16, dtype=torch.uint8), requires_grad=False)
    refuse(
        UnsupportedError, r"layers\.3\.self_attn\.v_proj\.weight' is a Tensor of torch.uint8", model, qwen_lm(tmp_path)
    )


def test_weights_packed_away_from_the_parameters_are_refused(tmp_path):
    model = qwen_vlm()
    del model.model.language_model.layers[3].self_attn.v_proj.weight  # GPTQ and AWQ keep integer buffers instead
    refuse(UnsupportedError, "decoder layer 3 of the VLM has no weight of v", model, qwen_lm(tmp_path))


def test_a_decoder_tensor_of_unknown_kind_is_refused_by_name_where_it_would_be_merged(tmp_path):
    model = qwen_vlm()
    model.model.language_model.layers[3].self_attn.sinks = nn.Parameter(torch.ones(4))
    lm = qwen_lm(tmp_path)
    refuse(UnsupportedError, r"layers\.3\.self_attn\.sinks' is .* no kind", model, lm)
    assert merge_into(model, lm, recipe(start_layer=0, end_layer=3)).merged


def test_a_model_without_a_recognisable_decoder_is_refused(tmp_path):
    model = nn.Module()
    model.config = qwen_vlm().config
    model.tower = nn.Linear(2, 2)
    refuse(UnsupportedError, "config speaks of 4 decoder layers, but parameters of 0", model, qwen_lm(tmp_path))


def test_a_recipe_that_merges_nothing_is_refused(tmp_path):
    fields = {"modules": "embeddings", "start_layer": 1, "end_layer": 2}
    refuse(ConfigError, "merges nothing in layers 1 to 1", qwen_vlm(), qwen_lm(tmp_path), **fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_seen_wherever_they_stand(dtype, value):
    for length in (1, 7, 64, 131):
        for position in range(length):
            tensor = torch.linspace(-3, 3, length).to(dtype)
            assert _is_finite(tensor)
            tensor[position] = value
            assert not _is_finite(tensor)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_inf_in_either_source_end_the_merge_with_the_tensors_name(tmp_path, value):
    lm = qwen_lm(tmp_path)
    name = "layers.2.self_attn.v_proj.bias"
    model = qwen_vlm()
    model.get_parameter(f"model.language_model.{name}").data[1] = value
    with pytest.raises(MergeError, match=rf"the VLM's 'model\.language_model\.{name}' holds NaN or Inf"):
        merge_into(model, lm, recipe())

    edit_weights(lm, lambda tensors: tensors[f"model.{name}"].fill_(value))
    with pytest.raises(MergeError, match=rf"'model\.{name}' of .* holds NaN or Inf"):
        merge_into(qwen_vlm(), lm, recipe())


def test_an_overflow_of_float16_is_refused_by_name(tmp_path):
    model = qwen_vlm(dtype=torch.float16)
    model.model.language_model.layers[3].self_attn.o_proj.weight.data.fill_(60000)
    with pytest.raises(MergeError, match=r"merged '.*layers\.3.*o_proj\.weight' overflows torch.float16"):
        merge_into(model, qwen_lm(tmp_path), recipe(lambda_lm=0, lambda_vlm=1.5))
