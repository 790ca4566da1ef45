"""`plam check` says what is wrong, and what a run costs, without loading a weight."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from flops import count_flops
from test_failures import folder  # noqa: F401
from test_harness_runs import config_file, evaluate

from lmms_plam.cli import main
from lmms_plam.config import load_config
from lmms_plam.harness.model import Plam
from lmms_plam.harness.preflight import outline_model


def check(capsys, *arguments):
    code = main(["check", *arguments, "--json"])
    return code, {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}


@pytest.fixture
def never_loaded(monkeypatch):
    from transformers import PreTrainedModel

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)


@pytest.mark.usefixtures("never_loaded")
def test_digits_are_well_and_their_cost_is_told(capsys):
    code, found = check(capsys, "config=digits", "--tasks", "plam_probe_digits,plam_compare_digits,plam_digits")
    assert code == 0
    assert all(finding["well"] for finding in found.values())
    assert "12 decoder layers" in found["model"]["detail"]
    assert "in layers 8 to 11" in found["merge"]["detail"]
    assert "1,001 documents" in found["plam_digits"]["detail"]
    assert "cost about" not in found["plam_digits"]["detail"]


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("config", "tasks", "subject", "words"),
    [
        ("short", "", "model", "is truncated"),
        ("misfit", "", "model", "doesn't fit the VLM's decoder"),
        ("deep", "", "model", "recipes.late: start_layer 40"),
        ("well", "plam_prob_mme", "plam_prob_mme", "Did you mean 'plam_probe_mme'?"),
        ("well", "probe_cuts", "probe_cuts", "cuts lie between"),
        ("well", "probe_strata", "probe_strata", "lies in two strata of colour"),
        ("unmerged", "compare_look", "compare_look", "merge is none"),
    ],
)
def test_what_is_wrong_is_found(capsys, folder, config, tasks, subject, words):  # noqa: F811
    arguments = (f"config={folder}/{config}.yml", "--tasks", tasks, "--include_path", str(folder))
    code, found = check(capsys, *arguments)
    assert code == 1
    assert not found[subject]["well"]
    assert words in found[subject]["detail"]


@pytest.mark.parametrize("fields", [["config=digits,merge.start_layer=10"], ["config=digits", "merge.start_layer=10"]])
def test_fields_are_one_argument_or_several(capsys, fields):
    assert "in layers 10 to 11" in check(capsys, *fields)[1]["merge"]["detail"]


def test_what_cant_be_known_is_said(capsys):
    _, found = check(capsys, "config=digits", "--tasks", "plam_probe_mmstar")
    assert "its documents aren't here" in found["plam_probe_mmstar"]["detail"]


def test_a_plan_from_shapes_alone_is_the_merge_that_a_run_does(pair, tmp_path):
    config = config_file(pair, tmp_path, merge={"start_layer": 1, "modules": "all"})
    planned = outline_model(load_config(str(config))).plans["merge"]
    done = Plam(config=str(config)).provenance.merge
    assert [tensor.to_dict() for tensor in planned.merged] == [dict(tensor) for tensor in done["merged"]]
    assert list(planned.kept) == list(done["kept"])


def test_a_base_lm_on_the_hub_is_not_fetched(capsys, pairs, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--our--lm" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--our--lm" / "refs").mkdir()
    (tmp_path / "models--our--lm" / "refs" / "main").write_text("0")
    pair = pairs["qwen2_5_vl"]
    shutil.copy(pair.base_lm / "config.json", snapshot)
    index = {"weight_map": {"model.layers.0.self_attn.q_proj.weight": "model-1.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, found = check(capsys, f"config={config_file(pair, tmp_path, base_lm='our/lm', merge={'start_layer': 0})}")
    assert code == 0
    assert "the tensors of our/lm aren't here" in found["merge"]["detail"]
    code, found = check(capsys, f"config={config_file(pair, tmp_path, base_lm='our/lm', merge={'start_layer': 50})}")
    assert code == 1
    assert "start_layer 50 lies beyond" in found["model"]["detail"]


@pytest.mark.parametrize("task", ["plam_probe_digits", "plam_compare_digits"])
def test_the_cost_is_about_what_is_computed(capsys, task):
    def operations(name):
        options = {"limit": 14, "gen_kwargs": "max_new_tokens=1"}
        return count_flops(lambda: evaluate("plam", "config=digits,engine_check=false", [name], **options))

    _, found = check(capsys, "config=digits", "--tasks", task)
    (told,) = re.findall(r"cost about ([\d.]+) ordinary runs", found[task]["detail"])
    assert float(told) == pytest.approx(operations(task) / operations("plam_digits"), rel=0.15)
