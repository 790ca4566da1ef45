"""Training batches: several questions behind a shared grid, so that the grid is read once for all of them.

The mask lets a question see the grid and itself, never another question, and positions start anew after the grid. So
each question gets exactly the answer that it would get alone, and one fixed layout serves every grid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmms_plam.digits.architecture import MERGE, PATCH
from lmms_plam.digits.grids import CELL_PIXELS, CELLS, COLUMNS, ROWS, Grid
from lmms_plam.digits.questions import KINDS, Question, ask, write

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

IGNORED = -100
"""Target of a place in the layout that no answer token falls on."""

_TOKENS_A_SIDE = CELL_PIXELS // (PATCH * MERGE)
IMAGE_ROWS, IMAGE_COLUMNS = ROWS * _TOKENS_A_SIDE, COLUMNS * _TOKENS_A_SIDE
_OPENING = 4
"""Tokens before the picture: the start of the message, its role, a new line, the start of the picture."""
_SHARED = -1
_LONGEST_ANSWER = {kind: 2 if kind == "sum" else 1 for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands in a packed sequence of S tokens.

    Attributes:
        images: the places of the picture's tokens; empty for a grid that is written out.
        positions: (1, S), or (3, S) for the rotary positions (time, row, column) of a prompt with a picture.
        mask: (S, S), true where the row's token may see the column's.
        answers: (T,), the places whose next token is learnt.
        questions: (T,), the number of the question that each answer place belongs to.
    """

    images: slice
    positions: Tensor
    mask: Tensor
    answers: Tensor
    questions: Tensor

    def additive_mask(self, hide_images: bool = False) -> Tensor:
        """Return the mask to add to attention scores, (1, 1, S, S); optionally no token sees the picture."""
        seen = self.mask.clone()
        if hide_images:
            seen[:, self.images] = False
        return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, -torch.inf)[None, None]


class Packer:
    """Turns grids and their questions into token rows under one layout.

    Args:
        tokenizer: of the models.
        pictures: grids are shown rather than written out.
        kinds: the kinds of the questions about each grid, in order.
    """

    def __init__(self, tokenizer: Qwen2Tokenizer, *, pictures: bool, kinds: Sequence[str] = tuple(KINDS)) -> None:
        self._encode = cache(lambda text: tuple(tokenizer.encode(text)))
        self.tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        self.pictures = pictures
        self.kinds = tuple(kinds)
        self.layout = self._plan()

    def _prefix(self, grid: Grid | None) -> tuple[int, ...]:
        if self.pictures:
            pads = "<|image_pad|>" * (IMAGE_ROWS * IMAGE_COLUMNS)
            return self._encode(f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>")
        return self._encode("<|im_start|>user\n") + self._encode(write(grid.digits if grid else range(len(CELLS))))

    def _question(self, question: Question) -> tuple[int, ...]:
        return self._encode(f"{question.text}<|im_end|><|im_start|>assistant\n")

    def _grid_positions(self) -> tuple[Tensor, slice]:
        """Return the rotary positions of the shared grid and the places of the picture's tokens."""
        length = len(self._prefix(None))
        if not self.pictures:
            return torch.arange(length)[None], slice(0, 0)
        start, stop = _OPENING, _OPENING + IMAGE_ROWS * IMAGE_COLUMNS
        rows, columns = torch.meshgrid(torch.arange(IMAGE_ROWS), torch.arange(IMAGE_COLUMNS), indexing="ij")
        picture = start + torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)
        closing = int(picture.max()) + 1 + torch.arange(length - stop)
        parts = [torch.arange(start).expand(3, -1), picture, closing.expand(3, -1)]
        return torch.cat(parts, dim=1), slice(start, stop)

    def _plan(self) -> Layout:
        grid, images = self._grid_positions()
        positions, answers, questions = [grid], [], []
        segments = [torch.full(grid.shape[1:], _SHARED)]
        place = grid.shape[1]
        for number, kind in enumerate(self.kinds):
            asked = len(self._question(ask(kind, range(len(CELLS)), random.Random(0))))
            length, learnt = asked + _LONGEST_ANSWER[kind], _LONGEST_ANSWER[kind] + 1
            positions.append((grid.max() + 1 + torch.arange(length)).expand(len(grid), -1))
            answers.append(place + asked - 1 + torch.arange(learnt))
            questions.append(torch.full((learnt,), number))
            segments.append(torch.full((length,), number))
            place += length
        segment = torch.cat(segments)
        visible = (segment[:, None] == segment) | (segment == _SHARED)
        return Layout(
            images=images,
            positions=torch.cat(positions, dim=1),
            mask=visible & torch.ones(place, place).tril().bool(),
            answers=torch.cat(answers),
            questions=torch.cat(questions),
        )

    def pack(self, grids: Sequence[Grid], questions: Sequence[Sequence[Question]]) -> tuple[Tensor, Tensor]:
        """Return token ids, (B, S), and the targets at the layout's answer places, (B, T)."""
        ids, targets = [], []
        for grid, asked in zip(grids, questions, strict=True):
            row, learnt = list(self._prefix(grid)), []
            for question in asked:
                answer = self._encode(question.answer)
                padding = _LONGEST_ANSWER[question.kind] - len(answer)
                row += [*self._question(question), *answer, *[self._end] * padding]
                learnt += [*answer, self._end, *[IGNORED] * padding]
            ids.append(row)
            targets.append(learnt)
        return torch.tensor(ids), torch.tensor(targets)
