"""What part of a picture each token of a grid shows, after the ways in which image processors resize, crop and tile.

Everything is done for rows and columns apart: a span is where a row or column begins and ends. Sizes are width and
height, as pictures have them; functions of one axis take lengths.
"""

from __future__ import annotations

import math

import numpy as np

from lmms_plam.stats.matrix import FloatArray

Size = tuple[int, int]
"""Width and height in pixels."""

_SLIVER = 1e-9  # a share of the picture's side below which a box is rounding


def cells(rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Return the boxes of a grid, row by row, cut to the picture.

    Args:
        rows: (n_rows, 2) top and bottom, as shares of the picture's height; beyond 0 and 1 lies padding.
        columns: (n_columns, 2) left and right.

    Returns:
        (n_rows * n_columns, 4) left, top, right, bottom; NaN where all is padding.
    """
    rows, columns = np.clip(rows, 0, 1), np.clip(columns, 0, 1)
    boxes = np.empty((len(rows), len(columns), 4))
    boxes[..., ::2], boxes[..., 1::2] = columns[None], rows[:, None]
    empty = (np.ptp(rows, axis=1) < _SLIVER)[:, None] | (np.ptp(columns, axis=1) < _SLIVER)
    boxes[empty] = np.nan
    return boxes.reshape(-1, 4)


def even(count: int) -> FloatArray:
    """Return (count, 2) spans that divide an axis evenly, as shares."""
    edges = np.arange(count + 1) / count
    return np.stack([edges[:-1], edges[1:]], axis=1)


def patches(length: int, patch: int, tiles: int = 1) -> FloatArray:
    """Return the spans in pixels of the patches that a vision tower cuts out of tiles side by side.

    What is left at a tile's end and is no whole patch, the tower doesn't see: 6 of 384 pixels for patches of 14.

    Args:
        length: pixels of a tile.
        patch: pixels of a patch.
        tiles: how many.
    """
    starts = (np.arange(tiles)[:, None] * length + np.arange(length // patch) * patch).reshape(-1).astype(np.float64)
    return np.stack([starts, starts + patch], axis=1)


def centred(spans: FloatArray, window: int, length: int) -> FloatArray:
    """Return spans of a window, centred on an axis, as spans of the axis: it was cropped or padded to the window."""
    offset = (length - window) // 2 if length > window else -((window - length) // 2)
    return spans + offset


def tiled(blocks: int, side: int, size: Size, tile: Size) -> FloatArray:
    """Return boxes of a picture that is stretched over tiles, row by row, with itself last as one more tile.

    Args:
        blocks: tiles in all, that one counted; 1 is the picture alone.
        side: tokens along either side of a tile.
        size: the picture's.
        tile: a tile's.
    """
    whole = cells(even(side), even(side))
    if blocks == 1:
        return whole
    columns, rows = arrangement(blocks - 1, size, tile)
    boxes = cells(even(rows * side), even(columns * side)).reshape(rows, side, columns, side, 4)
    return np.concatenate([boxes.swapaxes(1, 2).reshape(-1, 4), whole])


def arrangement(tiles: int, size: Size, tile: Size) -> tuple[int, int]:
    """Return in how many columns and rows a processor lays so many tiles over a picture.

    It takes the ratio nearest to the picture's, of two as near the narrower one, or the wider one where the picture has
    more than half of the tiles' pixels. It chooses among fewer and more tiles too, but what it chose is best among as
    many.

    Args:
        tiles: how many.
        size: the picture's.
        tile: a tile's.
    """
    (width, height), (tile_width, tile_height) = size, tile
    columns = [count for count in range(1, tiles + 1) if tiles % count == 0]
    off = [abs(width / height - count / (tiles // count)) for count in columns]
    nearest = [count for count, distance in zip(columns, off, strict=True) if distance == min(off)]
    wide = width * height > 0.5 * tile_width * tile_height * tiles
    chosen = nearest[-1 if wide else 0]
    return chosen, tiles // chosen


def anyres(size: Size, resolution: Size, tile: int, patch: int, most: int | None) -> FloatArray:
    """Return boxes of LLaVA's any-resolution pictures: the whole picture as one tile, then the canvas of tiles.

    The picture is scaled into the canvas with its ratio kept, and padded. Its rows and columns of tokens, without most
    of those that show padding, are scaled down where they are far too many; each row ends with a token that shows
    nothing.

    Args:
        size: the picture's.
        resolution: the canvas's.
        tile: pixels along a tile.
        patch: pixels along a patch.
        most: tokens of how many tiles are kept at most; None for all.
    """
    side = tile // patch
    whole = patches(tile, patch) / tile
    rows, columns = (patches(tile, patch, length // tile) for length in (resolution[1], resolution[0]))
    cut_columns, cut_rows = _padding(size, (len(columns), len(rows)))
    rows, columns = rows[cut_rows : len(rows) - cut_rows], columns[cut_columns : len(columns) - cut_columns]
    ratio = math.sqrt(len(rows) * len(columns) / (most * side**2)) if most is not None else 1
    if ratio > 1.1:
        rows, columns = (_fewer(spans, int(len(spans) // ratio)) for spans in (rows, columns))
    scaled = scaled_into(size, resolution)
    spans = [
        centred(spans, window, length) / length
        for spans, window, length in zip((columns, rows), resolution, scaled, strict=True)
    ]
    lines = cells(spans[1], spans[0]).reshape(len(rows), -1, 4)
    ends = np.full((len(rows), 1, 4), np.nan)
    return np.concatenate([cells(whole, whole), np.concatenate([lines, ends], axis=1).reshape(-1, 4)])


def padded_square(size: Size, tile: int, patch: int) -> FloatArray:
    """Return boxes of a picture that is padded to a square and scaled to one tile, and a last token that shows nothing.

    It is how LLaVA-OneVision shows pictures of which it is given several.
    """
    square = max(size)
    spans = patches(tile, patch) / tile * square
    columns, rows = (centred(spans, square, length) / length for length in size)
    return np.concatenate([cells(rows, columns), np.full((1, 4), np.nan)])


def scaled_into(size: Size, resolution: Size) -> Size:
    """Return the size of a picture scaled into a canvas with its ratio kept."""
    (width, height), (wide, high) = size, resolution
    if wide / width < high / height:
        return wide, min(math.ceil(height * (wide / width)), high)
    return min(math.ceil(width * (high / height)), wide), high


def _padding(size: Size, grid: Size) -> tuple[int, int]:
    """Return how many columns of a grid on either side, and how many rows, are taken off as padding."""
    (width, height), (columns, rows) = size, grid
    if width / height > columns / rows:
        return 0, (rows - int(round(height * (columns / width), 7))) // 2
    return (columns - int(round(width * (rows / height), 7))) // 2, 0


def _fewer(spans: FloatArray, count: int) -> FloatArray:
    """Return what each of fewer spans covers, of an axis whose values were interpolated down to so many."""
    edges = even(count) * len(spans)
    first = np.minimum(edges[:, 0].astype(int), len(spans) - 1)
    last = np.maximum(np.ceil(edges[:, 1] - _SLIVER).astype(int) - 1, first)
    length = spans[:, 1] - spans[:, 0]
    starts = spans[first, 0] + (edges[:, 0] - first) * length[first]
    ends = spans[last, 0] + (edges[:, 1] - last) * length[last]
    return np.stack([starts, ends], axis=1)
