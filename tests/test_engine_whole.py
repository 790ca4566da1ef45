"""Variants that change more than decoder layers: each runs by itself, exactly, beside those that share layers."""

from __future__ import annotations

import copy
import functools
import json

import pytest
import torch
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from family_folders import of_model
from test_engine_weights import other_weights
from test_harness_runs import config_file, evaluate

from lmms_plam.errors import MergeError, UnsupportedError
from lmms_plam.harness.engine import Engine
from lmms_plam.harness.model import Plam
from lmms_plam.merge import BASE, merge_into, read_vocabulary
from lmms_plam.merge.names import parse_name
from lmms_plam.model import Variant, WeightSet, find_decoder, generate_family, installed_whole, run_plainly
from lmms_plam.search.space import expand
from lmms_plam.stats.matrix import ScoreMatrix


def outside_of(model):
    """The parameters of a decoder outside of its layers."""
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if (place := parse_name(name)) is not None and place.layer is None]


def whole(model, name, layers=(1, 3)):
    """A weight set that changes some layers and all that lies outside of them."""
    generator = torch.Generator().manual_seed(len(name))
    outside = {
        parameter: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for parameter, tensor in ((one, model.get_parameter(one).detach()) for one in outside_of(model))
    }
    return WeightSet(name, other_weights(model, name, layers).layers, outside=outside)


def holding(model, *sets):
    """A copy of the model that holds weight sets for good, the later over the earlier."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for one in sets:
            for index, tensors in one.layers.items():
                find_decoder(other).layers[index].load_state_dict(tensors, strict=False)
            for name, tensor in one.outside.items():
                other.get_parameter(name).copy_(tensor)
    return other


def answers_of(model, prompts):
    return model.generate(**prompts)[:, prompts["input_ids"].shape[1] :].tolist()


def first_token(model, prompts):
    """The log-probabilities of each prompt's first new token."""
    out = model.generate(**{**prompts, "max_new_tokens": 1}, output_logits=True, return_dict_in_generate=True)
    return out.logits[0].float().log_softmax(-1)


def test_the_engine_by_itself_refuses_what_it_would_install_in_part():
    model, prompts = model_for("llava"), prompts_for("llava")
    with pytest.raises(UnsupportedError, match="variant 'all' changes more than decoder layers"):
        generate_family(model, [Variant("all", weights="all")], prompts, weights=[whole(model, "all")])


@pytest.mark.parametrize("family", FAMILIES)
def test_they_answer_as_a_model_that_holds_their_weights_and_the_others_as_ever(family):
    model, prompts = model_for(family), prompts_for(family)
    sets = {one.name: one for one in (whole(model, "all"), whole(model, "wholly"), other_weights(model, "late", [3]))}
    seen = []
    tower = type(model.base_model).get_image_features

    @functools.wraps(tower)  # transformers looks at its signature
    def counted(self, *args, **kwargs):
        seen.append(1)
        return tower(self, *args, **kwargs)

    engine = Engine(model, sets.__getitem__, 2**30, check=True, proofs={})
    variants = [Variant("all", weights="all"), Variant("base"), Variant("late", weights="late")]
    variants += [Variant("wholly", weights="wholly")]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    engine.answer("task", [variants[1]], "all", None, dict(prompts))  # so that checks don't count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.base_model), "get_image_features", counted)
        result = engine.answer("task", variants, "all", None, dict(prompts))
    assert len(seen) == 1, "the vision tower is shared"
    assert "get_image_features" not in vars(model.base_model)
    for variant, tokens in zip(variants, result.tokens, strict=True):
        own = answers_of(holding(model, *([sets[variant.weights]] if variant.weights else [])), prompts)
        for row, answer in enumerate(tokens):
            assert answer == own[row][: len(answer)], variant.name
    starting = first_token(model, prompts)
    for variant, found in zip(variants, result.divergence, strict=True):
        own = first_token(holding(model, *([sets[variant.weights]] if variant.weights else [])), prompts)
        due = torch.nn.functional.kl_div(own, starting, reduction="none", log_target=True).sum(-1)
        assert found == pytest.approx(due.tolist(), rel=1e-3, abs=1e-5), variant.name
    assert min(result.divergence[0]) > 0.001
    assert engine.proofs["task"].alone == 2
    assert engine.proofs["task"].way == "engine"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_their_attention_is_read_as_that_of_a_model_that_holds_their_weights(family):
    model, prompts = model_for(family), prompts_for(family)
    sets = {"all": whole(model, "all"), "late": other_weights(model, "late", [3])}
    engine = Engine(model, sets.__getitem__, 2**30, check=False, proofs={})
    variants = [Variant("late", weights="late"), Variant("all", weights="all")]
    result = engine.answer("task", variants, "all", None, dict(prompts), reads=True)
    for variant, own in zip(variants, result.readouts, strict=True):
        other = holding(model, sets[variant.weights])
        (expected,) = run_plainly(other, [Variant("own")], prompts, read_attention=True).readouts
        for ours, theirs in zip(own, expected, strict=True):
            assert (ours is None) is (theirs is None)
            if ours is not None:
                assert torch.allclose(ours.instruction.mass, theirs.instruction.mass, atol=1e-4)
                assert torch.allclose(ours.response.map, theirs.response.map, atol=1e-4)


def test_beams_have_no_first_token_of_one_row_a_prompt_and_so_no_divergence():
    model, prompts = model_for("llava"), {**prompts_for("llava"), "num_beams": 2}
    sets = [whole(model, "all")]
    assert run_plainly(model, [Variant("all", weights="all")], prompts, weights=sets).divergence is None


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_whole_model_may_be_the_ground_that_others_stand_on(family):
    model, prompts = model_for(family), prompts_for(family)
    ground, late = whole(model, "ground"), other_weights(model, "late", [4])
    engine = Engine(model, {"ground": ground, "late": late}.__getitem__, 2**30, check=True, proofs={})
    variants = [Variant("base", weights="ground"), Variant("late", weights="late")]
    result = engine.answer("task", variants, "all", "ground", dict(prompts))
    assert engine.proofs["task"].alone == 0
    for tokens, sets in zip(result.tokens, ([ground], [ground, late]), strict=True):
        own = answers_of(holding(model, *sets), prompts)
        assert all(answer == own[row][: len(answer)] for row, answer in enumerate(tokens))


def test_where_all_variants_are_whole_models_the_record_says_so():
    model, prompts = model_for("llava"), prompts_for("llava")
    engine = Engine(model, {"all": whole(model, "all")}.__getitem__, 2**30, check=True, proofs={})
    result = engine.answer("task", [Variant("all", weights="all")], "all", None, dict(prompts))
    assert len(result.tokens) == 1
    assert (engine.proofs["task"].way, engine.proofs["task"].alone) == ("plain", 1)
    assert min(result.divergence[0]) > 0.001


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_tied_weights_stay_tied_while_replaced_and_come_back(family):
    model = model_for(family)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    own, sets = model.get_output_embeddings().weight, whole(model, "all")
    with installed_whole(sets, model, find_decoder(model).by_index()):
        ours = model.get_output_embeddings().weight
        assert (ours is model.get_input_embeddings().weight) is tied
        assert ours is not own
    assert model.get_output_embeddings().weight is own


def test_weights_that_do_not_fit_are_refused_and_nothing_is_left_behind():
    model = model_for("qwen2_5_vl")
    before = list(model.parameters())
    good = whole(model, "all").outside
    for outside, message in (
        ({**good, "lm_tail.weight": torch.ones(1)}, "no parameter 'lm_tail.weight'"),
        ({**good, outside_of(model)[-1]: torch.ones(2, 2)}, r"\(2, 2\) on cpu can't stand in for"),
    ):
        with (
            pytest.raises(MergeError, match=message),
            installed_whole(WeightSet("x", {}, outside=outside), model, find_decoder(model).by_index()),
        ):
            pass
        assert all(one is two for one, two in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("merge", [{"start_layer": 2}, {"start_layer": 0, "modules": "all", "lambda_lm": 0.3}])
def test_weights_of_a_comparison_are_those_of_a_merge_into_the_untouched_vlm(pairs, tmp_path, family, merge):
    pair = pairs[family]
    recipes = {
        "whole": {"start_layer": 0, "modules": "all", "lambda_lm": 0.4, "lambda_vlm": 0.6},
        "words": {"start_layer": 0, "end_layer": 1, "modules": "embeddings"},
        "plain": {"start_layer": 1, "modules": "attention", "lambda_lm": 0.5},
    }
    path = config_file(pair, tmp_path, merge=merge, recipes=recipes)
    plam = Plam(config=str(path), device="cpu")
    settings = plam.provenance.config
    bare = Plam(config=str(path), merge="none", recipes={}, device="cpu")
    plam.plan_recipes({f"lazy {name}": recipe for name, recipe in settings.recipes.items()})
    with installed_whole(plam.base_weights, plam.model, find_decoder(plam.model).by_index()):
        same(plam.model, bare.model)
        for name, recipe in settings.recipes.items():
            other = copy.deepcopy(bare.model)
            merge_into(other, str(pair.base_lm), recipe, read_vocabulary(bare._vlm.place))
            with installed_whole(plam._weights(f"lazy {name}"), plam.model, find_decoder(plam.model).by_index()):
                same(plam.model, other)
    for name, recipe in settings.recipes.items():
        other = copy.deepcopy(bare.model)
        merge_into(other, str(pair.base_lm), recipe, read_vocabulary(bare._vlm.place))
        with installed_whole(plam._weights(name), plam.model, find_decoder(plam.model).by_index()):
            same(plam.model, other)
    identities = [plam.identify(Variant("x", weights=name)) for name in (None, BASE, *recipes)]
    assert len(set(identities)) == len(identities)


def test_the_base_and_a_recipe_share_the_layers_that_both_put_back(pairs, tmp_path):
    recipes = {"late": {"start_layer": 4}}
    plam = Plam(config=str(config_file(pairs["qwen2_vl"], tmp_path, merge={"start_layer": 2}, recipes=recipes)))
    base, late = plam.other_weights[BASE], plam.other_weights["late"]
    assert base.key(2) == late.key(2) is not None
    assert base.key(3) == late.key(3) != base.key(2)
    assert base.key(4) != late.key(4)
    for layer in (2, 3):
        for name, tensor in base.layers[layer].items():
            assert late.layers[layer][name] is tensor


def same(model, other):
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_comparison_and_a_search_take_whole_models_and_score_them_as_runs_of_their_own(tmp_path):
    merge = "merge.start_layer=0,merge.lambda_lm=0.2,merge.lambda_vlm=0.8"
    own = evaluate("plam", f"config=digits,{merge},merge.modules=all", ["plam_digits"], limit=21)
    space = "{modules: [attention, all], start_layer: 0, lambda_lm: 0.2, lambda_vlm: 0.8}"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own_search.yaml").write_text(
        f"task: own_search\nclass: !function lmms_plam.families.RecipeSearch\nof: plam_digits\nspace: {space}\n"
    )
    found = evaluate(
        "plam",
        f"config=digits,{merge},recipes.all_in.modules=all,recipes.heads.modules=embeddings+q+k+v+o",
        ["plam_compare_digits", "own_search"],
        include=tmp_path / "tasks",
        output=tmp_path / "runs",
        limit=21,
    )["results"]
    assert found["plam_compare_digits"]["all_in,none"] == pytest.approx(own["results"]["plam_digits"]["accuracy,none"])
    place = of_model(tmp_path / "runs") / "own_search"
    recipes = {one["name"]: one for one in json.loads((place / "recipes.json").read_text())["recipes"]}
    assert len(recipes) == 3
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "plam_compare_digits" / "matrix.parquet")
    moved = dict(zip(matrix.variants, matrix.formats.mean_divergence(), strict=True))
    assert moved.pop("merged") == 0
    assert min(moved.values()) > 0


def test_a_whole_model_counts_as_all_layers_in_what_a_search_will_cost():
    from lmms_plam.config import MergeRecipe

    found = expand("modules", MergeRecipe(start_layer=8), [8], 12)
    assert {one.first_changed for one in found} == {8}
    found = expand([{"modules": "all"}, {"modules": "norms"}], MergeRecipe(start_layer=8), [8], 12)
    assert {one.first_changed for one in found} == {0}
