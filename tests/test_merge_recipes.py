"""Recipes of every method, from their fields to merged files: what is refused, read, warned of, and told apart."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_harness_runs import config_file
from test_merge_apply import DEPTH, changed, qwen_lm, qwen_vlm, snapshot
from test_merge_families import decoder_tail, in_file, load, read_folder, stored_bits, to_bits
from transformers import AutoModelForCausalLM

from lmms_plam.config import MergeRecipe, load_config
from lmms_plam.errors import CheckpointError, ConfigError, MergeError
from lmms_plam.harness.model import Plam
from lmms_plam.merge import Checkpoint, Donors, FurtherFiles, Kept, lazy_layers, merge_into, merged_tensors, plan_merge
from lmms_plam.merge.information import fisher_key, write_fisher
from lmms_plam.merge.names import decoder_tensors
from lmms_plam.model import Variant
from lmms_plam.search.record import Recipe
from lmms_plam.search.space import expand

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def recipe(**fields) -> MergeRecipe:
    return MergeRecipe.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.5}, "method linear has no field 'density': it takes none of its own"),
        ({"method": "slerp", "ancestor": "A"}, "method slerp has no field 'ancestor'"),
        ({"method": "ties", "density": 0.5, "seed": 1}, "ties has no field 'seed': it takes ancestor, ancestor_rev"),
        ({"method": "task_arithmetic", "density": 0.5}, "task_arithmetic has no field 'density'"),
        ({"method": "ties"}, "method ties needs density, the part of changes that stays"),
        ({"method": "fisher"}, "method fisher needs fisher, a file that `plam fisher` wrote"),
        ({"method": "ties", "density": 0}, "(?s)density.*greater than 0"),
        ({"method": "ties", "density": 1.5}, "(?s)density.*less than or equal to 1"),
        ({"method": "dare_linear", "density": float("nan")}, "density"),
        ({"method": "dare_linear", "density": 0.5, "seed": -1}, "(?s)seed.*greater than or equal to 0"),
        ({"method": "dare_ties", "density": 0.5}, "dare_ties without an ancestor .* no signs are elected"),
        ({"method": "ties", "density": 1}, "of method ties nothing remains without an ancestor at density 1"),
        ({"method": "ties", "density": 0.5, "ancestor_revision": "main"}, "ancestor_revision is of no ancestor"),
        ({"method": "dare", "density": 0.5}, "method"),
    ],
)
def test_what_a_method_does_not_take_or_lacks_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(("field", "name"), [("base_lm", "is the base LM"), ("vlm", "is the VLM")])
def test_an_ancestor_that_is_one_of_the_two_is_refused(field, name):
    settings = load_config("qwen2_5_vl_7b")
    with pytest.raises(ConfigError, match=name):
        load_config("qwen2_5_vl_7b", {"merge.method": "task_arithmetic", "merge.ancestor": getattr(settings, field)})


def test_a_recipe_inherits_what_its_method_takes(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "vlm: V\nbase_lm: B\nmerge: {method: ties, density: 0.2, ancestor: ./ancestor, start_layer: 3}\n"
        "recipes:\n  plain: {method: linear}\n  dare: {method: dare_ties, seed: 4}\n  more: {density: 0.4}\n"
    )
    settings = load_config(str(tmp_path / "own.yaml"))
    ancestor = str(tmp_path / "ancestor")
    assert settings.recipes == {
        "plain": recipe(start_layer=3),
        "dare": recipe(method="dare_ties", density=0.2, ancestor=ancestor, seed=4, start_layer=3),
        "more": recipe(method="ties", density=0.4, ancestor=ancestor, start_layer=3),
    }
    (tmp_path / "own.yaml").write_text("vlm: V\nbase_lm: B\nmerge: {method: ties, density: 0.2, start_layer: 3}\n")
    assert load_config(str(tmp_path / "own.yaml"), {"merge.method": "linear"}).merge == recipe(start_layer=3)


def test_a_space_varies_methods_and_densities_with_their_own_controls():
    base = recipe(method="ties", density=0.2, ancestor="A", start_layer=8)
    found = expand({"method": ["linear", "ties"], "density": [0.2, 0.5]}, base, [8], 12)
    assert [(one.name, one.kind) for one in found] == [
        ("8: .5 LM + .5 VLM [linear]", "merge"),
        ("8: .5 LM + .5 VLM", "merge"),
        ("8: 0 LM + 1 VLM", "scaled"),
        ("8: .5 LM + .5 VLM [density 0.5]", "merge"),
        ("8: 0 LM + 1 VLM [density 0.5]", "scaled"),
    ]
    (alone,) = expand([{"ancestor": None}], base, [8], 12)
    assert alone.name == "8: .5 LM + .5 VLM [no ancestor]"


def test_where_the_base_lm_is_the_ancestor_recipes_that_differ_in_its_coefficient_are_one_without_a_control():
    found = expand("grid", recipe(method="task_arithmetic", start_layer=8), [8], 12)
    assert len(found) == 15  # lambda_vlm of 0 to 1.5 but 1, which is the VLM
    assert {one.kind for one in found} == {"merge"}


def test_a_control_is_the_base_only_where_it_changes_nothing():
    def control_is_base(**fields):
        made = recipe(start_layer=8, **fields)
        return Recipe(name="x", kind="merge", fields=made).control_is_base

    assert control_is_base()
    assert not control_is_base(lambda_vlm=0.9)
    assert not control_is_base(method="ties", density=0.5, ancestor="A")
    assert control_is_base(method="task_arithmetic", ancestor="A")
    assert control_is_base(method="ties", density=0.5, lambda_vlm=0.9)
    assert control_is_base(method="fisher", fisher="F", lambda_vlm=0.9)


def naive(method, ancestor, lm, vlm, a, b, density):
    """What a method gives, in NumPy, whole tensors at once."""
    one, half = np.float32(1), [np.float32(a), np.float32(b)]
    if method == "slerp":
        x, y = lm.astype(np.float64).ravel(), vlm.astype(np.float64).ravel()
        theta = np.arccos(x @ y / np.sqrt((x @ x) * (y @ y)))
        if abs(np.cos(theta)) <= 0.9995:
            t, total = b / (a + b), a + b
            half = [np.float32(total * np.sin(part * theta) / np.sin(theta)) for part in (1 - t, t)]
        return half[0] * lm + half[1] * vlm
    changes = [lm - ancestor, vlm - ancestor]
    if method == "ties":
        kept = []
        for change in changes:
            least = np.sort(np.abs(change), axis=None)[-max(1, int(density * change.size))]
            kept.append(np.where(np.abs(change) >= least, change, np.float32(0)))
        sign = np.where(kept[0] + kept[1] >= 0, one, -one)
        agree = [np.sign(change) == sign for change in kept]
        total = half[0] * kept[0] * agree[0] + half[1] * kept[1] * agree[1]
        return ancestor + total / np.maximum(agree[0].astype(np.float32) + agree[1], 1)
    return ancestor + (half[0] * changes[0] + half[1] * changes[1])


@pytest.fixture(scope="session")
def ancestors(pairs, tmp_path_factory):
    """By family, a model that its base LM might have grown from."""
    made = {}

    def ancestor(family):
        if family not in made:
            folder = tmp_path_factory.mktemp("ancestor")
            model = AutoModelForCausalLM.from_pretrained(pairs[family].base_lm, dtype="auto")
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
            model.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return ancestor


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
def test_every_method_gives_what_numpy_gives_on_the_files(pair, ancestors, method):
    model = load(pair)
    before = {name: stored_bits(parameter).copy() for name, parameter in model.named_parameters()}
    own = {} if method == "slerp" else {"ancestor": str(ancestors(pair.family))}
    own |= {"density": 0.3} if method == "ties" else {}
    report = merge_into(model, str(pair.base_lm), recipe(method=method, start_layer=1, lambda_lm=0.6, **own))
    files = [read_folder(folder) for folder in (ancestors(pair.family), pair.base_lm, pair.vlm)]
    merged = set()
    for name, parameter in model.named_parameters():
        tail = decoder_tail(name)
        expected = before[name]
        if tail and not tail.startswith("layers.0.") and any(module in tail for module in ATTENTION):
            merged.add(name)
            values = naive(method, *(in_file(file, tail) for file in files), 0.6, 0.5, 0.3)
            expected = to_bits(values, parameter.dtype)
        assert np.array_equal(stored_bits(parameter), expected), name
    assert merged == {tensor.name for tensor in report.merged}
    assert (report.way.method, report.way.ancestor) == (method, own.get("ancestor"))
    assert f" by {method}" in report.summary()


def against(tmp_path, **fields):
    """A recipe of a VLM, its base LM and an ancestor of both."""
    torch.manual_seed(7)
    return recipe(**{"method": "ties", "density": 0.5, "ancestor": grown_from(tmp_path), "start_layer": 2, **fields})


def grown_from(tmp_path, **sizes):
    folder = tmp_path / f"ancestor{len(list(tmp_path.iterdir()))}"
    lm = qwen_lm(tmp_path / "other", **sizes)
    shutil.move(lm, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor + 0.1 * torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return str(folder)


def test_an_ancestor_of_another_shape_is_refused(tmp_path):
    model, lm = qwen_vlm(), qwen_lm(tmp_path / "lm")
    before = snapshot(model)
    with pytest.raises(MergeError, match=r"ancestor '.*': the ancestor doesn't fit .* hidden_size 32 and 16"):
        merge_into(model, lm, recipe(method="task_arithmetic", ancestor=grown_from(tmp_path, hidden_size=32)))
    assert not changed(model, before)


def test_an_ancestor_that_lacks_a_tensor_is_refused_by_name(tmp_path):
    made = against(tmp_path)
    path = f"{made.ancestor}/model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.3.self_attn.q_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has no tensor for the decoder's layers.3.self_attn.q_proj.weight"):
        merge_into(qwen_vlm(), qwen_lm(tmp_path / "lm"), made)


def test_nan_in_an_ancestor_ends_the_merge_with_its_tensors_name(tmp_path):
    made = against(tmp_path, method="task_arithmetic", density=None)
    path = f"{made.ancestor}/model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.3.self_attn.v_proj.weight"][1, 2] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"'model.layers.3.self_attn.v_proj.weight' of '.*ancestor.*' holds NaN"):
        merge_into(qwen_vlm(), qwen_lm(tmp_path / "lm"), made)


def test_an_ancestor_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="'no/where' is no folder"):
        merge_into(qwen_vlm(), qwen_lm(tmp_path), recipe(method="task_arithmetic", ancestor="no/where"))


def test_without_an_ancestor_one_line_says_what_the_method_comes_to(tmp_path):
    def said(**fields):
        model = qwen_vlm()
        return merge_into(model, lm, recipe(start_layer=2, **fields)).warnings

    lm = qwen_lm(tmp_path)
    start = "without merge.ancestor the base LM is the ancestor: "
    assert said() == ()
    assert said(method="task_arithmetic", lambda_vlm=0.8) == (
        start + "task_arithmetic is linear, with 1 - lambda_vlm of the base LM; lambda_lm has no part",
    )
    assert said(method="ties", density=0.5)[0].startswith(start + "ties trims the VLM's changes and elects no signs")
    assert said(method="dare_linear", density=0.5)[0].startswith(start + "dare_linear drops from the VLM's changes")
    assert said(method="task_arithmetic", schedule="linear")[0].endswith("with 1 - lambda_vlm of the base LM")


def test_the_scale_is_spoken_of_only_where_coefficients_set_it(tmp_path):
    made = against(tmp_path, lambda_lm=1, lambda_vlm=1)
    assert not merge_into(qwen_vlm(), qwen_lm(tmp_path / "lm"), made).warnings


def test_whole_models_merge_by_every_method_as_rows_of_both_and_the_ancestors_vocabulary(tmp_path):
    model, lm = qwen_vlm(40), qwen_lm(tmp_path / "lm", 37)
    before = snapshot(model)
    made = recipe(method="task_arithmetic", ancestor=grown_from(tmp_path, vocab=33), modules="all", start_layer=0)
    report = merge_into(model, lm, made)
    rows = {tensor.name: tensor.rows for tensor in report.merged}
    assert rows["lm_head.weight"] == rows["model.language_model.embed_tokens.weight"] == ((0, 33),)
    assert torch.equal(model.lm_head.weight[33:], before["lm_head.weight"][33:])
    assert set(rows) == changed(model, before) == {name for name in before if "visual" not in name}


def fisher_file(path, model, lm, edit=lambda tensors: tensors, keep=lambda tail: "self_attn" in str(tail)):
    """A Fisher file of the attention of a VLM and its base LM."""
    generator = torch.Generator().manual_seed(8)
    shapes = {"vlm": dict(model.named_parameters()), "base_lm": load_file(f"{lm}/model.safetensors")}
    tensors = {
        fisher_key(whose, tensor): torch.rand(own[name].shape, generator=generator)
        for whose, own in shapes.items()
        for tensor, name in decoder_tensors(own).items()
        if keep(tensor)
    }
    write_fisher(path, edit(tensors), {"prompts": "none"})
    return str(path)


def test_fisher_merges_by_the_information_in_the_file(tmp_path):
    model, lm = qwen_vlm(dtype=torch.float32), qwen_lm(tmp_path / "lm", dtype=torch.float32)
    before, file = snapshot(model), fisher_file(tmp_path / "f.safetensors", model, lm)
    information, tensors = load_file(file), load_file(f"{lm}/model.safetensors")
    report = merge_into(model, lm, recipe(method="fisher", fisher=file, start_layer=2, lambda_lm=0.3, lambda_vlm=0.9))
    assert len(report.merged) == 2 * 7
    assert report.fisher == {"prompts": "none"}
    for one in report.merged:
        tail = one.name.removeprefix("model.language_model.")
        a, b = 0.3 * information[f"base_lm.{tail}"], 0.9 * information[f"vlm.{tail}"]
        expected = (a * tensors[f"model.{tail}"] + b * before[one.name]) / (a + b)
        assert torch.allclose(model.get_parameter(one.name), expected, atol=1e-6)


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("layers.3.self_attn.v_proj"), "has nothing of vlm.layers.3.self_attn.v_proj.weight: it was estimated"),
        (without("base_lm"), "has nothing of base_lm.layers.2.self_attn.q_proj.weight"),
        (lambda t: {k: v[:3] for k, v in t.items()}, r"is of another model: its vlm.* shape \[3, 16\], .* \[16, 16\]"),
        (lambda t: {k: v.half() for k, v in t.items()}, "as F16, not as F32"),
    ],
)
def test_a_fisher_file_of_other_tensors_is_refused(tmp_path, edit, message):
    model, lm = qwen_vlm(), qwen_lm(tmp_path / "lm")
    before, file = snapshot(model), fisher_file(tmp_path / "f.safetensors", model, lm, edit)
    with pytest.raises(CheckpointError, match=message):
        merge_into(model, lm, recipe(method="fisher", fisher=file, start_layer=2))
    assert not changed(model, before)


def test_what_is_no_fisher_file_is_refused(tmp_path):
    model, lm = qwen_vlm(), qwen_lm(tmp_path / "lm")
    (tmp_path / "text.safetensors").write_text("nothing")
    for file, error, message in (
        (tmp_path / "none.safetensors", ConfigError, "none.safetensors' is no file: `plam fisher` writes one"),
        (f"{lm}/model.safetensors", ConfigError, "is no file of Fisher information"),
        (tmp_path / "text.safetensors", CheckpointError, "can't be read as a safetensors file"),
    ):
        with pytest.raises(error, match=message):
            merge_into(model, lm, recipe(method="fisher", fisher=str(file), start_layer=2))


WAYS = {
    "linear": {},
    "slerp": {"method": "slerp"},
    "ties": {"method": "ties", "density": 0.5},
    "sparser": {"method": "ties", "density": 0.3},
    "dare": {"method": "dare_linear", "density": 0.5},
    "seeded": {"method": "dare_linear", "density": 0.5, "seed": 1},
    "elected": {"method": "dare_ties", "density": 0.5},
    "fisher": {"method": "fisher"},
}


def test_layers_of_all_methods_are_computed_when_asked_for_and_told_apart(tmp_path):
    model, lm = qwen_vlm(), qwen_lm(tmp_path / "lm")
    ancestor = grown_from(tmp_path)
    file = fisher_file(tmp_path / "f.safetensors", model, lm)
    recipes = {}
    for name, fields in WAYS.items():
        more = {"fisher": file} if name == "fisher" else {"ancestor": ancestor} if "density" in fields else {}
        recipes[name] = recipe(start_layer=2, **fields, **more)
    recipes["other"] = recipe(start_layer=2, **WAYS["ties"], ancestor=grown_from(tmp_path))
    with Checkpoint(lm) as source:
        donors = Donors(source, torch.device("cpu"))
        lazy = lazy_layers(model, source, donors, recipes, {}, Kept(2**30))
        for name, own in recipes.items():
            with FurtherFiles.of(own) as further:
                plan = plan_merge(model, source, own, None, further)
                expected = {one.name: tensor for one, tensor in merged_tensors(model, source, plan, further)}
            for layer in (2, 3):
                for suffix, tensor in lazy[name][layer].items():
                    assert torch.equal(tensor, expected[f"model.language_model.layers.{layer}.{suffix}"]), name
    assert len({lazy[name].keys_by_layer[DEPTH - 1] for name in recipes}) == len(recipes)


def test_a_merge_whose_further_sources_are_not_given_is_refused(tmp_path):
    model, lm = qwen_vlm(), qwen_lm(tmp_path / "lm")
    with Checkpoint(lm) as source:
        plan = plan_merge(model, source, against(tmp_path))
        with pytest.raises(MergeError, match="ties, whose further sources weren't opened"):
            list(merged_tensors(model, source, plan))


def test_variants_that_differ_in_method_seed_or_an_ancestors_weights_are_told_apart_in_journals(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    ancestor = tmp_path / "ancestor"
    shutil.copytree(pair.base_lm, ancestor)
    ties = {"method": "ties", "density": 0.5, "ancestor": str(ancestor)}
    own = {
        "ties": ties,
        "sparser": {**ties, "density": 0.3},
        "dare": {**ties, "method": "dare_linear"},
        "seeded": {**ties, "method": "dare_linear", "seed": 1},
        "linear": {},
    }

    def identities():
        model = Plam(config=str(config_file(pair, tmp_path)), device="cpu")
        model.plan_recipes({name: recipe(start_layer=2, **fields) for name, fields in own.items()})
        return {name: model.identify(Variant("x", weights=name)) for name in own}

    first = identities()
    assert len(set(first.values())) == len(own)
    assert identities() == first
    tensors = load_file(ancestor / "model.safetensors")
    tensors["model.layers.3.self_attn.q_proj.weight"][0, 0] += 1
    save_file(tensors, ancestor / "model.safetensors", metadata={"format": "pt"})
    after = identities()
    assert {name for name in own if after[name] != first[name]} >= {"ties", "sparser", "dare", "seeded"}
