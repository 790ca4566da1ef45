"""Real handwritten digits: the images, in what order splits take them, and how one is drawn.

The images are scikit-learn's `load_digits` (1,797 digits of 8 x 8 pixels, from the test part of the UCI Optical
Recognition of Handwritten Digits data; writers are not named there, so splits are by image, not by writer).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

_SPLIT_SEED = 20251122


@cache
def handwriting() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the images, dark ink on white, (1797, 8, 8) in 0..255, and the digits they show, (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (255 - data.images * 255 / 16).round().astype(np.uint8), data.target.astype(np.int64)


@cache
def shuffled() -> npt.NDArray[np.int64]:
    """Return the images' indices in a fixed random order, which splits are slices of."""
    return np.random.RandomState(_SPLIT_SEED).permutation(1797)


def by_digit(images: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the images that show 0, those that show 1, and so on."""
    labels = handwriting()[1]
    return tuple(tuple(image for image in images if labels[image] == digit) for digit in range(10))


def draw_digit(image: int, pixels: int) -> Image.Image:
    """Return one handwritten digit, enlarged to so many pixels in width and height, in shades of grey."""
    return Image.fromarray(handwriting()[0][image]).resize((pixels, pixels), Image.Resampling.BICUBIC)
