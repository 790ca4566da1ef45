"""Language lost and given back on one picture: base LM, VLM and merged model on text, and what it costs on pictures.

A comparison shows it where one of its tasks is text alone. What was lost needs the base LM as a recipe of its own:

    recipes: {base_lm: {start_layer: 0, lambda_lm: 1, lambda_vlm: 0, modules: all}}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lmms_plam.config import ALL_MODULES
from lmms_plam.files import write_bytes
from lmms_plam.report.forest import ForestRow, draw_forest
from lmms_plam.scoring.saved import ComparisonRecord
from lmms_plam.stats.results import Result

LANGUAGE = ("language.png", "language.svg")

Kind = Literal["lost", "back", "pictures"]
GROUPS: dict[Kind, str] = {
    "lost": "text: the VLM against its base LM",
    "back": "text: merged against the VLM",
    "pictures": "pictures: merged against the VLM",
}
"""The parts of the picture, from top to bottom."""

_MERGED = "merged"


def is_base_lm(recipe: str) -> bool:
    """Say whether a recipe, in words, is the base LM itself: all of every layer's weights, and nothing of the VLM's."""
    fields = dict(part.split("=", 1) for part in re.split(r", ", recipe) if "=" in part)
    modules = set(fields.get("modules", "").split("+"))
    numbers = [float(fields[name]) if name in fields else None for name in ("start_layer", "lambda_lm", "lambda_vlm")]
    return numbers == [0, 1, 0] and set(ALL_MODULES) <= modules and "end_layer" not in fields


def language_rows(compared: Iterable[tuple[Sequence[Result], ComparisonRecord]]) -> list[ForestRow]:
    """Return the picture's rows, none where no task is text alone.

    Args:
        compared: each comparison's differences, of which the headline's count, and how it was measured.
    """
    compared = list(compared)
    if all(record.pictures for _, record in compared):
        return []
    rows: dict[Kind, list[ForestRow]] = {"lost": [], "back": [], "pictures": []}
    for results, record in compared:
        for result in results:
            variant = result.comparison.variant
            if not result.headline:
                continue
            if variant == _MERGED:
                kind: Kind = "pictures" if record.pictures else "back"
                rows[kind].append(_row(kind, record.of, result))
            elif not record.pictures and is_base_lm(record.recipes.get(variant, "")):
                rows["lost"].append(_row("lost", record.of, result))
    return [row for own in rows.values() for row in own]


def draw_language(rows: Sequence[ForestRow], about: str, level: float, kind: str = "svg") -> bytes:
    """Draw the picture.

    Args:
        rows: as `language_rows` returns them.
        about: which model answered and when.
        level: of the intervals.
        kind: `svg` or `png`.
    """
    axis = (
        f"points (hundredths of a perfect score), {level:.0%} interval; below 0 at the top is language lost,"
        " above 0 below is given back or gained"
    )
    return draw_forest(rows, f"Language lost and given back ({about})", axis, kind)


def write_language(
    compared: Iterable[tuple[Sequence[Result], ComparisonRecord]], folder: Path, about: str
) -> Path | None:
    """Write the picture as PNG and SVG, and return the latter; None where no task is text alone."""
    compared = list(compared)
    rows = language_rows(compared)
    if not rows:
        return None
    level = compared[0][0][0].comparison.difference.level
    for name in LANGUAGE:
        write_bytes(folder / name, draw_language(rows, about, level, name.rpartition(".")[2]))
    return folder / LANGUAGE[1]


def _row(kind: Kind, benchmark: str, result: Result) -> ForestRow:
    """Return a difference in points, better above 0; what was lost is the VLM's to its base LM, not the other way."""
    found = result.comparison.difference
    factor = (100 if result.higher_is_better else -100) / result.perfect * (-1 if kind == "lost" else 1)
    ends = sorted(factor * end for end in (found.ci_low, found.ci_high) if end is not None)
    low, high = ends if len(ends) == 2 else (None, None)
    points = factor * found.value
    return ForestRow(GROUPS[kind], benchmark, points, low, high, True, f"{points:+.2f}")
