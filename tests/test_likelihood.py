"""Log-probabilities of texts equal those of one plain forward pass each, whatever is shared on the way."""

from __future__ import annotations

import random

import pytest
import torch
from checkpoints import FAMILIES, tiny_model
from test_engine_whole import whole

from lmms_plam.errors import UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model import WeightSet, find_decoder, installed_whole, likelihood, score_texts

START = 1


def documents(count: int = 12, seed: int = 0) -> list[list[Passage]]:
    """Return candidates of random tokens with a random context; some begin alike, two are equal."""
    rng = random.Random(seed)

    def words(least: int, most: int) -> list[int]:
        return [rng.randrange(5, 300) for _ in range(rng.randint(least, most))]

    found = []
    for _ in range(count):
        context = words(0, 7)
        common = [*context, *words(0, 3)]
        found.append([Passage((*common, *words(1, 5)), len(context)) for _ in range(rng.randint(2, 4))])
    found[0][1] = found[0][0]
    return found


def plainly(model, passage: Passage) -> tuple[float, bool]:
    """Return log-probability and greediness by one forward pass of the text alone and the softmax written out."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[START, *passage.tokens]])).logits[0].double()
    total, greedy = 0.0, True
    for place, token in enumerate(passage.tokens):
        if place >= passage.start:
            total += float(logits[place, token] - logits[place].exp().sum().log())
            greedy &= int(logits[place].argmax()) == token
    return total, greedy


def agree(model, found, asked) -> None:
    for scores, passages in zip(found, asked, strict=True):
        for score, passage in zip(scores, passages, strict=True):
            expected, greedy = plainly(model, passage)
            assert score.log_probability == pytest.approx(expected, abs=1e-4)
            assert score.is_greedy == greedy


@pytest.fixture(params=[*FAMILIES, "gemma3"])
def model(request):
    return tiny_model(request.param)


@pytest.mark.parametrize("share", [True, False])
def test_batched_texts_score_as_single_ones(model, share):
    asked = documents()
    agree(model, score_texts(model, START, asked, share=share)[0], asked)


def test_weights_enter_where_they_differ_and_score_as_if_they_were_loaded(model):
    decoder, asked = find_decoder(model), documents()
    layers = {
        layer: {"mlp.down_proj.weight": decoder.layers[layer].mlp.down_proj.weight.detach() * -0.5} for layer in (3, 4)
    }
    late, later = WeightSet("late", layers), WeightSet("later", {4: layers[4]})
    found = score_texts(model, START, asked, [None, late, later])
    agree(model, found[0], asked)
    for weights, own in zip((late, later), found[1:], strict=True):
        assert own != found[0]
        with installed_whole(weights, model, decoder.by_index()):
            agree(model, own, asked)
    assert not any("forward" in vars(layer) for layer in decoder.layers)


def test_weights_beyond_the_decoder_layers_score_as_if_they_were_loaded(model):
    decoder, asked = find_decoder(model), documents()
    late = WeightSet("late", {4: {"mlp.down_proj.weight": decoder.layers[4].mlp.down_proj.weight.detach() * -0.5}})
    both = WeightSet("both", late.layers, outside=whole(model, "both").outside)
    found = score_texts(model, START, asked, [None, late, both])
    for weights, own in zip((None, late, both), found, strict=True):
        with installed_whole(weights, model, decoder.by_index()):
            agree(model, own, asked)
    assert found[1] != found[2]


def test_what_lies_below_the_first_changed_layer_runs_once(monkeypatch):
    model = tiny_model("qwen2_5_vl")
    decoder, ran = find_decoder(model), [0] * 5
    own = type(decoder.layers[0]).forward

    def count(self, *args, **kwargs):
        ran[list(decoder.layers).index(self)] += 1
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(decoder.layers[0]), "forward", count)
    changed = {4: {"mlp.down_proj.weight": decoder.layers[4].mlp.down_proj.weight.detach() * 2}}
    score_texts(model, START, documents(), [None, WeightSet("one", changed), WeightSet("two", changed)])
    assert ran == [1, 1, 1, 1, 3]


def test_equal_candidates_tie_to_the_last_bit():
    scores = score_texts(tiny_model("llava"), START, documents())[0]
    assert scores[0][0] == scores[0][1]


def test_small_batches_score_as_one(monkeypatch):
    model, asked = tiny_model("qwen3_vl"), documents()
    whole = score_texts(model, START, asked)[0]
    monkeypatch.setattr(likelihood, "_tokens_at_once", lambda _: 16)
    for one, other in zip(score_texts(model, START, asked)[0], whole, strict=True):
        assert [s.log_probability for s in one] == pytest.approx([s.log_probability for s in other], abs=1e-4)


def test_a_greedy_continuation_is_said_to_be_one():
    model = tiny_model("llava")
    with torch.inference_mode():
        best = int(model(input_ids=torch.tensor([[START]])).logits[0, -1].argmax())
    found = score_texts(model, START, [[Passage((best,), 0), Passage((best + 1,), 0)]])[0][0]
    assert [score.is_greedy for score in found] == [True, False]


def test_a_model_without_a_language_head_is_refused():
    with pytest.raises(UnsupportedError, match="has no language head, so that no text has a probability"):
        score_texts(tiny_model("llava").model.language_model, START, documents(1))
