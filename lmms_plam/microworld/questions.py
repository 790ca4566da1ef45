"""The kinds of question about a grid, by number and order of looks at it, and their answers.

What has to be looked at:

- one named cell: read, parity, plus;
- all cells: largest;
- two named cells: larger, sum;
- a named cell, whose digit names the next: twice, thrice;
- a named cell, whose digit names a place in a list that is written between grid and question: via;
- only that list, at a place that is named by a digit: item.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lmms_plam.microworld.grids import CELLS, Grid


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its one right answer.

    Attributes:
        kind: one of KINDS.
        text: as asked.
        answer: of one or two tokens.
        cells: the cells that have to be looked at, in the order of the looks.
    """

    kind: str
    text: str
    answer: str
    cells: tuple[int, ...]


Draw = Callable[[Grid, random.Random], tuple[str, str, tuple[int, ...]]]
_ALL = tuple(range(len(CELLS)))


def _at_cell(answer: Callable[[Grid, int], tuple[str, tuple[int, ...]]]) -> Draw:
    """Ask about one named cell, `{} c?`."""

    def draw(grid: Grid, rng: random.Random) -> tuple[str, str, tuple[int, ...]]:
        cell = rng.randrange(len(CELLS))
        return (f"{{}} {CELLS[cell]}?", *answer(grid, cell))

    return draw


def _two_cells(answer: Callable[[int, int], int]) -> Draw:
    def draw(grid: Grid, rng: random.Random) -> tuple[str, str, tuple[int, ...]]:
        a, b = rng.sample(_ALL, 2)
        return f"{{}} {CELLS[a]} {CELLS[b]}?", str(answer(grid.digits[a], grid.digits[b])), (a, b)

    return draw


def _largest(grid: Grid, rng: random.Random) -> tuple[str, str, tuple[int, ...]]:
    return "{}?", str(max(grid.digits)), _ALL


def _plus(grid: Grid, rng: random.Random) -> tuple[str, str, tuple[int, ...]]:
    cell, addend = rng.randrange(len(CELLS)), rng.randrange(10)
    return f"{{}} {CELLS[cell]} {addend}?", str(grid.digits[cell] + addend), (cell,)


def _hop(grid: Grid, cell: int, hops: int) -> tuple[str, tuple[int, ...]]:
    cells = [cell]
    for _ in range(hops):
        cells.append(grid.digits[cells[-1]])
    return str(grid.digits[cells[-1]]), tuple(cells)


def _listed(name: Callable[[Grid, int], tuple[str, int, tuple[int, ...]]]) -> Draw:
    """Ask for a place in a list of the ten digits in random order, which is written before the question."""

    def draw(grid: Grid, rng: random.Random) -> tuple[str, str, tuple[int, ...]]:
        listed = rng.sample(range(10), 10)
        named, place, cells = name(grid, rng.randrange(10))
        return f"list {''.join(map(str, listed))}\n{{}} {named}?", str(listed[place]), cells

    return draw


KINDS: dict[str, Draw] = {
    "read": _at_cell(lambda grid, a: (str(grid.digits[a]), (a,))),
    "largest": _largest,
    "plus": _plus,
    "parity": _at_cell(lambda grid, a: (("even", "odd")[grid.digits[a] % 2], (a,))),
    "larger": _two_cells(max),
    "sum": _two_cells(int.__add__),
    "twice": _at_cell(lambda grid, a: _hop(grid, a, 1)),
    "thrice": _at_cell(lambda grid, a: _hop(grid, a, 2)),
    "via": _listed(lambda grid, a: (CELLS[a], grid.digits[a], (a,))),
    "item": _listed(lambda grid, number: (str(number), number, ())),
}
"""How each kind draws a question about a grid: its text with the kind's name left out, its answer, the cells."""

NARROW = ("read", "largest", "plus")
"""The kinds that the VLMs `narrow` and `upper` are tuned on."""

LONGEST_ANSWER = dict.fromkeys(KINDS, 1) | {"sum": 2, "plus": 2}
"""Tokens of each kind's longest answer."""


def ask(kind: str, grid: Grid, rng: random.Random) -> Question:
    """Draw a question of one kind about a grid."""
    text, answer, cells = KINDS[kind](grid, rng)
    return Question(kind, text.format(kind), answer, cells)
