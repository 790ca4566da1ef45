"""Variants with other weights: equal to separate runs of a model that holds them, sharing what lies below the start."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from checkpoints import FAMILIES, tiny_model
from engine_prompts import logits_under, model_for, prompts_for
from engine_reference import dropped
from flops import count_flops

from lmms_plam.errors import ConfigError, MergeError, UnsupportedError
from lmms_plam.model import (
    Variant,
    WeightSet,
    find_decoder,
    generate_family,
    masked,
    run_plainly,
    vision_positions,
)
from lmms_plam.model.variants import grow_tree, installed

TOLERANCE = 1e-4


def other_weights(model, name, layers, share=0.5, parts=("self_attn",)):
    """A weight set with the loaded weights mixed with noise of their own size."""
    generator = torch.Generator().manual_seed(len(name))
    return WeightSet(
        name,
        {
            layer: {
                key: share * tensor.detach()
                + (1 - share) * tensor.std() * torch.randn(tensor.shape, generator=generator)
                for key, tensor in find_decoder(model).layers[layer].named_parameters()
                if key.startswith(parts) and key.endswith(("weight", "bias")) and "norm" not in key
            }
            for layer in layers
        },
    )


def holding(model, weights):
    """A copy of the model that holds a weight set for good."""
    other = copy.deepcopy(model)
    for index, tensors in weights.layers.items() if weights else ():
        find_decoder(other).layers[index].load_state_dict(tensors, strict=False)
    return other


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_other_weights_equal_separate_runs(family, attention):
    model, prompts = model_for(family, attention), prompts_for(family)
    vision = vision_positions(model, prompts["input_ids"], prompts)
    sets = {
        one.name: one
        for one in (
            other_weights(model, "early", range(5)),
            other_weights(model, "late", [4]),
            other_weights(model, "merged", [3, 4]),
            other_weights(model, "middle", [3], parts=("self_attn", "mlp")),
        )
    }
    variants = [Variant("base"), *(Variant(name, None, name) for name in sets)]
    variants += [Variant("2", 2), Variant("merged 2", 2, "merged"), Variant("merged 4", 4, "merged")]
    variants += [Variant("merged 3", 3, "merged"), Variant("late 0", 0, "late"), Variant("2-4", 2, until=4)]
    variants += [Variant("merged 2-4", 2, "merged", until=4), Variant("early 0-2", 0, "early", until=2)]
    result = generate_family(model, variants, prompts, weights=list(sets.values()), keep_logits=True)
    for variant, answers, logits in zip(variants, result.tokens, result.logits, strict=True):
        other = holding(model, sets.get(variant.weights))
        layers = variant.hidden(find_decoder(model).depth)
        for hidden in (masked, dropped):
            hiding = hidden(other, vision, layers.start, until=layers.stop)
            tokens, reference = logits_under(other, prompts, hiding)
            for row, answer in enumerate(answers):
                assert answer == tokens[row, : len(answer)].tolist(), f"{variant}, prompt {row}"
                assert (logits[row] - reference[row, : len(answer)]).abs().max() <= TOLERANCE
    for logits in result.logits[1:5]:
        assert (logits[0][0] - result.logits[0][0][0]).abs().max() > 0.01, "these weights make no difference"
    assert result.tokens == run_plainly(model, variants, prompts, weights=list(sets.values())).tokens
    one_by_one = generate_family(model, variants, prompts, weights=list(sets.values()), memory_budget=1)
    assert result.tokens == one_by_one.tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_silent_attention_equals_an_output_projection_of_zeros(family, attention):
    model, prompts = model_for(family, attention), prompts_for(family)
    decoder, merged = find_decoder(model), other_weights(model, "merged", [3, 4])
    variants = [Variant(str(start), silent=start) for start in range(decoder.depth + 1)]
    variants += [Variant("cut", 2), Variant("0-3", 0, until=3), Variant("merged", None, "merged", silent=4)]
    result = generate_family(model, variants, prompts, weights=[merged], keep_logits=True)
    for variant, answers, logits in zip(variants, result.tokens, result.logits, strict=True):
        if variant.silent is None:
            continue
        other = holding(model, merged if variant.weights else None)
        for layer in find_decoder(other).layers[variant.silent :]:
            layer.self_attn.o_proj.weight.data.zero_()
        tokens, reference = logits_under(other, prompts, nullcontext())
        for row, answer in enumerate(answers):
            assert answer == tokens[row, : len(answer)].tolist(), f"{variant}, prompt {row}"
            assert (logits[row] - reference[row, : len(answer)]).abs().max() <= TOLERANCE, f"{variant}, prompt {row}"
    assert (result.logits[2][0][0] - result.logits[5][0][0]).abs().max() > 0.01, "silence makes no difference"
    assert result.tokens == run_plainly(model, variants, prompts, weights=[merged]).tokens
    with pytest.raises(UnsupportedError, match="'both' hides vision and silences attention"):
        generate_family(model, [Variant("both", 2, silent=3)], prompts)


def test_base_and_merged_share_the_layers_below_the_start():
    model, prompts = tiny_model("llava", layers=12), prompts_for("llava", "one image", max_new_tokens=1)
    merged = other_weights(model, "merged", range(8, 12))

    ordinary = count_flops(lambda: model.generate(**prompts))
    pair = [Variant("base"), Variant("merged", None, "merged")]
    assert count_flops(lambda: generate_family(model, pair, prompts, weights=[merged])) <= 1.45 * ordinary


def test_weights_are_put_back_even_after_a_failure():
    model, prompts = model_for("llava"), prompts_for("llava")
    merged = other_weights(model, "merged", [3, 4])
    before = {name: (id(parameter), parameter.clone()) for name, parameter in model.named_parameters()}
    generate_family(model, [Variant("merged", None, "merged")], prompts, weights=[merged])
    with pytest.raises(RuntimeError), installed(merged, find_decoder(model).by_index()):  # noqa: PT012
        assert torch.equal(
            find_decoder(model).layers[3].self_attn.q_proj.weight, merged.layers[3]["self_attn.q_proj.weight"]
        )
        raise RuntimeError
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ({3: {"self_attn.q_proj.weigth": torch.zeros(64, 64)}}, MergeError, "Did you mean 'self_attn.q_proj.weight'"),
        ({3: {"self_attn.q_proj.weight": torch.zeros(3, 3)}}, MergeError, r"'merged', layer 3.*\(3, 3\)"),
        ({3: {"self_attn.q_proj.weight": torch.zeros(64, 64).half()}}, MergeError, "float16"),
        ({9: {}}, ConfigError, r"layers in 0\.\.4, not \[9\]"),
        ({}, ConfigError, "must name layers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        generate_family(
            model_for("llava"),
            [Variant("m", None, "merged")],
            prompts_for("llava"),
            weights=[WeightSet("merged", layers)],
        )


def test_what_replaced_weights_cannot_be_combined_with_is_refused():
    model, prompts = model_for("qwen3_vl"), prompts_for("qwen3_vl")
    late = other_weights(model, "late", [3, 4])
    with pytest.raises(UnsupportedError, match="query scope 'last'"):
        generate_family(model, [Variant("m", 2, "late")], prompts, weights=[late], query_scope="last")


def test_variants_share_layers_until_they_part():
    sets = {"m": WeightSet("m", {4: {}, 5: {}})}
    base, two, four, merged = Variant("base"), Variant("2", 2), Variant("4", 4), Variant("m", None, "m")
    both, later = Variant("m 2", 2, "m"), Variant("m 5", 5, "m")
    tree = grow_tree([base, two, four, merged, both, later], sets, depth=6)
    assert [tree.at(two, layer) is tree.at(base, layer) for layer in range(6)] == [True, True] + [False] * 4
    assert [tree.at(two, layer) is tree.at(both, layer) for layer in range(6)] == [True] * 4 + [False] * 2
    assert [tree.at(merged, layer) is tree.at(later, layer) for layer in range(6)] == [True] * 5 + [False]
    assert tree.at(four, 4) is not tree.at(merged, 4)

    def name(node):
        own = node.weights(node.start, sets)
        return own.name if own else ""

    ranges = sorted((node.start, node.end, node.blind, name(node)) for node in tree.nodes)
    assert ranges == [
        (0, 6, False, ""),
        (2, 6, True, ""),
        (4, 6, False, "m"),
        (4, 6, True, ""),
        (4, 6, True, "m"),
        (5, 6, True, "m"),
    ]


def test_weight_sets_share_the_layers_that_they_agree_on():
    every = {layer: {} for layer in range(2, 6)}
    sets = {
        "all": WeightSet("all", every, dict.fromkeys(range(2, 6), "a")),
        "middle": WeightSet("middle", {2: {}, 3: {}}, {2: "a", 3: "a"}),
        "mixed": WeightSet("mixed", every, {2: "a", 3: "b", 4: "a", 5: "a"}),
        "unnamed": WeightSet("unnamed", every),
    }
    variants = {name: Variant(name, None, name) for name in sets}
    tree = grow_tree(list(variants.values()), sets, depth=6)

    def shared(one, other):
        return [tree.at(variants[one], layer) is tree.at(variants[other], layer) for layer in range(6)]

    assert shared("all", "middle") == [True] * 4 + [False] * 2
    assert shared("all", "mixed") == [True] * 3 + [False] * 3, "once apart, equal weights work on other states"
    assert shared("all", "unnamed") == [True] * 2 + [False] * 4
    assert tree.at(variants["middle"], 5) is not tree.root


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_that_share_layers_equal_separate_runs_and_cost_less(family):
    model, prompts = model_for(family), prompts_for(family)
    first, last = other_weights(model, "first", [3, 4]), other_weights(model, "other", [3, 4])
    keys = {3: "first 3", 4: "first 4"}
    sets = [
        WeightSet("one", first.layers, keys),
        WeightSet("ends", {3: first.layers[3]}, {3: "first 3"}),
        WeightSet("turns", {3: first.layers[3], 4: last.layers[4]}, {3: "first 3", 4: "other 4"}),
    ]
    variants = [Variant("base"), *(Variant(one.name, None, one.name) for one in sets), Variant("cut", 2, "turns")]
    shared = generate_family(model, variants, prompts, weights=sets, keep_logits=True)
    plain = run_plainly(model, variants, prompts, weights=sets, keep_logits=True)
    assert shared.tokens == plain.tokens
    for ours, theirs in zip(shared.logits, plain.logits, strict=True):
        assert all((one - two).abs().max() <= TOLERANCE for one, two in zip(ours, theirs, strict=True))

    def flops(weights):
        return count_flops(lambda: generate_family(model, variants, {**prompts, "max_new_tokens": 1}, weights=weights))

    assert flops(sets) < flops([WeightSet(one.name, one.layers) for one in sets])
