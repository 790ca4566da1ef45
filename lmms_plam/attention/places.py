"""Where vision tokens lie in the pictures of a prompt, and what follows: regions, and values painted over a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmms_plam.attention.layouts import Size
from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import BoolArray, FloatArray, IntArray

Region = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, as shares of the picture's width and height."""

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where in which picture each of a prompt's vision tokens lies, in the order of the tokens.

    Attributes:
        image: (n_tokens,) the picture of the prompt, 0-based.
        boxes: (n_tokens, 4) left, top, right and bottom of what a token shows, as shares from 0 to 1 of the width and
            height of the picture as it was before any processing. NaN for tokens that show no part of it: those that
            end a line, and those of padding. Boxes may overlap, where a model gets a picture twice, as a whole and in
            tiles, and may leave parts out that no token shows.
    """

    image: IntArray
    boxes: FloatArray

    def __len__(self) -> int:
        return len(self.image)

    @property
    def placed(self) -> BoolArray:
        """(n_tokens,) which tokens show a part of a picture."""
        found: BoolArray = ~np.isnan(self.boxes[:, 0])
        return found


def in_shares(regions: Sequence[Region], size: Size) -> list[Region]:
    """Return regions given in pixels of a picture as shares of its width and height.

    Args:
        regions: left, top, right and bottom, in pixels.
        size: the picture's width and height.
    """
    width, height = size
    return [(left / width, top / height, right / width, bottom / height) for left, top, right, bottom in regions]


def share_of_picture(regions: Sequence[Region]) -> float:
    """Return the share of a picture's area that lies in the union of regions.

    Raises:
        DataError: a region that is empty or reaches out of the picture.
    """
    return float(_inside(np.array([[0.0, 0.0, 1.0, 1.0]]), regions)[0])


def overlap(places: Places, image: int, regions: Sequence[Region]) -> FloatArray:
    """Return which share of each token's area lies in the union of regions of a picture.

    Attention inside the regions is attention times this, summed. What it is compared with is the mean of this over the
    picture's placed tokens, which is attention that is even over them: unlike `share_of_picture` it takes in what a
    model crops off or is given twice.

    Args:
        places: where the tokens lie.
        image: the picture of the prompt that the regions are of, 0-based.
        regions: as shares of the picture.

    Returns:
        (n_tokens,) from 0 to 1; 0 for tokens of other pictures and those without a place.

    Raises:
        DataError: a region that is empty or reaches out of the picture.
    """
    shares = np.zeros(len(places))
    own = _own(places, image)
    shares[own] = _inside(places.boxes[own], regions)
    return shares


def canvas(values: FloatArray, places: Places, image: int, height: int, width: int) -> FloatArray:
    """Paint values of tokens over the pixels of a picture, as a density.

    A token's value is spread evenly over its box, and a pixel that the box covers in part gets its part; where boxes
    overlap, as those of a whole picture and of its tiles, both are added. So the pixels sum to the values of the
    picture's tokens that have a place, and maps can be subtracted and summed before or after painting. A quotient of
    maps, such as a question's over a neutral prompt's, is one of canvases: it can't be painted as values.

    Args:
        values: (n_tokens,) such as attention.
        places: where the tokens lie.
        image: the picture of the prompt, 0-based.
        height: pixels of the canvas from top to bottom; its sides needn't be the picture's.
        width: pixels from left to right.

    Returns:
        (height, width), 0 where no token shows the picture.

    Raises:
        DataError: not one value for each token.
    """
    if len(values) != len(places):
        raise DataError(f"{len(values)} values for {len(places)} vision tokens")
    own = _own(places, image)
    left, top, right, bottom = places.boxes[own].T
    rows = _covered(top, bottom, np.arange(height + 1) / height) / (bottom - top)[:, None]
    columns = _covered(left, right, np.arange(width + 1) / width) / (right - left)[:, None]
    painted: FloatArray = (rows * np.asarray(values, dtype=np.float64)[own, None]).T @ columns
    return painted


def _own(places: Places, image: int) -> BoolArray:
    own: BoolArray = places.placed & (places.image == image)
    return own


def _inside(boxes: FloatArray, regions: Sequence[Region]) -> FloatArray:
    """Return (n,) the share of each box in the union of regions, exactly: on the grid of all regions' edges."""
    for region in regions:
        left, top, right, bottom = region
        if not (-_ROUNDING <= left < right <= 1 + _ROUNDING and -_ROUNDING <= top < bottom <= 1 + _ROUNDING):
            shown = ", ".join(f"{edge:.4g}" for edge in region)
            raise DataError(f"the region ({shown}) isn't one inside the picture: left, top, right, bottom from 0 to 1")
    corners = np.array(regions, dtype=np.float64).reshape(-1, 4)
    across, down = np.unique(corners[:, ::2]), np.unique(corners[:, 1::2])
    inside = np.zeros((max(len(down) - 1, 0), max(len(across) - 1, 0)))
    for left, top, right, bottom in corners:
        inside[np.ix_((down[:-1] >= top) & (down[1:] <= bottom), (across[:-1] >= left) & (across[1:] <= right))] = 1
    left, top, right, bottom = boxes.T
    area = np.einsum("ny,yx,nx->n", _covered(top, bottom, down), inside, _covered(left, right, across))
    shares: FloatArray = np.clip(area / ((right - left) * (bottom - top)), 0, 1)
    return shares


def _covered(starts: FloatArray, ends: FloatArray, edges: FloatArray) -> FloatArray:
    """Return (n, edges - 1) the length that each span from start to end has in common with what lies between edges."""
    if len(edges) < 2:
        return np.zeros((len(starts), 0))
    common: FloatArray = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    return np.clip(common, 0, None)
