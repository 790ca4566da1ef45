"""A sweep over checkpoints as people see it: what a choice is worth, all scores as CSV, and scores over checkpoints."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_plam.files import replacing, write_text
from lmms_plam.report.numbers import decimals
from lmms_plam.report.tables import Table
from lmms_plam.search.checkpoints import UNTOUCHED, Checkpoints, Choice, Scored
from lmms_plam.search.crossfit import Unseen
from lmms_plam.search.result import TUNED_HERE

CSV, TABLE, PICTURES = "checkpoints.csv", "checkpoints.md", ("checkpoints.png", "checkpoints.svg")

_COLOURS = ("#1f4e79", "#c77700", "#2e7d32", "#8e24aa", "#c0392b", "#00838f")
_QUIET = "#5f5f5f"


def choices(found: Sequence[Checkpoints]) -> Table:
    """Return the best pair and recipe of each benchmark, and what such a choice scores on documents unseen."""
    rows = []
    for one in found:
        digits = decimals(one.perfect)
        for choice in (one.merged, one.untouched):
            numbers = (f"{choice.tuned_here:.{digits}f}", *_unseen(choice, digits))
            rows.append((_benchmark(one), str(choice.column), *numbers))
    notes = [
        f"{_benchmark(one)}, best merge over best untouched VLM, both chosen on other documents than those scored: "
        + _gain(one.merged_over_untouched, decimals(one.perfect))
        for one in found
    ]
    notes.append(f"tuned here: the score is {TUNED_HERE}, and the best one's is too high")
    notes.append(
        "on others: pairs and recipes are chosen on some documents and scored on the others; the gain is over the last "
        "VLM, untouched"
    )
    return Table("", ("benchmark", "best", "tuned here", "on others", "gain there"), rows, notes, labels=2)


def write(found: Sequence[Checkpoints], folder: Path) -> None:
    """Write table, CSV and picture into a folder."""
    write_text(folder / TABLE, choices(found).to_markdown())
    write_text(folder / CSV, to_csv(found))
    draw(found, folder)


def to_csv(found: Sequence[Checkpoints]) -> str:
    """Return every score and gain, a row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("task", "vlm", "base_lm", "recipe", "score", "ci_low", "ci_high", "gain", "gain_low", "gain_high", "documents")
    )
    for one in found:
        for scored in one.scored:
            column = scored.column
            numbers = (scored.score, scored.low, scored.high, scored.gain, scored.gain_low, scored.gain_high)
            told = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow((one.task, column.vlm, column.base_lm, column.recipe, *told, one.documents))
    return text.getvalue()


def draw(found: Sequence[Checkpoints], folder: Path) -> None:
    """Draw scores over the VLM's checkpoints, a line a recipe, a panel for each benchmark and base LM's checkpoint."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(found[0].scored)
    size = (max(7.0, 3.2 * len(panels)), 1.4 + 2.6 * len(found))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(found), len(panels), squeeze=False, sharey="row")
    for row, one in zip(grid, found, strict=True):
        for axes, (title, scored) in zip(row, _panels(one.scored).items(), strict=True):
            _draw_panel(axes, scored, alike=len(panels) == 1 and title == "")
            axes.set_title(title, loc="left", fontsize=9, color=_QUIET)
        row[0].set_ylabel("\n".join(textwrap.wrap(_benchmark(one), 24)))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    title = f"Scores over the VLM's checkpoints, with intervals of {found[0].level:.0%}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    for name in PICTURES:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150, format=Path(name).suffix[1:])


def _panels(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Return scores by base LM; all in one where each of these has one VLM alone."""
    by_base: dict[str, list[Scored]] = {}
    for one in scored:
        by_base.setdefault(f"base LM {one.column.base_lm}", []).append(one)
    alone = all(len({one.column.vlm for one in own}) == 1 for own in by_base.values())
    return {"": list(scored)} if alone else by_base


def _draw_panel(axes: Any, scored: Sequence[Scored], *, alike: bool) -> None:
    recipes = list(dict.fromkeys(one.column.recipe for one in scored))
    for place, recipe in enumerate([UNTOUCHED, *(one for one in recipes if one != UNTOUCHED)]):
        own = [one for one in scored if one.column.recipe == recipe]
        places = list(range(len(own)))
        colour = _QUIET if recipe == UNTOUCHED else _COLOURS[(place - 1) % len(_COLOURS)]
        style = "--" if recipe == UNTOUCHED else "-"
        axes.plot(places, [one.score for one in own], style, marker="o", markersize=3.5, color=colour, label=recipe)
        if all(one.low is not None for one in own):
            axes.fill_between(places, [one.low for one in own], [one.high for one in own], color=colour, alpha=0.12)
    first = [one for one in scored if one.column.recipe == UNTOUCHED]
    names = [f"{one.column.vlm}\n{one.column.base_lm}" if alike else one.column.vlm for one in first]
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=0 if alike else 45)
    axes.spines[["top", "right"]].set_visible(False)


def _benchmark(found: Checkpoints) -> str:
    """Return what was asked, without what comparisons are called."""
    return found.task.removeprefix("plam_compare_")


def _unseen(choice: Choice, digits: int) -> tuple[str, str]:
    if choice.unseen is None or choice.gain is None:
        return "none", "none"
    return f"{choice.unseen.gain:.{digits}f}", _gain(choice.gain, digits)


def _gain(found: Unseen | None, digits: int) -> str:
    if found is None:
        return "not known of one cluster"
    if found.ci_low is None or found.ci_high is None:
        return f"{found.gain:+.{digits}f}"
    return f"{found.gain:+.{digits}f} ({found.ci_low:+.{digits}f} to {found.ci_high:+.{digits}f})"
