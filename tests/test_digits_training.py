"""The pair's training code: packed rows, the layer-by-layer forward and the optimizer, against plain oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmms_plam.digits.architecture import build_base_lm, build_tokenizer, grow_vlm
from lmms_plam.digits.benchmark import quiz
from lmms_plam.digits.grids import CELL_PIXELS, CELLS, draw_grid, members
from lmms_plam.digits.packing import GridPacker, arrange
from lmms_plam.digits.questions import KINDS, write
from lmms_plam.embedded.forward import answer_logits, cut_patches, encode_digits
from lmms_plam.embedded.handwriting import draw_digit
from lmms_plam.embedded.optimizer import orthogonalise
from lmms_plam.embedded.words import build_processor


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


def answer_places(packer, kind):
    """Places of a kind's answer in the packed row that a plain prompt has too: all but the padding."""
    return packer.layout.questions == list(KINDS).index(kind)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_question_about_text_gets_the_logits_of_the_plain_prompt(kind, tokenizer, base_lm):
    grid, questions = quiz("benchmark")[3]
    packer = GridPacker(tokenizer, pictures=False)
    ids, _ = packer.pack([grid], [questions])
    packed = answer_logits(base_lm, packer.layout, ids)[0, answer_places(packer, kind)]
    question = questions[list(KINDS).index(kind)]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": write(grid.digits) + question.text}], add_generation_prompt=True, tokenize=False
    )
    plain = base_lm(torch.tensor([tokenizer.encode(prompt + question.answer)])).logits[0]
    learnt = len(tokenizer.encode(question.answer)) + 1
    torch.testing.assert_close(packed[:learnt], plain[-learnt:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["read", "sum", "parity"])
def test_a_packed_question_about_a_picture_gets_the_logits_of_the_plain_prompt(kind, tokenizer, vlm):
    grid, questions = quiz("benchmark")[5]
    question = questions[list(KINDS).index(kind)]
    packer = GridPacker(tokenizer, pictures=True)
    ids, _ = packer.pack([grid], [questions])
    digits = np.stack([np.asarray(draw_digit(image, CELL_PIXELS)) for image in grid.images])
    vision = arrange(encode_digits(vlm, cut_patches(digits)))
    packed = answer_logits(vlm, packer.layout, ids, vision)[0, answer_places(packer, kind)]

    processor = build_processor(tokenizer, len(CELLS) * CELL_PIXELS**2)
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt + question.answer], images=[draw_grid(grid.images)], return_tensors="pt")
    plain = vlm(**inputs).logits[0]
    learnt = len(tokenizer.encode(question.answer)) + 1
    torch.testing.assert_close(packed[:learnt], plain[-learnt:], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_hidden_picture_changes_nothing(tokenizer, vlm):
    grids, questions = zip(*quiz("benchmark")[:2], strict=True)
    packer = GridPacker(tokenizer, pictures=True)
    ids, _ = packer.pack(grids, questions)
    one, other = torch.randn(2, 2, 24, 128, generator=torch.Generator().manual_seed(0)).unbind()
    hidden = [answer_logits(vlm, packer.layout, ids, vision, visible_layers=0) for vision in (one, other)]
    shown = [answer_logits(vlm, packer.layout, ids, vision, visible_layers=1) for vision in (one, other)]
    torch.testing.assert_close(*hidden, atol=0, rtol=0)
    assert not torch.allclose(*shown)


def test_orthogonalise_moves_singular_values_near_one():
    matrices = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_the_three_splits_share_no_image():
    splits = [set(members(split).tolist()) for split in ("train", "benchmark", "held_out")]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 1797
