"""Training batches: several questions behind a shared grid, so that the grid is read once for all of them.

The mask lets a question see the grid and itself, never another question, and positions start anew after the grid. So
each question gets exactly the answer that it would get alone, and one fixed layout serves every grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

IGNORED = -100
"""Target of a place in the layout that no answer token falls on."""

_SHARED = -1


class Asked(Protocol):
    """A question of some kind and its one right answer."""

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def answer(self) -> str: ...  # noqa: D102


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


class Packer(ABC):
    """Turns grids and their questions into token rows under one layout. A pair says how it writes them.

    Args:
        tokenizer: of the models.
        pictures: grids are shown rather than written out.
        kinds: the kinds of the questions about each grid, in order.
    """

    image_rows: ClassVar[int]
    image_columns: ClassVar[int]
    longest_answer: ClassVar[Mapping[str, int]]
    """Tokens of a kind's longest answer."""

    def __init__(self, tokenizer: Qwen2Tokenizer, *, pictures: bool, kinds: Sequence[str]) -> None:
        self._encode = lru_cache(2**16)(lambda text: tuple(tokenizer.encode(text)))
        self.tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        self.pictures = pictures
        self.kinds = tuple(kinds)
        self._pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.layout = self._plan()

    @abstractmethod
    def shared(self, grid: Any) -> tuple[str, ...]:
        """Return what stands before the questions about a grid, in pieces that are encoded one by one."""

    @abstractmethod
    def example(self, kind: str) -> tuple[Any, Asked]:
        """Return some grid and a question of a kind about it; all of a kind are of one length."""

    @abstractmethod
    def turn(self) -> str:
        """Return what stands between a question and its answer."""

    def _prefix(self, grid: Any) -> list[int]:
        return [token for piece in self.shared(grid) for token in self._encode(piece)]

    def _question(self, question: Asked) -> tuple[int, ...]:
        return self._encode(question.text + self.turn())

    def _grid_positions(self) -> tuple[Tensor, slice]:
        """Return the rotary positions of the shared grid and the places of the picture's tokens."""
        prefix = self._prefix(self.example(self.kinds[0])[0])
        length = len(prefix)
        if not self.pictures:
            return torch.arange(length)[None], slice(0, 0)
        start = prefix.index(self._pad)
        stop = start + self.image_rows * self.image_columns
        rows, columns = torch.meshgrid(torch.arange(self.image_rows), torch.arange(self.image_columns), indexing="ij")
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
            asked = len(self._question(self.example(kind)[1]))
            length, learnt = asked + self.longest_answer[kind], self.longest_answer[kind] + 1
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

    def pack(self, grids: Sequence[Any], questions: Sequence[Sequence[Asked]]) -> tuple[Tensor, Tensor]:
        """Return token ids, (B, S), and the targets at the layout's answer places, (B, T)."""
        ids, targets = [], []
        for grid, asked in zip(grids, questions, strict=True):
            row, learnt = self._prefix(grid), []
            for question in asked:
                answer = self._encode(question.answer)
                padding = self.longest_answer[question.kind] - len(answer)
                row += [*self._question(question), *answer, *[self._end] * padding]
                learnt += [*answer, self._end, *[IGNORED] * padding]
            ids.append(row)
            targets.append(learnt)
        return torch.tensor(ids), torch.tensor(targets)
