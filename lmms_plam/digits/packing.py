"""How the pair's questions are packed behind their grid."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from lmms_plam.digits.grids import CELL_PIXELS, CELLS, COLUMNS, ROWS, Grid
from lmms_plam.digits.questions import KINDS, Question, ask, write
from lmms_plam.embedded.packing import Packer
from lmms_plam.embedded.words import MERGE, PATCH

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

_SIDE = CELL_PIXELS // (PATCH * MERGE)


class GridPacker(Packer):
    """Packs questions about grids of two rows by three."""

    image_rows, image_columns = ROWS * _SIDE, COLUMNS * _SIDE
    longest_answer: ClassVar[Mapping[str, int]] = {kind: 2 if kind == "sum" else 1 for kind in KINDS}

    def __init__(self, tokenizer: Qwen2Tokenizer, *, pictures: bool, kinds: Sequence[str] = tuple(KINDS)) -> None:
        super().__init__(tokenizer, pictures=pictures, kinds=kinds)

    def shared(self, grid: Grid) -> tuple[str, ...]:
        """Return the opening of the message and the grid, as picture or written out."""
        if self.pictures:
            pads = "<|image_pad|>" * (self.image_rows * self.image_columns)
            return (f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>",)
        return ("<|im_start|>user\n", write(grid.digits))

    def example(self, kind: str) -> tuple[Grid, Question]:
        """Return some grid and a question of a kind about it."""
        digits = (0, 1, 2, 3, 4, 5)
        return Grid(digits, digits), ask(kind, digits, random.Random(0))

    def turn(self) -> str:
        """Return the end of the user's message and the start of the assistant's."""
        return "<|im_end|><|im_start|>assistant\n"


def arrange(tokens: Tensor) -> Tensor:
    """Put the vision tokens of grids' digits, (B * 6, 4, D), in the order of the whole picture, (B, 24, D)."""
    width = tokens.shape[-1]
    cells = tokens.view(-1, ROWS, COLUMNS, _SIDE, _SIDE, width)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(len(tokens) // len(CELLS), ROWS * COLUMNS * _SIDE**2, width)
