"""The family engine against two independent references: equal tokens, and logits within 1e-4, at every step."""

from __future__ import annotations

import copy

import pytest
import torch
from checkpoints import FAMILIES
from engine_prompts import hidden_from, logits_under, model_for, prompts_for
from engine_reference import compacted, dropped

from lmms_plam.errors import UnsupportedError
from lmms_plam.model import (
    Variant,
    damaged,
    find_decoder,
    generate_family,
    masked,
    run_plainly,
    vision_positions,
)

TOLERANCE = 1e-4


def check_all(model, variants, prompts, reference, **options):
    result = generate_family(model, variants, prompts, keep_logits=True, **options)
    for place, variant in enumerate(variants):
        tokens, logits = logits_under(model, prompts, reference(variant))
        for row, answer in enumerate(result.tokens[place]):
            assert answer == tokens[row, : len(answer)].tolist(), f"{variant}, prompt {row}"
            difference = (result.logits[place][row] - logits[row, : len(answer)]).abs().max()
            assert difference <= TOLERANCE, f"{variant}, prompt {row}: logits differ by {difference}"
    return result


def check_all_cuts(model, prompts, reference, **options):
    cuts = [Variant(str(cut), cut) for cut in range(find_decoder(model).depth + 1)]
    return check_all(model, cuts, prompts, lambda variant: reference(variant.cut), **options)


def windows(model):
    """Runs of layers in which vision is hidden: none, early ones, single layers, one in the middle, one to the end."""
    depth = find_decoder(model).depth
    runs = [(2, 2), (0, 1), (0, depth - 1), (0, 3), (2, 3), (depth - 2, depth - 1), (1, 4), (3, depth)]
    return [Variant(f"{cut}-{until}", cut, until=until) for cut, until in runs]


CASES = [
    *((family, kind) for family in (*FAMILIES, "gemma3") for kind in ("images", "one image")),
    *((family, kind) for family in FAMILIES if family != "llava" for kind in ("video", "mixed")),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_cut_equals_the_masked_model(family, kind, attention):
    model, prompts = model_for(family, attention), prompts_for(family, kind)
    result = check_all_cuts(model, prompts, lambda cut: hidden_from(model, prompts, cut))
    row = max(range(len(prompts["input_ids"])), key=result.vision_tokens.__getitem__)
    differ = (result.logits[0][row][0] - result.logits[-1][row][0]).abs().max()
    assert differ > 0.01, "vision makes no difference to this model: the test shows nothing"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_cut_equals_the_model_without_vision_keys(family, kind, attention):
    model, prompts = model_for(family, attention), prompts_for(family, kind)
    vision = vision_positions(model, prompts["input_ids"], prompts)
    check_all_cuts(model, prompts, lambda cut: dropped(model, vision, cut))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
@pytest.mark.parametrize("scope", ["text", "last"])
def test_query_scopes_equal_both_references(family, scope, attention):
    model, prompts = model_for(family, attention), prompts_for(family)
    vision = vision_positions(model, prompts["input_ids"], prompts)
    for hidden in (masked, dropped):
        check_all_cuts(model, prompts, lambda cut, hidden=hidden: hidden(model, vision, cut, scope), query_scope=scope)


@pytest.mark.parametrize("hidden", [masked, dropped])
@pytest.mark.parametrize("scope", ["all", "text", "last"])
@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family, kind in CASES if kind in ("images", "one image", "mixed")]
)
def test_vision_that_can_be_read_again_equals_both_references(family, kind, scope, hidden):
    model, prompts = model_for(family), prompts_for(family, kind)
    vision = vision_positions(model, prompts["input_ids"], prompts)

    def reference(variant):
        return hidden(model, vision, variant.cut, scope, until=variant.until)

    check_all(model, windows(model), prompts, reference, query_scope=scope)


@pytest.mark.parametrize("form", ["authors_qwen2_5", "authors_qwen3"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_the_authors_masking_is_their_compaction_taken_literally(family, form):
    model, prompts = model_for(family), prompts_for(family, "one image")
    vision = vision_positions(model, prompts["input_ids"], prompts)
    for cut in range(find_decoder(model).depth):
        expected = logits_under(model, prompts, compacted(model, vision, cut, form))
        found = logits_under(model, prompts, damaged(model, vision, cut, form))
        assert torch.equal(found[0], expected[0])
        assert (found[1] - expected[1]).abs().max() <= TOLERANCE
    assert run_plainly(model, [Variant("2", 2)], prompts, query_scope=form).tokens
    with pytest.raises(UnsupportedError, match="'authors_qwen"):
        generate_family(model, [Variant("2", 2)], prompts, query_scope=form)
    with pytest.raises(UnsupportedError, match="one prompt at a time"):
        run_plainly(model, [Variant("2", 2)], prompts_for(family), query_scope=form)
    with pytest.raises(UnsupportedError, match="never lets it be read again"):
        run_plainly(model, [Variant("2", 2, until=3)], prompts, query_scope=form)


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_is_told_alike_by_processor_and_config(family):
    model, prompts = model_for(family), prompts_for(family)
    told = vision_positions(model, prompts["input_ids"], prompts)
    assert torch.equal(told, vision_positions(model, prompts["input_ids"], {}))
    assert told.sum(dim=1).tolist()[-1] == 0
    assert told.sum(dim=1).tolist()[0] > 1


def test_in_bfloat16_answers_part_only_at_near_ties():
    model, prompts = copy.deepcopy(model_for("qwen2_5_vl")).bfloat16(), prompts_for("qwen2_5_vl")
    cuts = range(find_decoder(model).depth + 1)
    result = generate_family(model, [Variant(str(cut), cut) for cut in cuts], prompts)
    for cut in cuts:
        tokens, logits = logits_under(model, prompts, hidden_from(model, prompts, cut))
        for row, answer in enumerate(result.tokens[cut]):
            other = next((step for step, token in enumerate(answer) if token != tokens[row, step]), None)
            if other is not None:
                best, second = logits[row, other].topk(2).values
                assert best - second <= 0.02 * best.abs(), f"cut {cut}, prompt {row}, step {other}"
