"""Handwritten digits to train on, slightly turned, scaled and shifted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from lmms_plam.embedded.forward import cut_patches
from lmms_plam.embedded.handwriting import draw_digit

_VARIANTS = 24
_WHITE = 255


class Handwriting:
    """Digits' patches, each in many slightly turned, scaled and shifted variants.

    Args:
        images: indices in `load_digits`.
        pixels: width and height of a digit in the picture.
        rng: of the variants.
    """

    def __init__(self, images: Sequence[int], pixels: int, rng: random.Random) -> None:
        self.images = list(images)
        self._row = {image: row for row, image in enumerate(self.images)}
        drawn = [_distort(draw_digit(image, pixels), rng) for image in self.images for _ in range(_VARIANTS)]
        self._patches = cut_patches(np.stack(drawn))

    def draw(self, images: Sequence[int], rng: random.Random) -> Tensor:
        """Return patches (N, patches a digit, 196) of a random variant of each image."""
        return self._patches[[self._row[image] * _VARIANTS + rng.randrange(_VARIANTS) for image in images]]


def _distort(digit: Image.Image, rng: random.Random) -> npt.NDArray[np.uint8]:
    """Turn by up to 8 degrees, scale by up to 10 percent, shift by up to a fourteenth of the width."""
    size, centre, shift = digit.width, digit.width / 2, digit.width / 14
    angle, scale = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(0.9, 1.1)
    a, b = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = (centre + rng.uniform(-shift, shift) for _ in range(2))
    matrix = (a, b, centre - a * x - b * y, -b, a, centre + b * x - a * y)
    turned = digit.transform(
        (size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=_WHITE
    )
    return np.asarray(turned)
