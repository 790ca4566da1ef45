"""How a model does on a quiz, by the fast forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmms_plam.embedded.forward import answer_logits, cut_patches, encode_digits
from lmms_plam.embedded.handwriting import draw_digit
from lmms_plam.embedded.packing import IGNORED
from lmms_plam.microworld.architecture import GridPacker
from lmms_plam.microworld.benchmark import Quiz
from lmms_plam.microworld.grids import CELL_PIXELS, Grid

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM

_GRIDS_AT_ONCE = 50


@torch.no_grad()
def right_answers(
    model: Qwen2ForCausalLM | Qwen2_5_VLForConditionalGeneration,
    packer: GridPacker,
    quiz: Quiz,
    visible_layers: int | None = None,
) -> npt.NDArray[np.bool_]:
    """Say which questions are answered in full, to the end-of-answer token, (grids, kinds).

    Teacher-forced: every token of the answer is the most likely one after the right ones before it, which is when
    greedy decoding gives that answer.

    Args:
        model: base LM or VLM.
        packer: for pictures or text, of the quiz's kinds in their order.
        quiz: grids and questions.
        visible_layers: decoder layers, from the first on, in which the picture can be read; all if left out.
    """
    right = []
    for start in range(0, len(quiz), _GRIDS_AT_ONCE):
        grids, questions = zip(*quiz[start : start + _GRIDS_AT_ONCE], strict=True)
        ids, targets = packer.pack(grids, questions)
        vision = see(model, grids) if packer.pictures else None
        guesses = answer_logits(model, packer.layout, ids, vision, visible_layers).argmax(-1)
        fine = (guesses == targets) | (targets == IGNORED)
        places = packer.layout.questions
        right.append(torch.stack([fine[:, places == i].all(1) for i in range(len(packer.kinds))], dim=1))
    return torch.cat(right).numpy()


def see(vlm: Qwen2_5_VLForConditionalGeneration, grids: Sequence[Grid]) -> Tensor:
    """Return the vision tokens of the grids' pictures, (grids, 10, width)."""
    drawn = [np.asarray(draw_digit(image, CELL_PIXELS)) for grid in grids for image in grid.images]
    tokens = encode_digits(vlm, cut_patches(np.stack(drawn)))
    return tokens.view(len(grids), -1, tokens.shape[-1])


def accuracy(
    model: Qwen2ForCausalLM | Qwen2_5_VLForConditionalGeneration, packer: GridPacker, quiz: Quiz
) -> dict[str, float]:
    """Return the share of a quiz that is answered right, overall and for each kind."""
    right = right_answers(model, packer, quiz).mean(axis=0)
    scores = {"accuracy": right.mean(), **dict(zip(packer.kinds, right, strict=True))}
    return {name: round(float(score), 4) for name, score in scores.items()}
