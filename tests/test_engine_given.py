"""Given texts behind pictures: read many tokens at once, they score as one token after another does."""

from __future__ import annotations

import functools
import random

import pytest
from checkpoints import FAMILIES
from engine_prompts import model_for, prompts_for
from test_engine_weights import other_weights

from lmms_plam.language.border import Passage
from lmms_plam.model import Variant, answers, find_decoder, follow_plainly, generate_family


def texts(prompts, seed=0):
    """Two to four texts of different lengths for each prompt, some scored in part, the shortest of one token."""
    rng = random.Random(seed)

    def passage(length):
        tokens = tuple(rng.randrange(5, 300) for _ in range(length))
        return Passage(tokens, rng.randrange(length))

    asked = [[passage(rng.randint(2, 9)) for _ in range(2 + row % 3)] for row in range(len(prompts["input_ids"]))]
    asked[0][0] = passage(1)
    return asked


def variants_of(model):
    depth = find_decoder(model).depth
    middle = depth // 2
    return [
        Variant("base"),
        Variant("blind", cut=0),
        Variant("half", cut=middle),
        Variant("early", cut=1, until=middle),
        Variant("silent", silent=middle),
        Variant("late", weights="late"),
        Variant("late and blind", cut=middle, weights="late"),
    ]


def equal(found, expected):
    for own, due in zip(found, expected, strict=True):
        for one, other in zip(own, due, strict=True):
            assert [score.log_probability for score in one] == pytest.approx(
                [score.log_probability for score in other], abs=1e-4
            )
            assert [score.is_greedy for score in one] == [score.is_greedy for score in other]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
@pytest.mark.parametrize("tokens", [None, 3])
def test_every_variant_scores_as_it_does_token_by_token(family, attention, tokens, monkeypatch):
    model, prompts = model_for(family, attention), prompts_for(family)
    asked, variants = texts(prompts), variants_of(model)
    options = {"weights": [other_weights(model, "late", [3])]}
    if tokens:
        rows = sum(map(len, asked)) * len(variants)
        monkeypatch.setattr(answers, "_LOGIT_BYTES", tokens * 4 * rows * model.get_output_embeddings().weight.shape[0])
    found = generate_family(model, variants, prompts, continuations=asked, **options)
    equal(found.scores, follow_plainly(model, variants, prompts, asked, **options).scores)


def test_a_text_is_read_in_one_run_of_the_model(monkeypatch):
    model, prompts = model_for("qwen2_5_vl"), prompts_for("qwen2_5_vl")
    runs, own = [], type(model).forward

    @functools.wraps(own)  # transformers looks at its signature
    def counted(self, *args, **kwargs):
        runs.append(1)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counted)
    generate_family(model, [Variant("base")], prompts, continuations=texts(prompts))
    assert len(runs) == 2, "the prompts, and all texts behind them"
