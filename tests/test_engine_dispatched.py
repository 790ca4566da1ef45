"""A model spread over devices by accelerate, as `device_map` does it, is asked as one that lies on a single device.

The hooks that move inputs from device to device are attached layer by layer, all on a CPU. Where there is a GPU, the
later half of the layers lies on it: there the engine refuses, and the plain way gives the same answers.
"""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import dispatch_model
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from test_engine_weights import other_weights

from lmms_plam.errors import UnsupportedError
from lmms_plam.model import Variant, find_decoder, generate_family, run_plainly


def dispatched(model, elsewhere="cpu"):
    """A copy of the model with hooks on each decoder layer and on all else, the later half of the layers elsewhere."""
    other = copy.deepcopy(model)
    decoder = find_decoder(other)
    layers = {id(layer) for layer in decoder.layers}
    containers = {
        name
        for name, module in other.named_modules()
        if id(module) not in layers and any(id(inner) in layers for inner in module.modules())
    }
    parts = [*(name for name, _ in other.named_modules()), *(name for name, _ in other.named_parameters())]
    places = {name: "cpu" for name in parts if name not in containers and name.rpartition(".")[0] in containers}
    later = {id(layer) for layer in decoder.layers[decoder.depth // 2 :]}
    places |= {name: elsewhere for name, module in other.named_modules() if id(module) in later}
    skipped = other._skip_keys_device_placement
    return dispatch_model(other, places, main_device="cpu", skip_keys=skipped, force_hooks=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_and_other_weights_are_answered_alike_by_a_dispatched_model(family):
    model, prompts = model_for(family, "sdpa"), prompts_for(family)
    spread = dispatched(model)
    assert sum(hasattr(layer, "_hf_hook") for layer in find_decoder(spread).layers) == find_decoder(model).depth
    assert not any(parameter.is_meta for parameter in spread.parameters())
    sets = [other_weights(model, "late", range(2, find_decoder(model).depth))]
    variants = [Variant("full"), Variant("cut", cut=1), Variant("merged", weights="late")]
    plain, moved = (generate_family(one, variants, prompts, weights=sets, keep_logits=True) for one in (model, spread))
    assert plain.tokens == moved.tokens
    for one, other in zip(plain.logits, moved.logits, strict=True):
        for row, same in zip(one, other, strict=True):
            assert torch.equal(same, row)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_on_two_devices_are_refused_and_answered_plainly(family):
    model, prompts = model_for(family, "sdpa"), prompts_for(family)
    spread = dispatched(model, "cuda:0")
    assert {str(parameter.device) for parameter in spread.parameters()} == {"cpu", "cuda:0"}
    variants = [Variant("full"), Variant("cut", cut=1)]
    with pytest.raises(UnsupportedError, match="all decoder layers on one device, and they are on cpu, cuda:0"):
        generate_family(spread, variants, prompts)
    assert run_plainly(spread, variants, prompts).tokens == run_plainly(model, variants, prompts).tokens
