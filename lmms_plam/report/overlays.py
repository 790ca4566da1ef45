"""Attention painted over pictures: before and after a merge, their difference, and against a neutral prompt.

Colours are laid over the picture, greyed: the more there is, the less of the picture shines through. Maps before and
after share a scale, and so does their difference, so that a difference that is nothing looks like nothing. Opacity goes
with the square root of attention, and what few places exceed is painted alike, as one token may hold most of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmms_plam.attention.look import WHOLE, Maps
from lmms_plam.attention.places import Region, canvas, share_of_picture
from lmms_plam.attention.record import QUERIES, AttentionRecord
from lmms_plam.attention.shown import ShownDocument
from lmms_plam.errors import DataError
from lmms_plam.stats.matrix import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 320
"""Pixels of a drawn picture's longer side."""

RANGE = 8
"""So many times as much, or as little, as for the neutral prompt has the strongest colour."""

Colour = tuple[int, int, int]
SOME: Colour = (91, 42, 134)
MORE: Colour = (181, 71, 13)
LESS: Colour = (31, 78, 121)
"""What attention is painted in, and what more and less of it: told apart by colour-blind people too."""

_MARK: Colour = (0, 121, 92)
_STRONGEST = 0.9  # opacity; a little of the picture is always seen
_RARE, _SINK = 0.98, 20  # what is more than all but 2% of the picture get is painted alike, if 20 times as much or less
_TRACE = 0.01  # of the picture's mean, added to both maps before they are divided: none against none is 1, not noise
_MOST_LAYERS = 2
FAINT = 0.01  # of all attention, spread evenly over the picture: never painted in the strongest colour
_GAP, _LINE = 8, 16  # pixels between the tiles of a strip, and of a line of words
_WORD = 13


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One map of a picture.

    Attributes:
        title: what it shows, in a few words.
        words: what is to be seen, for who can't see it.
        heat: colours to lay over the greyed picture, RGBA.
    """

    title: str
    words: str
    heat: Image


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """The maps of one document in one layer.

    Attributes:
        layer: the decoder layer.
        queries: whose attention it is.
        peak: the least attention of the strongest colour, in times the mean over the picture of the map that has most.
        tiles: before, after, difference, and where they are known against the neutral prompt before and after.
    """

    layer: int
    queries: str
    peak: float
    tiles: tuple[Tile, ...]


def asked_queries(document: ShownDocument) -> str:
    """Return whose attention is drawn: the answer's where both variants' is known, else the question's."""
    answer = list(QUERIES).index("res")
    return "res" if all(np.isfinite(maps.values[answer]).all() for maps in document.maps.values()) else "ins"


def telling_layers(record: AttentionRecord, late: Sequence[int], before: str, after: str, queries: str) -> list[int]:
    """Return the layers, of the late ones, whose mean mass changes most in size, ascending.

    Raises:
        DataError: the record lacks one of these.
    """
    columns = record.columns(late)
    change = (record.of("mass", after, queries) - record.of("mass", before, queries))[:, columns]
    known = np.isfinite(change)
    size = np.abs(np.where(known, change, 0).sum(axis=0)) / np.maximum(known.sum(axis=0), 1)
    largest = np.argsort(-size, kind="stable")[:_MOST_LAYERS]
    return sorted(record.layers[columns[largest]].tolist())


def overlay(document: ShownDocument, layer: int) -> Overlay | None:
    """Paint a document's maps in a layer, of its first picture.

    None where nobody knows where tokens lie in it, or what they get.

    Raises:
        DataError: the maps lack the layer.
    """
    queries = asked_queries(document)
    painted = {name: _painted(document, maps, queries, layer) for name, maps in document.maps.items()}
    known = {name: values for name, values in painted.items() if values is not None and np.isfinite(values).all()}
    if len(known) < len(painted):
        return None
    (before, first), (after, second) = known.items()
    least = FAINT / first.size
    peak, mean = max((max(strong(values), least), max(values.mean(), least)) for values in known.values())
    tiles = [
        Tile(
            f"{when}: '{name}', {values.sum():.1%} on the picture",
            f"Attention of {QUERIES[queries]} in layer {layer} under '{name}': {values.sum():.1%} of it on the "
            f"picture, most of that {_where(values)}",
            _heat(document, values / peak, SOME),
        )
        for when, (name, values) in zip(("before", "after"), known.items(), strict=True)
    ]
    change, points = second - first, 100 * (second.sum() - first.sum())
    words = f"'{after}' minus '{before}' in layer {layer}: {points:+.1f} percentage points on the picture"
    if change.max() > 0 > change.min():
        words += f"; more most of all {_where(change)}, less {_where(-change)}"
    tiles.append(Tile(f"difference: {points:+.1f} points", words, _heat(document, change / peak, MORE)))
    for name, values in known.items():
        neutral = _painted(document, document.neutral[name], queries, layer) if name in document.neutral else None
        if neutral is not None and np.isfinite(neutral).all():
            trace = _TRACE * max(neutral.mean(), least)
            times = np.log((values + trace) / (neutral + trace)) / np.log(RANGE)
            words = f"Attention in layer {layer} under '{name}' over that for a neutral prompt, highest {_where(times)}"
            opacity = np.sign(times) * times**2  # of which the root is taken
            tiles.append(Tile(f"'{name}' against a neutral prompt", words, _heat(document, opacity, MORE)))
    return Overlay(layer, queries, peak / mean, tuple(tiles))


def ground(document: ShownDocument) -> Image:
    """Return the greyed and lightened picture that maps are laid over."""
    from PIL import Image

    grey = np.asarray(_enlarged(document.image).convert("L"), dtype=np.float64)
    return Image.fromarray(np.uint8(140 + grey * 115 / 255))


def shown_picture(document: ShownDocument) -> Image:
    """Return the picture as it is, the right places outlined."""
    image = _enlarged(document.image)
    _outline(image, document)
    return image


def marked_regions(document: ShownDocument) -> Sequence[Region]:
    """Return the right places, none where they are all of the picture."""
    return document.regions if document.regions and share_of_picture(document.regions) < WHOLE else ()


def strip(document: ShownDocument, overlays: Sequence[Overlay]) -> Image:
    """Return picture and maps side by side, a row for each layer and each with its title above, as one picture."""
    from PIL import Image

    rows = [_row(document, one) for one in overlays]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:place])))
    return sheet


def ramp(*, diverging: bool, linear: bool = False) -> Image:
    """Return the colours of the maps from nothing, or from least, to most, from left to right over white."""
    from PIL import Image

    values = np.linspace(-1 if diverging else 0, 1, 240)[None].repeat(12, axis=0)
    heat = paint(np.sign(values) * values**2 if linear else values, MORE if diverging else SOME, LESS)
    return Image.alpha_composite(Image.new("RGBA", heat.size, "white"), heat).convert("RGB")


def _row(document: ShownDocument, shown: Overlay) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    below = ground(document).convert("RGBA")
    drawn = [
        (f"document {document.doc_id}, layer {shown.layer}, from {QUERIES[shown.queries]}", shown_picture(document))
    ]
    drawn += [(tile.title, Image.alpha_composite(below, tile.heat).convert("RGB")) for tile in shown.tiles]
    width, height = below.size
    column = max(width, SIDE // 2) + _GAP
    titles = [textwrap.wrap(title, column // 7) for title, _ in drawn]
    top = _LINE * max(map(len, titles)) + _GAP
    sheet = Image.new("RGB", (column * len(drawn), top + height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_WORD)
    for place, (title, (_, image)) in enumerate(zip(titles, drawn, strict=True)):
        pen.multiline_text((place * column, 2), "\n".join(title), fill=(34, 34, 34), font=font)
        pen.rectangle((place * column - 1, top - 1, place * column + width, top + height), outline=(204, 204, 204))
        sheet.paste(image, (place * column, top))
    return sheet


def _painted(document: ShownDocument, maps: Maps, queries: str, layer: int) -> FloatArray | None:
    if maps.places is None:
        return None
    layers = maps.values.shape[1]
    if not 0 <= layer < layers:
        raise DataError(f"document {document.doc_id}: no map of layer {layer}: there are layers 0 to {layers - 1}")
    width, height = _size(document.image)
    return canvas(maps.values[list(QUERIES).index(queries), layer], maps.places, 0, height, width)


def _heat(document: ShownDocument, values: FloatArray, positive: Colour) -> Image:
    """Return a map in colours, the right places outlined."""
    heat = paint(values, positive, LESS)
    _outline(heat, document)
    return heat


def strong(values: FloatArray) -> float:
    """Return from where on attention is painted in the strongest colour: a sink must not make the rest invisible."""
    return max(float(np.quantile(values, _RARE, method="higher")), float(values.max()) / _SINK)


def _outline(image: Image, document: ShownDocument) -> None:
    from PIL import ImageDraw

    width, height = image.size
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in marked_regions(document):
        x, y = round(left * width), round(top * height)
        corner = max(x, round(right * width) - 1), max(y, round(bottom * height) - 1)
        pen.rectangle(((x, y), corner), outline=_MARK, width=3)


def paint(values: FloatArray, positive: Colour, negative: Colour) -> Image:
    """Return colours for values from -1 to 1, the farther from 0 the more opaque."""
    from PIL import Image

    colours = np.where(values[..., None] >= 0, positive, negative)
    opacity = 255 * _STRONGEST * np.sqrt(np.clip(np.abs(values), 0, 1))
    return Image.fromarray(np.uint8(np.rint(np.concatenate([colours, opacity[..., None]], axis=-1))))


def _size(image: Image) -> tuple[int, int]:
    width, height = image.size
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _enlarged(image: Image) -> Image:
    return image.convert("RGB").resize(_size(image))


def _where(values: FloatArray) -> str:
    """Name the ninth of a picture in which values are highest on average."""
    rows, columns = (np.array_split(np.arange(length), 3) for length in values.shape)
    means = [[values[np.ix_(row, one)].mean() if row.size and one.size else -np.inf for one in columns] for row in rows]
    row, column = np.unravel_index(int(np.argmax(means)), (3, 3))
    names = ("upper", "middle", "lower")[row], ("left", "centre", "right")[column]
    return "in the middle" if names == ("middle", "centre") else f"at the {' '.join(names)}"
