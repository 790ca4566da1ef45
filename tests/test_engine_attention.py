"""Attention read off a family equals what an ordinary eager run of each variant returns as `output_attentions`."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, tiny_model
from engine_prompts import model_for, prompts_for
from test_engine_weights import holding, other_weights

from lmms_plam.errors import UnsupportedError
from lmms_plam.model import Variant, find_decoder, generate_family, masked, run_plainly, vision_positions
from lmms_plam.model.host import Attention
from lmms_plam.model.readout import find_sinks, given_to

TOLERANCE = 1e-5

CASES = [
    *((family, "images") for family in (*FAMILIES, "gemma3")),
    *((family, "mixed") for family in FAMILIES if family != "llava"),
]


def naive(rows):
    """Mass, entropy, focus and map of attention rows [layers, heads, queries, vision], each row by itself, in numpy."""
    layers, heads, _, vision = rows.shape
    mass = rows.sum(-1)
    entropy, focus = np.full((2, layers, heads), np.nan)
    for layer in range(layers):
        for head in range(heads):
            own = [row / row.sum() for row in rows[layer, head] if row.sum() > 0]
            if own and vision > 1:
                spread = [-sum(p * np.log(p) for p in row if p > 0) / np.log(vision) for row in own]
                entropy[layer, head] = np.mean(spread)
            if own:
                together, held, count = np.sort(rows[layer, head].sum(0))[::-1], 0.0, 0
                while held < together.sum() / 2:
                    held, count = held + together[count], count + 1
                focus[layer, head] = count / vision
    return mass.mean(-1), entropy, focus, rows.mean((1, 2))


def longest(step):
    """The number of keys so far: layers with a sliding window keep the last ones only."""
    return max(layer.shape[-1] for layer in step)


def eager_rows(model, prompts, variant, tokens):
    """By prompt, the eager attention of instruction and response rows on vision tokens, of an ordinary run."""
    hidden, vision = variant.hidden(find_decoder(model).depth), vision_positions(model, prompts["input_ids"], prompts)
    with masked(model, vision, hidden.start, until=hidden.stop):
        output = model.generate(**prompts, return_dict_in_generate=True, output_attentions=True)
    for row, own in enumerate(vision):
        columns = own.nonzero().flatten()
        if not len(columns):
            yield None
            continue
        first, *later = (
            np.stack(
                [
                    np.pad(layer[row].double().numpy(), ((0, 0), (0, 0), (longest(step) - layer.shape[-1], 0)))
                    for layer in step
                ]
            )
            for step in output.attentions
        )
        start = int(columns[-1]) + 1
        later = [step[..., columns] for step in later[: len(tokens[row]) - 1]]
        yield first[:, :, start:, columns], np.concatenate(later, axis=2) if later else None


def require_equal(read, rows):
    assert (read is None) == (rows is None)
    for one, two in zip((read.mass, read.entropy, read.focus, read.map), naive(rows), strict=True):
        np.testing.assert_allclose(one.numpy(), two, atol=TOLERANCE, rtol=0)


def require_alike(one, two):
    assert (one is None) == (two is None)
    if one is None:
        return
    assert (one.response is None) == (two.response is None)
    assert (one.sinks == two.sinks).all()
    for own, other in ((one.instruction, two.instruction), (one.response, two.response)):
        for name in ("mass", "entropy", "focus", "map") if own is not None else ():
            first, second = getattr(own, name), getattr(other, name)
            torch.testing.assert_close(first, second, atol=TOLERANCE, rtol=0, equal_nan=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_attention_equals_that_of_eager_runs(family, kind, attention):
    model, prompts = model_for(family, attention), prompts_for(family, kind)
    sets = {one.name: one for one in (other_weights(model, "merged", [3, 4]), other_weights(model, "early", range(5)))}
    variants = [Variant("untouched"), Variant("merged", weights="merged"), Variant("early", weights="early")]
    variants += [Variant("2", 2), Variant("merged 4", 4, "merged"), Variant("1-3", 1, until=3)]
    plain = generate_family(model, variants, prompts, weights=list(sets.values()), keep_logits=True)
    result = generate_family(
        model, variants, prompts, weights=list(sets.values()), keep_logits=True, read_attention=True
    )
    assert result.tokens == plain.tokens
    by_itself = run_plainly(model, variants, prompts, weights=list(sets.values()), read_attention=True)
    for own, other in zip(result.readouts, by_itself.readouts, strict=True):
        for one, two in zip(own, other, strict=True):
            require_alike(one, two)
    for one, two in zip(chain(*result.logits), chain(*plain.logits), strict=True):
        assert (one - two).abs().max() <= TOLERANCE
    seen = 0
    for place, variant in enumerate(variants):
        other = holding(model_for(family, "eager"), sets.get(variant.weights))
        reference = eager_rows(other, prompts, variant, result.tokens[place])
        for read, rows in zip(result.readouts[place], reference, strict=True):
            assert (read is None) == (rows is None)
            if read is not None:
                require_equal(read.instruction, rows[0])
                if read.response is not None:
                    require_equal(read.response, rows[1])
                    seen += 1
    assert seen


def test_an_answer_of_one_token_gives_nothing_and_says_so():
    model, prompts = model_for("llava"), prompts_for("llava", "one image", max_new_tokens=1)
    result = generate_family(model, [Variant("")], prompts, read_attention=True)
    assert result.readouts[0][0].response is None
    assert result.readouts[0][0].instruction.mass.shape == (5, find_decoder(model).text.config.num_attention_heads)


def test_a_prompt_without_vision_has_no_readout():
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    read = generate_family(model, [Variant(""), Variant("1", 1)], prompts, read_attention=True).readouts
    assert [[one is None for one in own] for own in read] == [[False, False, True]] * 2


def test_groups_beyond_the_memory_budget_read_the_same():
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    weights = [other_weights(model, name, [2, 3, 4]) for name in ("one", "other name")]
    variants = [Variant(one.name, weights=one.name) for one in weights]
    alone = generate_family(model, variants, prompts, weights=weights, memory_budget=1, read_attention=True)
    together = generate_family(model, variants, prompts, weights=weights, read_attention=True)
    for one, two in zip(chain(*alone.readouts), chain(*together.readouts), strict=True):
        if one is not None:
            torch.testing.assert_close(one.instruction.map, two.instruction.map, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(one.response.map, two.response.map, atol=TOLERANCE, rtol=0)


def test_attention_on_one_token_alone_has_no_entropy():
    """Rounding would make it less than none."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.zeros(4, 50, 8), torch.randn(2, 30, 8, generator=generator)
    query[..., 0], key[..., 0], key[:, 3, 0] = 30.0, 0.0, torch.tensor([3.0, 3.1])
    attention = Attention(None, None, {})
    found = given_to(attention, query, key, torch.ones(50, 30, dtype=torch.bool), torch.arange(12)).average(50)
    assert (found.entropy >= 0).all()
    torch.testing.assert_close(found.entropy, torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.focus, torch.full((4,), 1 / 12))


def test_low_precision_reads_in_float32():
    model = tiny_model("qwen2_5_vl", dtype=torch.bfloat16)
    prompts = prompts_for("qwen2_5_vl", "one image")
    read = generate_family(model, [Variant("")], prompts, read_attention=True).readouts[0][0].instruction
    assert read.mass.dtype == torch.float32
    assert ((read.mass > 0) & (read.mass < 1)).all()
    torch.testing.assert_close(read.map.sum(-1), read.mass.mean(-1))


def test_sinks_are_where_the_first_token_s_large_dimensions_are_large():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 4096, generator=generator)
    hidden[2, 17] = 2000.0  # the first token: a large dimension
    hidden[4, 17], hidden[6, 18], hidden[7, 17] = -2000.0, 2000.0, 10.0  # a sink; large elsewhere; not large enough
    found = find_sinks(hidden, 2, torch.tensor([4, 5, 6, 7]))
    assert found.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("variants", "options", "what"),
    [
        ([Variant("quiet", silent=2)], {}, "variant 'quiet' silences attention"),
        ([Variant("1", 1)], {"query_scope": "last"}, "the attention of others can't be read"),
    ],
)
def test_what_cannot_be_read_is_refused(variants, options, what):
    with pytest.raises(UnsupportedError, match=what):
        generate_family(model_for("llava"), variants, prompts_for("llava"), read_attention=True, **options)
