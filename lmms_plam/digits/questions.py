"""The seven kinds of question about a grid of digits, their answers, and the grid written out as text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmms_plam.digits.grids import CELLS, COLUMNS


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its one right answer, of one or two tokens, and the cells that it names."""

    kind: str
    text: str
    answer: str
    cells: tuple[int, ...] = ()


_Asked = tuple[str, str] | tuple[str, str, tuple[int, ...]]
"""Text, answer, and the cells that are named, if any."""


def _read(digits: Sequence[int], rng: random.Random) -> _Asked:
    cell = rng.randrange(len(CELLS))
    return f"digit at {CELLS[cell]}?", str(digits[cell]), (cell,)


def _count(digits: Sequence[int], rng: random.Random) -> _Asked:
    digit = rng.choice(digits) if rng.random() < 0.8 else rng.randrange(10)
    return f"how many {digit}?", str(list(digits).count(digit))


def _exists(digits: Sequence[int], rng: random.Random) -> _Asked:
    there = rng.random() < 0.5
    digit = rng.choice([digit for digit in range(10) if (digit in digits) == there])
    return f"any {digit}?", "yes" if there else "no"


def _two_cells(rng: random.Random) -> list[int]:
    return rng.sample(range(len(CELLS)), 2)


def _larger(digits: Sequence[int], rng: random.Random) -> _Asked:
    a, b = _two_cells(rng)
    return f"larger of {CELLS[a]} and {CELLS[b]}?", str(max(digits[a], digits[b])), (a, b)


def _sum(digits: Sequence[int], rng: random.Random) -> _Asked:
    a, b = _two_cells(rng)
    return f"sum of {CELLS[a]} and {CELLS[b]}?", str(digits[a] + digits[b]), (a, b)


def _largest(digits: Sequence[int], rng: random.Random) -> _Asked:
    return "largest digit?", str(max(digits))


def _parity(digits: Sequence[int], rng: random.Random) -> _Asked:
    cell = rng.randrange(len(CELLS))
    return f"even or odd at {CELLS[cell]}?", "odd" if digits[cell] % 2 else "even", (cell,)


KINDS: dict[str, Callable[[Sequence[int], random.Random], _Asked]] = {
    "read": _read,
    "count": _count,
    "exists": _exists,
    "larger": _larger,
    "sum": _sum,
    "largest": _largest,
    "parity": _parity,
}
"""How each kind draws a question about six digits and answers it."""


def ask(kind: str, digits: Sequence[int], rng: random.Random) -> Question:
    """Draw a question of one kind about a grid's six digits."""
    return Question(kind, *KINDS[kind](digits, rng))


def write(digits: Sequence[int]) -> str:
    r"""Write a grid out as text, a line for each row: `top:714\nbottom:093\n`."""
    top, bottom = digits[:COLUMNS], digits[COLUMNS:]
    return f"top:{''.join(map(str, top))}\nbottom:{''.join(map(str, bottom))}\n"
