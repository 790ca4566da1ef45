"""The small world's training code: packed rows and the layer-by-layer forward, against plain oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmms_plam.embedded.forward import answer_logits
from lmms_plam.embedded.packing import IGNORED
from lmms_plam.embedded.words import build_processor
from lmms_plam.microworld.answering import right_answers, see
from lmms_plam.microworld.architecture import (
    CHAT_TEMPLATE,
    PICTURE_PIXELS,
    GridPacker,
    build_base_lm,
    build_tokenizer,
    grow_vlm,
)
from lmms_plam.microworld.benchmark import ask_about_picture, ask_about_text, documents, draw_quiz
from lmms_plam.microworld.grids import draw_grid, members
from lmms_plam.microworld.questions import KINDS, NARROW
from lmms_plam.microworld.train import CHOICES, KEPT_LAYERS, deal, half_precision, sample_batch

QUIZ = draw_quiz("benchmark", 6)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def base_lm(tokenizer):
    torch.manual_seed(0)
    model = build_base_lm(tokenizer).eval()
    for parameter in model.parameters():  # far from the initial near-zero attention scores
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def vlm(base_lm, tokenizer):
    model = grow_vlm(base_lm, tokenizer).eval()
    for parameter in model.model.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def prompt_of(tokenizer, *, picture, text):
    content = [{"type": "image"}] * picture + [{"type": "text", "text": text}]
    return tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_question_about_text_gets_the_logits_of_the_plain_prompt(kind, tokenizer, base_lm):
    grid, questions = QUIZ[3]
    packer = GridPacker(tokenizer, pictures=False, kinds=tuple(KINDS))
    number = list(KINDS).index(kind)
    ids, _ = packer.pack([grid], [questions])
    packed = answer_logits(base_lm, packer.layout, ids)[0, packer.layout.questions == number]
    document = list(documents(QUIZ[3:4]))[number]
    prompt = prompt_of(tokenizer, picture=False, text=ask_about_text(document))
    plain = base_lm(torch.tensor([tokenizer.encode(prompt + document["answer"])])).logits[0]
    learnt = len(tokenizer.encode(document["answer"])) + 1
    torch.testing.assert_close(packed[:learnt], plain[-learnt:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["read", "plus", "sum", "via"])
def test_a_packed_question_about_a_picture_gets_the_logits_of_the_plain_prompt(kind, tokenizer, vlm):
    grid, questions = QUIZ[5]
    packer = GridPacker(tokenizer, pictures=True, kinds=tuple(KINDS))
    number = list(KINDS).index(kind)
    ids, _ = packer.pack([grid], [questions])
    packed = answer_logits(vlm, packer.layout, ids, see(vlm, [grid]))[0, packer.layout.questions == number]

    processor = build_processor(tokenizer, PICTURE_PIXELS)
    document = list(documents(QUIZ[5:6]))[number]
    prompt = prompt_of(processor, picture=True, text=ask_about_picture(document))
    inputs = processor(text=[prompt + document["answer"]], images=[draw_grid(grid.images)], return_tensors="pt")
    plain = vlm(**inputs).logits[0]
    learnt = len(tokenizer.encode(document["answer"])) + 1
    torch.testing.assert_close(packed[:learnt], plain[-learnt:], atol=1e-3, rtol=1e-3)


def test_written_and_shown_grids_stand_at_the_same_places(tokenizer):
    written, shown = (GridPacker(tokenizer, pictures=pictures, kinds=("read",)).layout for pictures in (False, True))
    assert shown.images == slice(2, 12)
    assert torch.equal(shown.positions[2], written.positions[0])  # the width is all that the rotary positions count


@torch.no_grad()
def test_a_vlm_reads_the_words_embeddings_in_place_of_a_picture_as_the_base_lm_reads_the_words(tokenizer, base_lm, vlm):
    grid, questions = QUIZ[0]
    packers = [GridPacker(tokenizer, pictures=pictures, kinds=tuple(KINDS)) for pictures in (False, True)]
    (text, _), (picture, _) = (packer.pack([grid], [questions]) for packer in packers)
    words = base_lm.model.embed_tokens(text[:, 2:12])
    written, seen = (
        answer_logits(model, packer.layout, ids, vision)[..., : tokenizer.convert_tokens_to_ids("<|vision_start|>")]
        for model, packer, ids, vision in ((base_lm, packers[0], text, None), (vlm, packers[1], picture, words))
    )  # as outputs, the tokens around a picture differ
    torch.testing.assert_close(seen, written, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_right_answers_are_those_whose_every_token_is_the_likeliest(tokenizer, base_lm):
    packer = GridPacker(tokenizer, pictures=False, kinds=("sum", "read"))
    quiz = tuple((grid, tuple(q for q in qs if q.kind in packer.kinds)[::-1]) for grid, qs in QUIZ[:3])
    ids, targets = packer.pack(*zip(*quiz, strict=True))
    right = right_answers(base_lm, packer, quiz)
    fine = answer_logits(base_lm, packer.layout, ids).argmax(-1) == targets
    fine |= targets == IGNORED
    assert right.shape == (3, 2)
    assert right[:, 0].tolist() == (fine[:, :3]).all(1).tolist()
    assert right[:, 1].tolist() == (fine[:, 3:]).all(1).tolist()


def test_kinds_that_lag_are_asked_more():
    dealt = deal({"read": 0.0, "sum": 0.6, "via": 0.9, "item": 0.1}, 7)
    assert {kind: dealt.count(kind) for kind in ("read", "sum", "via", "item")} == {
        "read": 1,
        "sum": 2,
        "via": 3,
        "item": 1,
    }


def test_half_precision_leaves_the_rotary_frequencies_as_loading_does(tokenizer, tmp_path):
    from transformers import Qwen2ForCausalLM

    model = half_precision(build_base_lm(tokenizer))
    model.save_pretrained(tmp_path)
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.model.layers[0].mlp.up_proj.weight.dtype == model.dtype == torch.bfloat16
    assert torch.equal(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_no_grid_and_no_image_of_a_quiz_is_trained_on():
    import random

    splits = [set(members(split)) for split in ("train", "choices", "benchmark", "held_out")]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 1797
    grids, questions = sample_batch(NARROW, 8, random.Random(0))
    assert {image for grid in grids for image in grid.images} <= splits[0]
    assert {image for grid, _ in CHOICES for image in grid.images} <= splits[1]
    assert [[q.kind for q in asked] for asked in questions] == [list(NARROW)] * len(grids)


def test_the_chat_template_drops_the_system_message(tokenizer):
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "read a?"}]
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "<|im_start|>read a?"
    assert KEPT_LAYERS == 4
    assert np.prod(draw_grid(QUIZ[0][0].images).size) == PICTURE_PIXELS
