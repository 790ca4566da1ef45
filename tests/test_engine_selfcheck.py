"""The engine's proof on the model at hand: it holds on every family, and faults of either way are seen by it."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from loguru import logger

from lmms_plam.errors import UnsupportedError
from lmms_plam.harness.engine import Engine
from lmms_plam.model import (
    Variant,
    WeightSet,
    check_engine,
    check_hiding,
    find_decoder,
    generate_family,
    lanes,
    reference,
    run_plainly,
)
from lmms_plam.model.answers import Group
from lmms_plam.model.decoding import Lineup, Shelf
from lmms_plam.model.reader import Reader

WAYS = {"engine": generate_family, "plain": run_plainly}


def all_cuts(model):
    return [Variant(str(cut), cut) for cut in range(find_decoder(model).depth + 1)]


def hiding(way, model, prompts):
    return check_hiding(model, partial(WAYS[way], model, keep_logits=True), prompts)


def engine_of(model, check=True):
    return Engine(model, lambda name: None, 2**30, check=check, proofs={})


@contextmanager
def warnings():
    told = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="INFO")
    yield told
    logger.remove(sink)


def test_attention_read_at_the_wrong_place_is_seen(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    read = Reader._read

    def beside(self, row, prompt, attention, query, key, mask, vision):
        return read(self, row, prompt, attention, query, key, mask, vision - 1)

    monkeypatch.setattr(Reader, "_read", beside)
    found = check_engine(model, all_cuts(model), prompts, read_attention=True)
    assert found.deviation.startswith("variant 'untouched', prompt 0: attention mass of a layer is read otherwise, by ")
    assert check_engine(model, all_cuts(model), prompts).deviation == ""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_every_family_passes(family, attention):
    model, prompts = model_for(family, attention), prompts_for(family)
    found = check_engine(model, all_cuts(model), prompts, read_attention=True)
    assert found.deviation == ""
    assert found.variants >= 3
    assert found.largest <= found.allowed <= 0.01
    for way in WAYS:
        looked = hiding(way, model, prompts)
        assert looked.holds
        assert looked.seen > 100 * looked.allowed


def test_what_bfloat16_allows_is_less_than_what_a_picture_changes():
    model, prompts = copy.deepcopy(model_for("qwen2_5_vl")).bfloat16(), prompts_for("qwen2_5_vl")
    assert check_engine(model, all_cuts(model), prompts).deviation == ""
    looked = hiding("engine", model, prompts)
    assert looked.hidden <= looked.allowed < looked.seen


def test_replaced_weights_are_checked_too():
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    layer = find_decoder(model).layers[1]
    other = {1: {"self_attn.o_proj.weight": -layer.self_attn.o_proj.weight.detach()}}
    variants, sets = [Variant("base", weights="base"), Variant("merged")], [WeightSet("base", other)]
    found = check_engine(model, variants, prompts, weights=sets)
    assert (found.deviation, found.variants) == ("", 4)


def reads_all(self, prompt, answers, layer, branches):
    states = self._layout.read(self._tree.root, prompt, self._states(self._tree.root, layer, branches))
    return [Shelf(list(range(len(answers))), states, "common")]


def hides_in_prefill_only(original):
    """What transformers 5.24 made of the reference: without the cache's name it saw no step after the first."""

    @contextmanager
    def masked(model, vision, *rest, **options):
        calls = 0

        def note(module, args, kwargs):
            nonlocal calls
            calls += 1
            if calls > 1:
                inside.__exit__(None, None, None)

        inside = original(model, vision, *rest, **options)
        handle = model.register_forward_pre_hook(note, with_kwargs=True)
        inside.__enter__()
        yield
        handle.remove()

    return masked


def broken_engine(monkeypatch, fault):
    if fault == "vision is read when decoding":
        monkeypatch.setattr(Group, "_shelves", reads_all)
    elif fault == "an unknown argument":
        monkeypatch.setattr(Lineup, "attend", lambda *_: {}["past_key_values"])
    elif fault == "text before the picture is lost":
        aligned = lanes._aligned
        monkeypatch.setattr(lanes, "_aligned", lambda chosen: aligned(chosen & (chosen.cumsum(1) > 2)))


FAULTS = ["vision is read when decoding", "an unknown argument", "text before the picture is lost"]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_deviates_is_left_for_the_plain_way_in_one_line(monkeypatch, fault):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    plain = run_plainly(model, all_cuts(model), prompts)
    broken_engine(monkeypatch, fault)
    engine = engine_of(model)
    with warnings() as told:
        answers = [engine.answer("a_task", all_cuts(model), "all", None, prompts) for _ in range(2)]
    assert all(result.tokens == plain.tokens for result in answers)
    assert len(told) == 1
    assert told[0].startswith("a_task: the engine deviates on this model (lmms-plam ")
    assert f"torch {torch.__version__.partition('+')[0]}" in told[0]
    assert engine.proofs["a_task"].way == "plain"
    assert engine.proofs["a_task"].why in told[0]


def test_a_plain_way_that_hides_in_prefill_only_is_found_out_and_ends_the_run(monkeypatch):
    model, prompts = model_for("llava"), prompts_for("llava", "one image", num_beams=2)
    monkeypatch.setattr(reference, "masked", hides_in_prefill_only(reference.masked))
    assert not hiding("plain", model, prompts).holds
    with pytest.raises(UnsupportedError, match=r"pictures can't be hidden from this model \(lmms-plam .* transformers"):
        engine_of(model).answer("a_task", all_cuts(model), "all", None, prompts)


def test_an_exception_in_the_middle_of_a_run_goes_on_plainly(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    engine = engine_of(model)
    first = engine.answer("a_task", all_cuts(model), "all", None, prompts)
    assert engine.proofs["a_task"].way == "engine"
    broken_engine(monkeypatch, "an unknown argument")
    with warnings() as told:
        assert engine.answer("a_task", all_cuts(model), "all", None, prompts).tokens == first.tokens
    assert "it fails with KeyError: 'past_key_values'" in told[0]


def test_the_check_is_said_once_a_task_and_can_be_turned_off(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    checked, unchecked = (engine_of(model, check) for check in (True, False))
    with warnings() as told:
        for task in ("one", "one", "other"):
            checked.answer(task, all_cuts(model), "all", None, prompts)
        unchecked.answer("none", all_cuts(model), "all", None, prompts)
    assert [line.partition(":")[0] for line in told] == ["one", "other"]
    assert all("engine checked on this model: " in line for line in told)
    assert checked.proofs["one"].hidden <= checked.proofs["one"].allowed < checked.proofs["one"].seen
    assert unchecked.proofs["none"].variants == 0


def test_hiding_is_checked_on_the_first_prompts_that_have_pictures():
    model = model_for("qwen2_5_vl")
    pictures, text = prompts_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    text = {name: value[-1:] for name, value in text.items() if name in ("input_ids", "attention_mask")} | {
        "mm_token_type_ids": text["mm_token_type_ids"][-1:],
        "do_sample": False,
        "max_new_tokens": 2,
    }
    engine = engine_of(model)
    engine.answer("a_task", all_cuts(model), "all", None, text)
    assert engine.proofs["a_task"].hidden is None
    engine.answer("a_task", all_cuts(model), "all", None, pictures)
    assert engine.proofs["a_task"].hidden is not None


def test_pictures_that_reach_no_layer_are_said(monkeypatch):
    model, prompts = model_for("llava"), prompts_for("llava", "one image")
    embed = model.model.get_placeholder_mask
    monkeypatch.setattr(
        model.model, "get_placeholder_mask", lambda *args, **kwargs: torch.zeros_like(embed(*args, **kwargs))
    )
    monkeypatch.setattr(torch.Tensor, "masked_scatter", lambda self, mask, source: self)
    with warnings() as told:
        engine_of(model).answer("a_task", all_cuts(model), "all", None, prompts)
    assert any("do pictures reach the model?" in line for line in told)
