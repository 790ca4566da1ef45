"""Scenes of coloured shapes, drawn by code, and two captions in Winoground's form: the same words, other roles.

Four kinds: which shape stands where (`relation`), which has which colour (`colour`), how many there are of each
(`count`), which is big (`size`). Of the pairs of things that a scene shows a fifth is the benchmark's and a tenth the
development's; training shows none of those, in whatever roles.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from PIL import Image, ImageDraw

Split = Literal["train", "development", "benchmark"]

PIXELS = 64
"""Width and height of a picture."""

_BUCKETS: dict[Split, range] = {"train": range(7), "development": range(7, 8), "benchmark": range(8, 10)}
_SEED = 2510_01845

COLOURS = {
    "red": (220, 40, 40),
    "blue": (40, 70, 220),
    "green": (30, 160, 60),
    "yellow": (240, 200, 30),
    "purple": (140, 40, 180),
    "pink": (250, 140, 190),
    "brown": (120, 75, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "diamond")
_BACKGROUND = (235, 235, 235)
_CELLS = 3
_BIG, _MIDDLE, _SMALL = 10, 8, 5
"""Half a shape's width, in pixels."""

Thing = tuple[str, str]
"""Colour and shape."""

THINGS: tuple[Thing, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

RELATIONS = ("left of", "right of", "above", "below")
NUMERALS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape in a picture.

    Attributes:
        shape: one of SHAPES.
        colour: one of COLOURS.
        x: its centre, in pixels from the left.
        y: its centre, in pixels from the top.
        half: half its width, in pixels.
    """

    shape: str
    colour: str
    x: int
    y: int
    half: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's content and its captions.

    Attributes:
        kind: what the captions differ in.
        shapes: what is shown.
        caption: what is so.
        foil: the same words, and not so.
    """

    kind: str
    shapes: tuple[Shape, ...]
    caption: str
    foil: str


def belongs(things: Iterable[Thing], split: Split) -> bool:
    """Say whether a split shows these things together, in whatever roles."""
    text = " ".join(sorted(word for thing in things for word in thing))
    return zlib.crc32(text.encode()) % 10 in _BUCKETS[split]


def draw_things(rng: random.Random, split: Split) -> tuple[Thing, Thing]:
    """Draw two things of other colours and other shapes that a split shows together."""
    while True:
        colours, shapes = rng.sample(sorted(COLOURS), 2), rng.sample(SHAPES, 2)
        things = (colours[0], shapes[0]), (colours[1], shapes[1])
        if belongs(things, split):
            return things


def _put(rng: random.Random, thing: Thing, cell: int, half: int) -> Shape:
    """Put a thing somewhere in a cell of the picture's three by three."""
    row, column = divmod(cell, _CELLS)
    side = PIXELS / _CELLS
    x, y = (round((place + 0.5) * side + rng.uniform(-2, 2)) for place in (column, row))
    return Shape(thing[1], thing[0], x, y, half)


def _name(thing: Thing, size: str = "") -> str:
    return f"a {size}{thing[0]} {thing[1]}"


def _relation(rng: random.Random, one: Thing, other: Thing) -> Scene:
    relation = rng.choice(RELATIONS)
    first, second = rng.choice(_PAIRS_OF_CELLS[relation])
    shapes = _put(rng, one, first, _MIDDLE), _put(rng, other, second, _MIDDLE)
    names = _name(one), _name(other)
    return Scene("relation", shapes, f"{names[0]} {relation} {names[1]}.", f"{names[1]} {relation} {names[0]}.")


def _pairs_of_cells(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    """Return pairs of cells in one row or column, of which the first lies before the second."""
    cells = range(_CELLS * _CELLS)
    return tuple(
        (one, other)
        for one in cells
        for other in cells
        if (one // _CELLS < other // _CELLS) == bool(rows) and (one % _CELLS < other % _CELLS) == bool(columns)
        if (one // _CELLS == other // _CELLS) != bool(rows) and (one % _CELLS == other % _CELLS) != bool(columns)
    )


_BESIDE, _OVER = _pairs_of_cells(0, 1), _pairs_of_cells(1, 0)
_PAIRS_OF_CELLS = {
    "left of": _BESIDE,
    "right of": tuple((other, one) for one, other in _BESIDE),
    "above": _OVER,
    "below": tuple((other, one) for one, other in _OVER),
}


def _colour(rng: random.Random, one: Thing, other: Thing) -> Scene:
    cells = rng.sample(range(_CELLS * _CELLS), 2)
    shapes = tuple(_put(rng, thing, cell, _MIDDLE) for thing, cell in zip((one, other), cells, strict=True))
    swapped = _name((other[0], one[1])), _name((one[0], other[1]))
    return Scene("colour", shapes, f"{_name(one)} and {_name(other)}.", f"{swapped[0]} and {swapped[1]}.")


def _count(rng: random.Random, one: Thing, other: Thing) -> Scene:
    few, many = sorted(rng.sample(sorted(NUMERALS), 2))
    counts = rng.choice(((few, many), (many, few)))
    cells = rng.sample(range(_CELLS * _CELLS), sum(counts))
    things = [one] * counts[0] + [other] * counts[1]
    shapes = tuple(_put(rng, thing, cell, _MIDDLE) for thing, cell in zip(things, cells, strict=True))
    names = [f"{colour} {_plural(shape)}" for colour, shape in (one, other)]
    said = [f"{NUMERALS[a]} {names[0]} and {NUMERALS[b]} {names[1]}." for a, b in (counts, counts[::-1])]
    return Scene("count", shapes, *said)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _size(rng: random.Random, one: Thing, other: Thing) -> Scene:
    cells = rng.sample(range(_CELLS * _CELLS), 2)
    sizes = rng.choice((("big ", "small "), ("small ", "big ")))
    half = {"big ": _BIG, "small ": _SMALL}
    placed = zip((one, other), cells, sizes, strict=True)
    shapes = tuple(_put(rng, thing, cell, half[size]) for thing, cell, size in placed)
    said = [f"{_name(one, a)} and {_name(other, b)}." for a, b in (sizes, sizes[::-1])]
    return Scene("size", shapes, *said)


KINDS = {"relation": _relation, "colour": _colour, "count": _count, "size": _size}
"""How each kind of scene is drawn."""


def draw_scene(rng: random.Random, split: Split, kind: str | None = None) -> Scene:
    """Draw a scene of a kind, or of any."""
    return KINDS[kind or rng.choice(list(KINDS))](rng, *draw_things(rng, split))


def picture(shapes: Iterable[Shape]) -> Image.Image:
    """Draw shapes on light grey, RGB, PIXELS wide and high."""
    image = Image.new("RGB", (PIXELS, PIXELS), _BACKGROUND)
    for one in shapes:
        _paint(ImageDraw.Draw(image), one, COLOURS[one.colour])
    return image


def label_map(shapes: Iterable[Shape]) -> Image.Image:
    """Draw which thing each pixel is of: 0 for the background, else 1 + its place in THINGS."""
    image = Image.new("L", (PIXELS, PIXELS))
    for one in shapes:
        _paint(ImageDraw.Draw(image), one, 1 + THINGS.index((one.colour, one.shape)))
    return image


def _paint(draw: ImageDraw.ImageDraw, one: Shape, fill: Any) -> None:
    left, top, right, bottom = one.x - one.half, one.y - one.half, one.x + one.half, one.y + one.half
    if one.shape == "circle":
        draw.ellipse((left, top, right, bottom), fill)
    elif one.shape == "square":
        draw.rectangle((left, top, right, bottom), fill)
    elif one.shape == "triangle":
        draw.polygon(((one.x, top), (left, bottom), (right, bottom)), fill)
    elif one.shape == "diamond":
        draw.polygon(((one.x, top), (right, one.y), (one.x, bottom), (left, one.y)), fill)
    else:
        arm = one.half // 3
        draw.rectangle((left, one.y - arm, right, one.y + arm), fill)
        draw.rectangle((one.x - arm, top, one.x + arm, bottom), fill)


def black() -> Image.Image:
    """Return the picture that stands before text: black, as the BabyLM evaluation has it."""
    return Image.new("RGB", (PIXELS, PIXELS))


def draw_captions(split: Split, count: int) -> list[dict[str, Any]]:
    """Draw a split's choices in the form of BabyLM's Winoground rows: two pictures an item, so many items a kind.

    The second picture shows what the first one's foil says.
    """
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        rng = random.Random(f"{_SEED} {split} {kind}")
        items: dict[frozenset[str], Scene] = {}
        while len(items) < count:  # each kind has thirty of the development's and fifty of the benchmark's
            scene = draw_scene(rng, split, kind)
            items.setdefault(frozenset((scene.caption, scene.foil)), scene)
        for scene in items.values():
            rows += _rows(len(rows) // 2, (scene, _counterpart(rng, scene)))
    return rows


def _counterpart(rng: random.Random, scene: Scene) -> Scene:
    """Draw a scene of which the first one's foil is true and its caption isn't."""
    things = list(dict.fromkeys((one.colour, one.shape) for one in scene.shapes))
    pair = {"colour": [(things[1][0], things[0][1]), (things[0][0], things[1][1])]}.get(scene.kind, things)
    while True:
        found = KINDS[scene.kind](rng, *pair if scene.kind != "relation" else pair[::-1])
        if (found.caption, found.foil) == (scene.foil, scene.caption):
            return found


def _rows(number: int, scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    return [
        {
            "caption_0": scene.caption,
            "caption_1": scene.foil,
            "image_idx": number,
            "image_key": f"image_{place}",
            "tag": scene.kind,
            "secondary_tag": "",
            "collapsed_tag": scene.kind,
            "shapes": [asdict(one) for one in scene.shapes],
        }
        for place, scene in enumerate(scenes)
    ]


def picture_of_row(row: Any) -> Image.Image:
    """Draw the picture of a row of the benchmark."""
    return picture(Shape(**one) for one in row["shapes"])
