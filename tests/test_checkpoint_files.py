"""Which files of a checkpoint count, for VLM and base LM, and what is refused of what people have in their folders."""

from __future__ import annotations

import shutil
from itertools import chain, combinations

import odd_checkpoints as odd
import pytest
import torch
from checkpoints import FAMILIES
from safetensors.torch import load_file
from test_harness_model import plam
from transformers import AutoModelForCausalLM

from lmms_plam.errors import CheckpointError, PlamError, UnsupportedError
from lmms_plam.harness.model import Plam
from lmms_plam.merge import Checkpoint

KEY = "model.layers.1.self_attn.q_proj.weight"
LAYOUTS = ("whole", "shards", "pickle", "pickled shards")


@pytest.fixture
def pair(pairs):
    return pairs["qwen2_5_vl"]


def write_layout(folder, layout, tensors):
    if layout == "whole":
        odd.write(folder, tensors)
    elif layout == "shards":
        odd.write_shards(folder, tensors)
    elif layout == "pickle":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        torch.save(tensors, folder / "pytorch_model-00001-of-00001.bin")
        weight_map = dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")
        odd.edit_json(folder / "pytorch_model.bin.index.json", metadata={}, weight_map=weight_map)


@pytest.mark.parametrize("present", chain.from_iterable(combinations(LAYOUTS, count) for count in range(1, 5)))
def test_of_several_files_those_are_read_that_transformers_loads(pair, tmp_path, present):
    folder = odd.copied(pair.base_lm, tmp_path / "lm")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for layout in present:
        write_layout(folder, layout, odd.others(tensors, seed=LAYOUTS.index(layout)))
    loaded = AutoModelForCausalLM.from_pretrained(folder).get_parameter(KEY)
    with Checkpoint(str(folder)) as source:
        assert torch.equal(source.rows(KEY, 0, len(loaded)), loaded)


def test_a_file_that_the_config_names_goes_before_all_others(pair, tmp_path):
    folder = odd.copied(pair.base_lm, tmp_path / "lm")
    tensors = odd.others(load_file(folder / "model.safetensors"))
    odd.write_shards(folder, tensors)
    odd.edit_json(folder / "config.json", transformers_weights="model.safetensors.index.json")
    loaded = AutoModelForCausalLM.from_pretrained(folder).get_parameter(KEY)
    with Checkpoint(str(folder)) as source:
        assert torch.equal(source.rows(KEY, 0, len(loaded)), loaded)
        assert torch.equal(loaded, tensors[KEY])


@pytest.mark.parametrize("build", [odd.stale_shards, odd.index_without_shards])
def test_leftovers_of_an_earlier_state_change_nothing(pair, tmp_path, build):
    expected = plam(pair, tmp_path, merge={"start_layer": 1})
    merged = expected.provenance.weights
    for field, folder in {"vlm": pair.vlm, "base_lm": pair.base_lm}.items():
        found = plam(pair, tmp_path, merge={"start_layer": 1}, **{field: str(build(folder, tmp_path / field))})
        assert found.provenance.weights == merged
        untouched = zip(expected._untouched.items(), found._untouched.items(), strict=True)
        assert all(a == b and torch.equal(left, right) for (a, left), (b, right) in untouched)


def change_after(model: Plam, folder) -> None:
    """Write other weights into a folder that a model was loaded from."""
    shutil.copy(folder / "model.safetensors", folder / "old")
    (folder / "model.safetensors").unlink()  # what is mapped into memory must stay as it is
    odd.write(folder, odd.others(load_file(folder / "old")))
    assert model.provenance


def test_a_vlm_whose_files_have_changed_since_it_was_loaded_is_not_compared(pair, tmp_path):
    vlm = odd.copied(pair.vlm, tmp_path / "vlm")
    model = plam(pair, tmp_path, vlm=str(vlm), merge={"start_layer": 1})
    change_after(model, vlm)
    with pytest.raises(CheckpointError, match=r"q_proj.* in the files of '.*vlm' isn't what the backend loaded"):
        model.base_weights  # noqa: B018


def test_a_recipe_of_a_base_lm_whose_files_have_changed_is_not_compared(pair, tmp_path):
    lm = odd.copied(pair.base_lm, tmp_path / "lm")
    recipes = {"late": {"start_layer": 3, "lambda_lm": 1}}
    model = plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 1}, recipes=recipes)
    assert set(plam(pair, tmp_path, merge={"start_layer": 1}, recipes=recipes).other_weights) == {"base", "late"}
    change_after(model, lm)
    with pytest.raises(CheckpointError, match=r"layers\.3.*' of '.*lm' has changed since it was first read"):
        model.other_weights  # noqa: B018


# What no file fills


@pytest.mark.parametrize("merge", ["none", {"start_layer": 1}])
def test_a_vlm_saved_from_a_wrapper_is_refused_for_what_it_is(pair, tmp_path, merge):
    vlm = odd.prefixed(pair.vlm, tmp_path / "vlm")
    with pytest.raises(CheckpointError, match=r"fills the parameters lm_head.weight, .* and \d+ more.* a PEFT wrapper"):
        plam(pair, tmp_path, vlm=str(vlm), merge=merge)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", ["lm_head.weight", "layers.1.self_attn.o_proj.weight"])
def test_a_parameter_that_no_file_fills_is_named_unless_it_is_tied(pairs, tmp_path, family, suffix):
    vlm = odd.without(pairs[family].vlm, tmp_path / "vlm", suffix)
    tied = plam(pairs[family], tmp_path, merge="none").model.config.tie_word_embeddings
    if suffix == "lm_head.weight" and tied:
        assert plam(pairs[family], tmp_path, vlm=str(vlm), merge="none")
        return
    with pytest.raises(CheckpointError, match=rf"no file of '.*vlm' fills the parameters \S*{suffix}, which"):
        plam(pairs[family], tmp_path, vlm=str(vlm), merge="none")


def test_a_tied_family_is_among_them(pairs, tmp_path):
    tied = {plam(pairs[family], tmp_path, merge="none").model.config.tie_word_embeddings for family in FAMILIES}
    assert tied == {True, False}


# Refused for what it is


@pytest.mark.parametrize(
    ("prefix", "wrapper"), [("base_model.model.", "PEFT"), ("module.", "DataParallel"), ("_orig_mod.", "compile")]
)
def test_a_base_lm_saved_from_a_wrapper_is_refused_for_what_it_is(pair, tmp_path, prefix, wrapper):
    lm = odd.prefixed(pair.base_lm, tmp_path / "lm", prefix)
    with pytest.raises(PlamError, match=rf"no tensor for .*'{prefix}.* has the prefix of .*{wrapper}"):
        plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 1})


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_quantised_base_lm_is_refused_for_what_it_is(pair, tmp_path, method, declared):
    lm = odd.packed(pair.base_lm, tmp_path / "lm", method, declared=declared)
    words = rf"quantised \({method}\)" if declared else r"of quantised weights|stored as U8"
    with pytest.raises(PlamError, match=rf"{words}.* needs the unquantised checkpoint"):
        plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 1})


def test_a_quantised_vlm_is_refused_by_name_before_it_is_loaded_unless_nothing_is_merged(pairs, tmp_path, monkeypatch):
    pair = pairs["qwen3_vl"]
    vlm = odd.fp8(pair.vlm, tmp_path / "vlm")
    assert plam(pair, tmp_path, vlm=str(vlm), merge="none")
    monkeypatch.setattr("lmms_plam.harness.model.build_backend", None)
    with pytest.raises(UnsupportedError, match=r"weights of '.*vlm' are quantised \(fp8\)"):
        plam(pair, tmp_path, vlm=str(vlm), merge={"start_layer": 1})


@pytest.mark.parametrize("field", ["vlm", "base_lm"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_lora_adapter_beside_the_weights_or_alone_is_noticed(pair, tmp_path, field, alone):
    folder = odd.with_adapter(getattr(pair, field), tmp_path / field)
    if alone:
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink()
    with pytest.raises(UnsupportedError, match=rf"'.*{field}' holds a LoRA adapter .*merge_and_unload"):
        plam(pair, tmp_path, merge={"start_layer": 1}, **{field: str(folder)})


def test_unmerged_lora_matrices_are_told(pair, tmp_path):
    def wrap(tensors):
        return {key.replace("q_proj.", "q_proj.base_layer."): value for key, value in tensors.items()}

    lm = odd.edit(odd.copied(pair.base_lm, tmp_path / "lm"), wrap)
    with pytest.raises(CheckpointError, match=r"'.*q_proj\.base_layer.*' is of a LoRA that isn't merged in"):
        plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 1})


def test_a_distributed_checkpoint_is_refused(pair, tmp_path):
    lm = odd.copied(pair.base_lm, tmp_path / "lm")
    shutil.copy(lm / "model.safetensors", lm / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(UnsupportedError, match="distributed checkpoint"):
        plam(pair, tmp_path, base_lm=str(lm), merge={"start_layer": 1})
