"""The surface of a recipe search as a picture: gains over coefficients, a panel or a row for each start layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmms_plam.files import replacing
from lmms_plam.search.result import TUNED_HERE, Measured, Search

SURFACE = ("surface.png", "surface.svg")

_INK, _QUIET, _PICK, _UNASKED = "#222222", "#5f5f5f", "#c77700", "#e9e9e9"
_HATCH = "#c4c4c4"
_MOST_PANELS = 12
_ROOM_FOR_NUMBERS = 80  # cells in all
_LEAST_REACH = 1.0  # points that the darkest colour means at least, so that noise on a flat surface looks pale


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of recipes; None where none was asked."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Measured | None]]


def panels(search: Search) -> tuple[list[Panel], str, str]:
    """Lay out the recipes that agree with the pick in everything but start layer and coefficients.

    Where all sums are alike, one panel: a row for each start layer. Else a panel for each start layer, whose first
    column is the VLM without the base LM, scaled or untouched; of more than twelve, those nearest to the pick's.

    Returns:
        The panels, and what columns and rows are.
    """
    picked = search.in_sample.recipe
    plane = [one for one in search.recipes if one.recipe.fields is not None and one.recipe.plane == picked.plane]
    merges = [one for one in plane if one.recipe.kind == picked.kind]
    layers = sorted({one.recipe.start_layer for one in merges})
    sums = sorted({one.recipe.total for one in merges})
    if len(sums) == 1:
        shares = sorted({one.recipe.coefficients[0] for one in merges})
        in_row = {(one.recipe.start_layer, one.recipe.coefficients[0]): one for one in merges}
        cells = [[in_row.get((layer, share)) for share in shares] for layer in layers]
        names = [f"{share:g}" for share in shares]
        vlm = f"the VLM's is {sums[0]:g} minus that"
        return [Panel("", names, list(map(str, layers)), cells)], f"coefficient of the base LM; {vlm}", "start layer"
    nearest = sorted(sorted(layers, key=lambda layer: abs(layer - picked.start_layer))[:_MOST_PANELS])
    xs = sorted({0.0, *(one.recipe.coefficients[0] for one in plane)})
    ys = sorted({one.recipe.coefficients[1] for one in plane})
    found = []
    for layer in nearest:
        at = {one.recipe.coefficients: one for one in plane if one.recipe.start_layer == layer}
        at[(0.0, 1.0)] = search.measured(search.record.base.name)
        cells = [[at.get((x, y)) for x in xs] for y in ys]
        names = ["0: VLM\nonly" if x == 0 else f"{x:g}" for x in xs]
        found.append(Panel(f"from layer {layer} on", names, [f"{y:g}" for y in ys], cells))
    return found, "coefficient of the base LM", "coefficient of the VLM"


def draw_surface(search: Search, folder: Path) -> None:
    """Draw a search's surface as `surface.png` and `surface.svg`.

    Args:
        search: what was found.
        folder: where the files go; made if missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    shown, across, up = panels(search)
    n_columns = min(len(shown), 3)
    n_rows = -(-len(shown) // n_columns)
    wide, high = len(shown[0].columns), len(shown[0].rows)
    width = (
        max(9.0, n_columns * min(5.0, 1.2 + 0.34 * wide)) if len(shown) > 1 else min(12.0, max(9.0, 2 + 0.62 * wide))
    )
    height = n_rows * min(5.0, max(1.6, 0.9 + (0.3 if len(shown) > 1 else 0.42) * high)) + 2.2
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    gains = [
        one.gain * search.points
        for panel in shown
        for row in panel.cells
        for one in row
        if one and one.gain is not None
    ]
    reach = max(_LEAST_REACH, *map(abs, gains)) if gains else _LEAST_REACH
    colours = LinearSegmentedColormap.from_list("gain", ["#c0392b", "#ffffff", "#1f4e79"])
    scale = ScalarMappable(Normalize(-reach, reach), colours)
    numbers = sum(len(panel.columns) * len(panel.rows) for panel in shown) <= _ROOM_FOR_NUMBERS
    for place, axes in enumerate(grid.ravel()):
        if place < len(shown):
            _draw_panel(axes, shown[place], search, scale, numbers)
        else:
            axes.set_axis_off()
    figure.colorbar(scale, ax=list(grid.ravel()), label=f"gain in points,\n{TUNED_HERE}", shrink=0.9, pad=0.01)
    for axes in grid[-1, : len(shown) - n_columns * (n_rows - 1)]:
        axes.set_xlabel(across)
    for axes in grid[:, 0]:
        axes.set_ylabel(up)
    headline = textwrap.fill(f"{search.record.task}: the pick is {search.in_sample.recipe}", int(width * 9.4))
    figure.suptitle(headline, x=0.01, ha="left", fontsize=13, fontweight="bold")
    _legend(figure, search, shown, "\n".join(_words(search, len(shown), int(width * 13))))
    for name in SURFACE:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150)


def _draw_panel(axes: Any, panel: Panel, search: Search, scale: Any, numbers: bool) -> None:
    from matplotlib.patches import Rectangle

    near = set(search.near_best)
    for y, row in enumerate(panel.cells):
        for x, one in enumerate(row):
            corner = (x - 0.5, y - 0.5)
            if one is None or one.gain is None:
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=_UNASKED, edgecolor="white", linewidth=0.5))
                continue
            dropped = one.recipe.dropped_after is not None
            points = one.gain * search.points
            colour = scale.to_rgba(points)
            hatch = "////" if dropped else None
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor=_HATCH, linewidth=0.4, hatch=hatch))
            if numbers:
                dark = abs(points) > 0.6 * scale.norm.vmax
                axes.text(x, y, f"{points:+.1f}", ha="center", va="center", fontsize=8, color="white" if dark else _INK)
            if one.recipe.name == search.pick:
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_PICK, linewidth=3, zorder=5))
    for start, end in _outline([[bool(one and one.recipe.name in near) for one in row] for row in panel.cells]):
        axes.plot(*zip(start, end, strict=True), color=_INK, linewidth=1.6, zorder=4, solid_capstyle="projecting")
    every = max(1, len(panel.columns) // 8) if len(panel.columns) > 12 else 1
    axes.set_xticks(range(0, len(panel.columns), every), panel.columns[::every], fontsize=8)
    every = max(1, len(panel.rows) // 8) if len(panel.rows) > 12 else 1
    axes.set_yticks(range(0, len(panel.rows), every), panel.rows[::every], fontsize=8)
    axes.set(xlim=(-0.5, len(panel.columns) - 0.5), ylim=(-0.5, len(panel.rows) - 0.5))
    axes.set_title(panel.title, fontsize=9.5, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _outline(inside: Sequence[Sequence[bool]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the edges between cells that are inside and those that aren't, as pairs of points."""
    padded = np.pad(np.array(inside, dtype=bool), 1)
    edges = []
    for y, x in zip(*np.nonzero(padded[1:-1, 1:-1]), strict=True):
        left, right, low, high = x - 0.5, x + 0.5, y - 0.5, y + 0.5
        for beside, start, end in (
            (padded[y + 1, x], (left, low), (left, high)),
            (padded[y + 1, x + 2], (right, low), (right, high)),
            (padded[y, x + 1], (left, low), (right, low)),
            (padded[y + 2, x + 1], (left, high), (right, high)),
        ):
            if not beside:
                edges.append((start, end))
    return edges


def _words(search: Search, n_panels: int, columns: int) -> list[str]:
    lines, unseen = [], search.unseen
    if unseen is not None:
        said = f"On documents that the choice did not see it gains {unseen.gain * search.points:+.2f} points"
        if unseen.ci_low is not None and unseen.ci_high is not None:
            low, high = unseen.ci_low * search.points, unseen.ci_high * search.points
            said += f" ({search.settings.level:.0%} interval {low:+.2f} to {high:+.2f})"
        lines.append(f"{said}. The colours show gains {TUNED_HERE}: the largest of them is too large.")
    if search.borders:
        lines.append(f"The pick lies at the edge of what was asked: {'; '.join(search.borders)}.")
    layers = {one.recipe.start_layer for one in search.recipes if one.recipe.kind == search.record.sought}
    if 1 < n_panels < len(layers):
        lines.append(f"{n_panels} of {len(layers)} start layers, those nearest to the pick's.")
    lines.append(provenance(search))
    return [part for line in lines for part in textwrap.wrap(line, columns)]


def provenance(search: Search) -> str:
    """Say of what a picture is, in a line."""
    record = search.record
    parts = [record.config or "", record.date, f"{search.documents:,} documents, {len(search.recipes)} recipes"]
    return "; ".join(part for part in parts if part)


def _legend(figure: Any, search: Search, shown: Sequence[Panel], small_print: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="white", edgecolor=_PICK, linewidth=3, label="the pick"),
        Line2D([], [], color=_INK, linewidth=1.6, label=f"within the pick's noise ({len(search.near_best)} recipes)"),
    ]
    if any(one is None for panel in shown for row in panel.cells for one in row):
        handles.append(Patch(facecolor=_UNASKED, label="not asked"))
    if any(one.recipe.dropped_after for one in search.recipes):
        label = "dropped by racing: gain on the documents asked until then"
        handles.append(Patch(facecolor="white", edgecolor=_HATCH, hatch="////", label=label))
    place = {"loc": "outside lower left", "ncols": 4, "frameon": False, "alignment": "left"}
    figure.legend(handles=handles, title=small_print, title_fontsize=9, fontsize=9, **place)
