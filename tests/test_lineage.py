"""How far a VLM is from language models: what is measured, what is said of it, which is nearest."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge_apply import qwen_lm, qwen_vlm, recipe

from lmms_plam.cli import main
from lmms_plam.errors import MergeError
from lmms_plam.merge import Checkpoint, lineage, plan_merge, sampled_lineage

ATTENTION = frozenset("qkvo")


def grown(folder, lm, change, dtype=torch.float32):
    """Save a VLM whose decoder is a base LM's with noise of some size beside it."""
    model = qwen_vlm(dtype=dtype)
    own = load_file(f"{lm}/model.safetensors")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in own.items():
            name = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
            noise = torch.randn(tensor.shape, generator=generator)
            model.get_parameter(name).copy_(tensor.float() + change * noise)
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.fixture
def pair(tmp_path):
    lm = qwen_lm(tmp_path / "lm", dtype=torch.float32)
    return (*grown(tmp_path / "vlm", lm, 0.1), lm)


def test_distance_and_cosine_are_numpys(pair):
    model, folder, lm = pair
    found = lineage(Checkpoint(folder), Checkpoint(lm), ATTENTION)
    theirs = load_file(f"{lm}/model.safetensors")
    sides = [[], []]
    for layer in found.layers:
        names = [f"layers.{layer.layer}.self_attn.{module}_proj.weight" for module in "qkvo"]
        ours = [model.get_parameter(f"model.language_model.{name}").detach() for name in names]
        vectors = [
            np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])
            for tensors in (ours, [theirs[f"model.{name}"] for name in names])
        ]
        for side, vector in zip(sides, vectors, strict=True):
            side.append(vector)
        check(layer, *vectors)
    check(found, *map(np.concatenate, sides))
    assert [layer.layer for layer in found.layers] == [0, 1, 2, 3]
    assert found.weights == len(np.concatenate(sides[0]))


def check(found, vlm, lm):
    assert found.distance == pytest.approx(np.linalg.norm(vlm - lm) / np.linalg.norm(lm), rel=1e-5)
    assert found.cosine == pytest.approx(vlm @ lm / (np.linalg.norm(vlm) * np.linalg.norm(lm)), rel=1e-6)


def test_a_few_rows_say_the_same_before_a_merge_and_next_to_nothing_is_read(pair):
    model, folder, lm = pair
    whole = lineage(Checkpoint(folder), Checkpoint(lm), ATTENTION)
    with Checkpoint(lm) as source:
        found = sampled_lineage(model, source, plan_merge(model, source, recipe(start_layer=0)))
    assert found.distance == pytest.approx(whole.distance, rel=0.1)
    assert found.cosine == pytest.approx(whole.cosine, abs=0.01)
    assert "lineage" not in found.in_words()
    with Checkpoint(lm) as source:
        plan = plan_merge(model, source, recipe(lambda_lm=0, lambda_vlm=1.2))
        assert sampled_lineage(model, source, plan) is None


def test_the_nearest_of_several_is_named_and_what_does_not_fit_is_said(pair, tmp_path, capsys):
    _, folder, lm = pair
    (tmp_path / "own.yaml").write_text(f"vlm: {folder}\nbase_lm: {lm}\n")
    far = tmp_path / "far"
    lm_far = qwen_lm(far, dtype=torch.float32)
    tensors = load_file(f"{lm_far}/model.safetensors")
    save_file(
        {name: tensor + 0.3 * torch.randn(tensor.shape) for name, tensor in tensors.items()},
        f"{lm_far}/model.safetensors",
        metadata={"format": "pt"},
    )
    other = qwen_lm(tmp_path / "other", hidden_size=32, dtype=torch.float32)
    assert main(["lineage", f"config={tmp_path / 'own.yaml'}", "--against", str(far), lm, other]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"nearest: {lm}"
    assert "doesn't fit: 'model.layers.0.self_attn" in printed
    assert "shape [16, 32], the VLM's" in printed
    assert main(["lineage", f"config={tmp_path / 'own.yaml'}", "--json", "--modules", "all"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [model["reference"] for model in told["models"]] == [lm]
    assert [layer["layer"] for layer in told["models"][0]["layers"]] == [0, 1, 2, 3, None]


def test_an_unrelated_model_is_warned_of(tmp_path, capsys):
    lm = qwen_lm(tmp_path / "lm", dtype=torch.float32)
    model = qwen_vlm(dtype=torch.float32)  # of another seed
    model.save_pretrained(tmp_path / "vlm")
    (tmp_path / "own.yaml").write_text(f"vlm: {tmp_path / 'vlm'}\nbase_lm: {lm}\n")
    assert main(["lineage", f"config={tmp_path / 'own.yaml'}"]) == 1
    assert "they look unrelated, is it the model that the VLM grew from?" in capsys.readouterr().out
    with Checkpoint(lm) as source:
        assert sampled_lineage(model, source, plan_merge(model, source, recipe(start_layer=0))).unrelated


def test_a_model_that_does_not_fit_alone_and_unknown_modules_are_refused(pair, tmp_path, capsys):
    _, folder, _ = pair
    other = qwen_lm(tmp_path / "other", hidden_size=32, dtype=torch.float32)
    with pytest.raises(MergeError, match=r"has the shape \[16, 32\], the VLM's"):
        lineage(Checkpoint(folder), Checkpoint(other), ATTENTION)
    (tmp_path / "own.yaml").write_text(f"vlm: {folder}\n")
    config = f"config={tmp_path / 'own.yaml'}"
    assert main(["lineage", config]) == 2
    assert main(["lineage", config, "--against", other]) == 2
    assert main(["lineage", config, "--against", folder, "--modules", "heads"]) == 2
    errors = capsys.readouterr().err
    assert "base_lm is missing: name language models with --against" in errors
    assert "--modules: " in errors
