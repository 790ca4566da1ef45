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
from lmms_plam.model import Variant, WeightSet, find_decoder, generate_family
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


def rebuilt(kind):
    model = copy.deepcopy(model_for("llava"))
    layer = find_decoder(model).layers[3]
    layer.mlp = kind(layer.mlp, model.config.text_config.hidden_size)
    return model


def test_weights_of_other_modules_take_a_forward_of_their_own(monkeypatch):
    model, prompts = rebuilt(Mixed), prompts_for("llava", eos_token_id=None, max_new_tokens=2)
    turned = {3: {"mlp.matrix": torch.eye(model.config.text_config.hidden_size).flip(0)}}
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
