"""Grids of real handwritten digits: which images belong to which split, and how six become one picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from lmms_plam.embedded.handwriting import by_digit, draw_digit, shuffled

Split = Literal["train", "benchmark", "held_out"]
Digits = tuple[int, int, int, int, int, int]

ROWS, COLUMNS = 2, 3
CELLS = ("top left", "top middle", "top right", "bottom left", "bottom middle", "bottom right")
"""The cells' names, row by row."""

CELL_PIXELS = 56
"""Width and height of a digit in the picture: two by two vision tokens of 28 pixels."""

_SPLITS: dict[Split, slice] = {"train": slice(0, 1197), "benchmark": slice(1197, 1497), "held_out": slice(1497, 1797)}


@dataclass(frozen=True, slots=True)
class Grid:
    """Six digits: what they are and which handwritten images show them.

    Attributes:
        digits: the six numbers 0 to 9, row by row.
        images: their indices in `load_digits`.
    """

    digits: Digits
    images: Digits


@cache
def members(split: Split) -> npt.NDArray[np.int64]:
    """Return the indices in `load_digits` of a split's images; the three splits are disjoint."""
    return shuffled()[_SPLITS[split]]


@cache
def _by_digit(split: Split) -> tuple[tuple[int, ...], ...]:
    return by_digit(members(split).tolist())


def sample_grid(split: Split, rng: random.Random) -> Grid:
    """Draw a grid. It uses two to ten different digits, so that counts above one are common."""
    palette = rng.sample(range(10), rng.randint(2, 10))
    digits = tuple(rng.choice(palette) for _ in CELLS)
    return Grid(digits, tuple(rng.choice(_by_digit(split)[digit]) for digit in digits))  # type: ignore[arg-type]


def draw_grid(images: Sequence[int]) -> Image.Image:
    """Return the picture of a grid: 168 x 112 pixels, RGB."""
    picture = Image.new("L", (COLUMNS * CELL_PIXELS, ROWS * CELL_PIXELS))
    for cell, image in enumerate(images):
        row, column = divmod(cell, COLUMNS)
        picture.paste(draw_digit(image, CELL_PIXELS), (column * CELL_PIXELS, row * CELL_PIXELS))
    return picture.convert("RGB")
