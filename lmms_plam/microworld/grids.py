"""Grids: ten handwritten digits in a row, cells a to j."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image

from lmms_plam.embedded.handwriting import by_digit, draw_digit, shuffled

Split = Literal["train", "choices", "benchmark", "held_out"]

CELLS = "abcdefghij"
"""The cells' names from left to right. A digit that is taken for a cell's number names a as 0."""

CELL_PIXELS = 28
"""Width and height of a digit in the picture: one vision token."""

_SPLITS: dict[Split, slice] = {
    "train": slice(0, 1047),
    "choices": slice(1047, 1197),
    "benchmark": slice(1197, 1497),
    "held_out": slice(1497, 1797),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """Ten digits.

    Attributes:
        digits: the numbers 0 to 9 in cells a to j.
        images: indices in `load_digits` of the handwritten images that show them.
    """

    digits: tuple[int, ...]
    images: tuple[int, ...]


def members(split: Split) -> list[int]:
    """Return the indices in `load_digits` of a split's images; the splits are disjoint."""
    return [int(image) for image in shuffled()[_SPLITS[split]]]


@cache
def _by_digit(split: Split) -> tuple[tuple[int, ...], ...]:
    return by_digit(members(split))


def sample_grid(split: Split, rng: random.Random) -> Grid:
    """Draw a grid of at most four to ten different digits."""
    palette = rng.sample(range(10), rng.randint(4, 10))
    digits = tuple(rng.choices(palette, k=len(CELLS)))
    return Grid(digits, tuple(rng.choice(_by_digit(split)[digit]) for digit in digits))


def draw_grid(images: Sequence[int]) -> Image.Image:
    """Return the picture of a grid: 280 x 28 pixels, RGB."""
    picture = Image.new("L", (len(CELLS) * CELL_PIXELS, CELL_PIXELS))
    for cell, image in enumerate(images):
        picture.paste(draw_digit(image, CELL_PIXELS), (cell * CELL_PIXELS, 0))
    return picture.convert("RGB")


def write_grid(digits: Sequence[int]) -> str:
    r"""Write a grid out as text, token for token as long as its picture: `[5506172213]\n`."""
    return f"[{''.join(map(str, digits))}]\n"
