"""Answers with different weights decode in one forward, each of its rows with its own weights."""

from __future__ import annotations

import copy

import pytest
import torch
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from test_engine_weights import TOLERANCE, holding, other_weights
from torch import nn
from torch.nn.functional import linear

from lmms_plam.errors import UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model import Variant, WeightSet, answers, decoding, find_decoder, generate_family, run_plainly
from lmms_plam.model.decoding import DecodingBatch


def asked(model, prompts, sets, monkeypatch):
    """What a family with the untouched model and these sets answers, and the rows of each forward of its decoding."""
    rows, step = [], DecodingBatch.step

    def counted(self, tokens, *rest):
        rows.append(len(tokens))
        return step(self, tokens, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(DecodingBatch, "step", counted)
        variants = [Variant("base"), *(Variant(one.name, weights=one.name) for one in sets)]
        return generate_family(model, variants, prompts, weights=sets, keep_logits=True), rows


def assert_as_alone(result, model, prompts, sets):
    for one, logits in zip((None, *sets), result.logits, strict=True):
        alone = generate_family(holding(model, one), [Variant("")], prompts, keep_logits=True).logits[0]
        for row, reference in zip(logits, alone, strict=True):
            torch.testing.assert_close(row, reference, atol=TOLERANCE, rtol=0)


def with_norms(model, name, layer):
    """A weight set with all norms and projections of a layer's attention changed, and the layer's own norms."""
    tensors = dict(find_decoder(model).layers[layer].named_parameters())
    generator = torch.Generator().manual_seed(3)
    return WeightSet(
        name,
        {
            layer: {
                key: tensor.detach() * (1 + torch.rand(tensor.shape, generator=generator))
                for key, tensor in tensors.items()
                if "attn" in key or "norm" in key
            }
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_all_sets_take_one_forward_a_token(family, monkeypatch):
    model, prompts = model_for(family), prompts_for(family, eos_token_id=None, max_new_tokens=4)
    shared = other_weights(model, "shared", [3, 4])
    sets = [
        WeightSet("one", shared.layers, {3: "3", 4: "4"}),
        with_norms(model, "norms", 4),
        WeightSet("two", {4: shared.layers[4]}, {4: "4"}),
        other_weights(model, "mlp", [2], parts=("mlp",)),
    ]
    result, rows = asked(model, prompts, sets, monkeypatch)
    assert_as_alone(result, model, prompts, sets)
    assert rows == [len(prompts["input_ids"]) * (len(sets) + 1)] * 3


def test_answers_of_other_weights_leave_as_they_end(monkeypatch):
    model, prompts = model_for("llava"), prompts_for("llava", max_new_tokens=8, eos_token_id=None)
    sets = [other_weights(model, name, [start, 4]) for name, start in (("a", 2), ("b", 3), ("c", 2))]
    plain = asked(model, prompts, sets, monkeypatch)[0].tokens

    def cut(tokens, ends):
        return tokens[: next((place for place, token in enumerate(tokens) if token in ends), 7) + 1]

    def lengths(ends):
        return {len(cut(tokens, ends)) for own in plain for tokens in own}

    ends = max(([one, two] for one in plain[1][0] for two in plain[2][1]), key=lambda ends: len(lengths(ends) - {1}))
    assert len(lengths(ends) - {1}) > 2
    result, rows = asked(model, {**prompts, "eos_token_id": ends, "pad_token_id": 0}, sets, monkeypatch)
    assert result.tokens == [[cut(tokens, ends) for tokens in own] for own in plain]
    assert sum(rows) == sum(len(tokens) - 1 for own in result.tokens for tokens in own)


def test_more_answers_than_share_a_copy_are_answered_alike(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    sets = [other_weights(model, f"{start}", [start, 4]) for start in (1, 2, 3)]
    variants = [Variant("base"), Variant("cut", 2), Variant("silent", silent=3)]
    variants += [Variant(one.name, weights=one.name) for one in sets]
    variants += [Variant("cut 1", 3, "1"), Variant("silent 2", silent=3, weights="2")]
    whole = generate_family(model, variants, prompts, weights=sets, keep_logits=True)
    for module in (answers, decoding):
        monkeypatch.setattr(module, "SIDE_BY_SIDE", 2)
    parted = generate_family(model, variants, prompts, weights=sets, keep_logits=True)
    assert parted.tokens == whole.tokens == run_plainly(model, variants, prompts, weights=sets).tokens
    for own, other in zip(parted.logits, whole.logits, strict=True):
        for row, reference in zip(own, other, strict=True):
            torch.testing.assert_close(row, reference, atol=TOLERANCE, rtol=0)


class Mixed(nn.Module):
    """An MLP behind a matrix that is no linear module, such as experts have."""

    def __init__(self, mlp, width):
        super().__init__()
        self.mlp = mlp
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, states):
        return self.mlp(states @ self.matrix)


class Uncalled(Mixed):
    """A linear module of which the weight is used, and which isn't called."""

    def __init__(self, mlp, width):
        super().__init__(mlp, width)
        self.gate = nn.Linear(width, width, bias=False)

    def forward(self, states):
        return self.mlp(linear(states, self.gate.weight))


class Flattening(Uncalled):
    """A linear module that gets the states of all rows and tokens one below another."""

    def forward(self, states):
        return self.mlp(states + self.gate(states.flatten(0, 1)).view_as(states))


class Routed(Mixed):
    """Experts, which get states in an order of their own."""

    def __init__(self, mlp, width):
        super().__init__(mlp, width)
        self.experts = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(2)])

    def forward(self, states):
        flat = states.flatten(0, 1)
        routed = torch.stack([expert(flat.flip(0)).flip(0) for expert in self.experts]).sum(0)
        return self.mlp(states + routed.view_as(states))


def rebuilt(kind):
    model = copy.deepcopy(model_for("llava"))
    layer = find_decoder(model).layers[3]
    layer.mlp = kind(layer.mlp, model.config.text_config.hidden_size)
    return model


@pytest.mark.parametrize(("kind", "name"), [(Mixed, "mlp.matrix"), (Routed, "mlp.experts.0.weight")])
def test_weights_of_other_modules_take_a_forward_of_their_own(kind, name, monkeypatch):
    model, prompts = rebuilt(kind), prompts_for("llava", eos_token_id=None, max_new_tokens=2)
    turned = {3: {name: torch.eye(model.config.text_config.hidden_size).flip(0)}}
    sets = [other_weights(model, "late", [4]), WeightSet("turned", turned)]
    result, rows = asked(model, prompts, sets, monkeypatch)
    assert_as_alone(result, model, prompts, sets)
    prompt_rows = len(prompts["input_ids"])
    assert rows == [2 * prompt_rows, prompt_rows]


def test_weights_that_a_model_uses_without_calling_their_module_are_refused():
    model, prompts = rebuilt(Uncalled), prompts_for("llava")
    width = model.config.text_config.hidden_size
    sets = [WeightSet("gated", {3: {"mlp.gate.weight": torch.eye(width)}})]
    with pytest.raises(UnsupportedError, match=r"use the weights of 'mlp\.gate' without calling it"):
        generate_family(model, [Variant("base"), Variant("gated", weights="gated")], prompts, weights=sets)


def test_texts_are_followed_with_several_weights_and_flattened_states():
    model, prompts = rebuilt(Flattening), prompts_for("llava")
    width = model.config.text_config.hidden_size
    sets = [WeightSet("gated", {3: {"mlp.gate.weight": torch.eye(width)}}), other_weights(model, "late", [4])]
    variants = [Variant("base"), *(Variant(one.name, weights=one.name) for one in sets)]
    passages = [[Passage((5, 9, 7, 11), 1), Passage((8, 6), 0)] for _ in prompts["input_ids"]]
    together = generate_family(model, variants, prompts, weights=sets, continuations=passages).scores
    for one, own in zip((None, *sets), together, strict=True):
        (alone,) = generate_family(holding(model, one), [Variant("")], prompts, continuations=passages).scores
        for scores, references in zip(own, alone, strict=True):
            assert [score.log_probability for score in scores] == pytest.approx(
                [score.log_probability for score in references], abs=TOLERANCE
            )
