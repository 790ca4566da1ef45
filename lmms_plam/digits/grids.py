"""Grids of real handwritten digits: which images belong to which split, and how six of them become one picture.

The images are scikit-learn's `load_digits` (1,797 digits of 8 x 8 pixels, from the test part of the UCI Optical
Recognition of Handwritten Digits data; writers are not named there, so the splits are by image, not by writer).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Split = Literal["train", "benchmark", "held_out"]
Digits = tuple[int, int, int, int, int, int]

ROWS, COLUMNS = 2, 3
CELLS = ("top left", "top middle", "top right", "bottom left", "bottom middle", "bottom right")
"""The cells' names, row by row."""

CELL_PIXELS = 56
"""Width and height of a digit in the picture: two by two vision tokens of 28 pixels."""

_SPLITS: dict[Split, slice] = {"train": slice(0, 1197), "benchmark": slice(1197, 1497), "held_out": slice(1497, 1797)}
_SPLIT_SEED = 20251122


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
def handwriting() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the images, dark ink on white, (1797, 8, 8) in 0..255, and the digits they show, (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (255 - data.images * 255 / 16).round().astype(np.uint8), data.target.astype(np.int64)


@cache
def members(split: Split) -> npt.NDArray[np.int64]:
    """Return the indices in `load_digits` of a split's images; the three splits are disjoint."""
    return np.random.RandomState(_SPLIT_SEED).permutation(1797)[_SPLITS[split]]


@cache
def _by_digit(split: Split) -> tuple[tuple[int, ...], ...]:
    labels = handwriting()[1]
    return tuple(tuple(int(i) for i in members(split) if labels[i] == digit) for digit in range(10))


def sample_grid(split: Split, rng: random.Random) -> Grid:
    """Draw a grid. It uses two to ten different digits, so that counts above one are common."""
    palette = rng.sample(range(10), rng.randint(2, 10))
    digits = tuple(rng.choice(palette) for _ in CELLS)
    return Grid(digits, tuple(rng.choice(_by_digit(split)[digit]) for digit in digits))  # type: ignore[arg-type]


def draw_digit(image: int) -> Image.Image:
    """Return one handwritten digit, enlarged to the size of a cell, in shades of grey."""
    return Image.fromarray(handwriting()[0][image]).resize((CELL_PIXELS, CELL_PIXELS), Image.Resampling.BICUBIC)


def draw_grid(images: Sequence[int]) -> Image.Image:
    """Return the picture of a grid: 168 x 112 pixels, RGB."""
    picture = Image.new("L", (COLUMNS * CELL_PIXELS, ROWS * CELL_PIXELS))
    for cell, image in enumerate(images):
        row, column = divmod(cell, COLUMNS)
        picture.paste(draw_digit(image), (column * CELL_PIXELS, row * CELL_PIXELS))
    return picture.convert("RGB")
