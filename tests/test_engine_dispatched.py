"""A model spread over devices by accelerate, as `device_map` does it, is asked as one that lies on a single device.

The hooks that move inputs from device to device are attached layer by layer. Where there is a GPU, the later half of
the layers lies on it and all else on the CPU; elsewhere all stays on the CPU, and that tensors are moved can't be seen.
"""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import dispatch_model
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from test_engine_weights import other_weights

from lmms_plam.model import Variant, find_decoder, generate_family

OTHER, APART = ("cuda:0", 1e-4) if torch.cuda.is_available() else ("cpu", 0)


def dispatched(model):
    """A copy of the model with hooks on each decoder layer and on all else, the later half of the layers elsewhere."""
    other = copy.deepcopy(model)
    decoder = find_decoder(other)
    layers = {id(layer) for layer in decoder.layers}
    containers = {name for name, module in other.named_modules() if any(id(sub) in layers for sub in module.modules())}
    whole = [name for name, module in other.named_modules() if id(module) in layers or name not in containers]
    own = [name for name, _ in other.named_parameters() if name.rpartition(".")[0] in containers]
    places = {name: "cpu" for name in (*whole, *own) if name.rpartition(".")[0] in containers or name in own}
    later = {id(layer) for layer in decoder.layers[decoder.depth // 2 :]}
    places |= {name: OTHER for name, module in other.named_modules() if id(module) in later}
    return dispatch_model(other, places, main_device="cpu", force_hooks=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_and_other_weights_are_answered_alike_by_a_dispatched_model(family):
    model, prompts = model_for(family, "sdpa"), prompts_for(family)
    spread = dispatched(model)
    assert sum(hasattr(layer, "_hf_hook") for layer in find_decoder(spread).layers) == find_decoder(model).depth
    assert not any(parameter.is_meta for parameter in spread.parameters())
    assert {str(parameter.device) for parameter in spread.parameters()} == {"cpu", OTHER}
    sets = [other_weights(model, "late", range(2, find_decoder(model).depth))]
    variants = [Variant("full"), Variant("cut", cut=1), Variant("merged", weights="late")]
    plain, moved = (generate_family(one, variants, prompts, weights=sets, keep_logits=True) for one in (model, spread))
    assert plain.tokens == moved.tokens
    for one, other in zip(plain.logits, moved.logits, strict=True):
        for row, same in zip(one, other, strict=True):
            torch.testing.assert_close(same.cpu(), row, atol=APART, rtol=APART)
