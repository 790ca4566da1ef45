"""A document's attention maps of all layers in one small picture, for a page that shows one layer after the other.

A row for each layer; in it side by side the attention before, after, and the difference, painted as `overlays` does,
but with a pixel for each token (or a few), which a browser makes as large as the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmms_plam.attention.look import Maps
from lmms_plam.attention.places import canvas
from lmms_plam.attention.record import QUERIES
from lmms_plam.attention.shown import ShownDocument
from lmms_plam.report.overlays import FAINT, LESS, MORE, SOME, asked_queries, paint, strong
from lmms_plam.stats.matrix import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 48
"""Pixels of a map's longer side where tokens form no grid."""


@dataclass(frozen=True, slots=True, eq=False)
class MapSheet:
    """All maps of a document.

    Attributes:
        image: RGBA, three maps wide and a map for each layer high.
        shares: (layers, 2) the attention on the picture before and after, as shares of all.
        queries: whose attention it is.
    """

    image: Image
    shares: FloatArray
    queries: str

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.shares)


def map_sheet(document: ShownDocument) -> MapSheet | None:
    """Paint a document's maps; None where nobody knows where tokens lie in its picture, or what they get."""
    from PIL import Image

    queries = asked_queries(document)
    before, after = document.maps.values()
    if before.places is None or after.places is None:
        return None
    height, width = _grid(before, document)
    rows, shares = [], []
    for layer in range(min(len(before.values[0]), len(after.values[0]))):
        first, second = (_map(maps, queries, layer, height, width) for maps in (before, after))
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            return None
        least = FAINT / first.size
        peak = max(strong(first), strong(second), least)
        tiles = (
            paint(first / peak, SOME, LESS),
            paint(second / peak, SOME, LESS),
            paint((second - first) / peak, MORE, LESS),
        )
        rows.append(np.concatenate([np.asarray(tile) for tile in tiles], axis=1))
        shares.append((first.sum(), second.sum()))
    return MapSheet(Image.fromarray(np.concatenate(rows)), np.array(shares), queries)


def _map(maps: Maps, queries: str, layer: int, height: int, width: int) -> FloatArray:
    assert maps.places is not None
    return canvas(maps.values[list(QUERIES).index(queries), layer], maps.places, 0, height, width)


def _grid(maps: Maps, document: ShownDocument) -> tuple[int, int]:
    """Return rows and columns of the tokens of the first picture, or a size of its shape where they form no grid."""
    places = maps.places
    assert places is not None
    boxes = places.boxes[places.placed & (places.image == 0)]
    rows, columns = (len(np.unique(np.round(edges, 6))) for edges in (boxes[:, 1], boxes[:, 0]))
    if rows * columns == len(boxes):
        return rows, columns
    width, height = document.image.size
    scale = _SIDE / max(width, height)
    return max(1, round(height * scale)), max(1, round(width * scale))
