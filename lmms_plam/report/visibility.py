"""What hiding the picture elsewhere, or switching attention off, showed: a picture, a page, and the numbers as JSON."""

from __future__ import annotations

import json
import textwrap
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lmms_plam.files import replacing, write_text
from lmms_plam.probes.visibility import Kind, Visibility, findings
from lmms_plam.report.page import inline_svg, page
from lmms_plam.report.tables import Table

RECORD, PAGE, PICTURES = "visibility.json", "visibility.html", ("visibility.png", "visibility.svg")
FILES = (RECORD, PAGE, *PICTURES)
"""What `write` writes."""

_QUIET, _MARK = "#5f5f5f", "#c77700"
_COLOURS: dict[Kind, str] = {"late": "#1f4e79", "early": "#b5470d", "silent": "#6a3d9a", "window": "#1f4e79"}
_WORDS: dict[Kind, str] = {
    "late": "late hiding: the image is seen in layers below k only",
    "early": "early hiding: it is seen in layers k and later only",
    "silent": "attention works in layers below k only",
}


def write(task: str, about: str, found: Visibility, folder: Path) -> None:
    """Write visibility.json, .html, .png and .svg.

    Args:
        task: its name.
        about: which model answered and when.
        found: what `visibility` returned.
        folder: where the files go; made if missing.
    """
    write_text(folder / RECORD, json.dumps({"task": task, "about": about, **found.to_dict()}, indent=2) + "\n")
    _draw(task, about, found, folder)
    listed = "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in findings(found)) + "</ul>"
    write_text(
        folder / PAGE, page(task, [inline_svg(folder / PICTURES[1]), listed, table(found).to_html()], _HOW, about)
    )


_HOW = (
    "differences are paired, to the full model; their intervals, from a bootstrap of clusters, hold for all places of "
    "a kind at once"
)


def table(found: Visibility) -> Table:
    """Return a row for each place."""
    point = 100 / found.perfect
    rows = [
        (
            one.place.variant,
            f"{one.score:.4g}",
            f"{one.difference * point:+.2f}",
            f"{one.low * point:+.2f} to {one.high * point:+.2f}",
        )
        for own in found.contrasts.values()
        for one in own
    ]
    interval = f"{found.level:.0%} interval, simultaneous"
    return Table("places", ("place", "score", "points", interval), [*rows, ("full", f"{found.full:.4g}", "", "")])


def _draw(task: str, about: str, found: Visibility, folder: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if "window" in found.contrasts:
        _draw_windows(axes, found)
    else:
        _draw_curves(axes, found)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    figure.suptitle(task, x=0.01, ha="left", fontsize=13, fontweight="bold")
    said = [line[0].upper() + line[1:] for line in findings(found)]
    lines = [textwrap.fill(f"{line}.", 120) for line in (*said, about)]
    axes.set_title("\n".join(lines), loc="left", fontsize=9, color=_QUIET)
    for name in PICTURES:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150)


def _draw_curves(axes: Any, found: Visibility) -> None:
    """Draw score over k: late hiding, and beside it early hiding or silence, each with its band and where it levels."""
    unit = 100 / found.perfect if found.perfect in (1, 100) else 1.0
    for kind in sorted(found.curves, key=lambda kind: kind != "late"):
        _draw_curve(axes, kind, found, unit)
    axes.axhline(
        unit * found.full, color=_QUIET, linewidth=1, linestyle="--", label=f"full model: {unit * found.full:.1f}"
    )
    late, limit = found.curves["late"].onset, found.early_limit
    if late is not None:
        axes.axvline(late, color=_COLOURS["late"], linewidth=1.4, linestyle=":", label=f"plateau onset k* = {late}")
    if limit is not None:
        words = f"the image may be hidden below k = {limit[0]}"
        axes.axvline(limit[0], color=_COLOURS["early"], linewidth=1.4, linestyle=":", label=words)
    if found.recipe is not None and "silent" in found.curves:
        words = f"layers that the recipe merges: {found.recipe} to {found.depth - 1}"
        axes.axvspan(found.recipe, found.depth, color=_MARK, alpha=0.12, linewidth=0, label=words)
    axes.set_xlim(-0.4, found.depth + 0.4)
    axes.set_ylabel("score, % of the best possible" if unit != 1 or found.perfect == 100 else "score")
    band = (
        f"bands: {found.level:.0%} intervals of the paired difference to the full model, for all k of a curve at once"
    )
    axes.set_xlabel(f"k, a number of decoder layers\n({band})")


def _draw_curve(axes: Any, kind: Kind, found: Visibility, unit: float) -> None:
    """Draw one kind's scores over k; at one end all curves are the full model, and late and early meet at the other."""
    full = (0 if kind == "early" else found.depth, found.full, 0.0, 0.0)
    points = [full, *((one.place.border, one.score, one.low, one.high) for one in found.contrasts[kind])]
    hidden = found.at("late", 0)
    if kind == "early" and hidden is not None:
        points.append((found.depth, hidden.score, hidden.low, hidden.high))
    layers, score, low, high = map(np.array, zip(*sorted(points), strict=True))
    colour = _COLOURS[kind]
    axes.plot(layers, unit * score, "o-", color=colour, markersize=4, linewidth=1.6, label=_WORDS[kind])
    axes.fill_between(
        layers, unit * (found.full + low), unit * (found.full + high), color=colour, alpha=0.16, linewidth=0
    )


def _draw_windows(axes: Any, found: Visibility) -> None:
    """Draw what each window costs, over its first layer."""
    point, windows = 100 / found.perfect, found.contrasts["window"]
    width = windows[0].place.end - windows[0].place.first
    axes.axhline(0, color=_QUIET, linewidth=1, linestyle="--", label=f"full model: {found.full:.4g}")
    label = f"difference, with {found.level:.0%} intervals that hold for all windows at once"
    for one in windows:
        worst = one.place == found.costliest.place
        axes.errorbar(
            one.place.first,
            one.difference * point,
            [[(one.difference - one.low) * point], [(one.high - one.difference) * point]],
            fmt="o",
            color=_MARK if worst else _COLOURS["window"],
            linewidth=1.8,
            label="the window whose loss is largest" if worst else label,
        )
        label = label if worst else ""
    axes.set_xlim(-0.6, found.depth - 0.4)
    axes.set_ylabel("points (hundredths of a perfect score)")
    also = f" and in the {width - 1} after it" if width > 1 else " alone"
    axes.set_xlabel(f"decoder layer in which the image is hidden{also}")
