"""Attention by layer as pictures: each measure under every variant, and what a merge changes in it with its band."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lmms_plam.attention.growth import Growth
from lmms_plam.attention.record import MEASURES, QUERIES, Measure
from lmms_plam.attention.summary import AttentionFindings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUIET, _GREY, _LATE = "#5f5f5f", "#b3b3b3", "#f1e4d3"
_COLOURS = ("#1f4e79", "#c77700", "#2a7f62", "#6a3d9a", "#b5470d")
_STROKES = ("-", (0, (5, 2)), (0, (2, 1.5)))
_AXES: dict[Measure, tuple[str, str, float]] = {
    "mass": ("% of attention on the picture", "percentage points", 100),
    "entropy": ("entropy within the picture\n(1: evenly spread)", "entropy", 1),
    "focus": ("% of the picture's tokens that\nhold half of the attention on it", "percentage points", 100),
    "mass_without_sinks": ("% of attention on the picture,\nwithout attention sinks", "percentage points", 100),
    "inside": ("% of the attention on the picture\nthat is on the right place", "percentage points", 100),
}
"""Of a measure's axes: the name, the unit of a difference, and units in 1."""

_LEAST_REACH = 0.005  # in shares, of the differences' axis, so that noise around nothing looks small


def curve_files(measure: Measure) -> tuple[str, str]:
    """Return the names of a measure's pictures."""
    return f"{measure}.png", f"{measure}.svg"


def measures_of(found: AttentionFindings, queries: str) -> list[Measure]:
    """Return the measures of which something is known."""
    return [measure for measure in MEASURES if _growths(found, measure, queries)]


def draw(found: AttentionFindings, measure: Measure, queries: Sequence[str], about: str, kind: str) -> bytes:
    """Return a measure's curves as a picture of a kind, `svg` or `png`; the rest as for `curves`."""
    octets = io.BytesIO()
    curves(found, measure, queries, about).savefig(octets, format=kind, dpi=150)
    return octets.getvalue()


def curves(found: AttentionFindings, measure: Measure, queries: Sequence[str], about: str) -> Figure:
    """Draw a measure by layer: above under each variant, below what each changes against the reference.

    Args:
        found: what was found.
        measure: what is drawn.
        queries: whose attention, a column each.
        about: which task and model it is of, and when.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 4.9 * len(queries)
    figure = Figure(figsize=(width, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(queries), squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(queries):
        _draw_levels(grid[0, column], found, measure, name)
        _draw_differences(grid[1, column], found, measure, name)
        grid[0, column].set_title(f"from {QUERIES[name]}", loc="left", fontsize=10)
        grid[1, column].set_xlabel("decoder layer")
    for axes in grid.ravel():
        _shade(axes, found.late)
        axes.set_xlim(found.growth[0].layers[0] - 0.6, found.growth[0].layers[-1] + 0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    name, unit, units = _AXES[measure]
    low, high = grid[1, 0].get_ylim()
    grid[1, 0].set_ylim(min(low, -units * _LEAST_REACH), max(high, units * _LEAST_REACH))
    grid[0, 0].set_ylabel(name, fontsize=9)
    grid[1, 0].set_ylabel(f"minus '{found.reference}',\n{unit}", fontsize=9)
    title = MEASURES[measure]
    figure.suptitle(
        textwrap.fill(title[0].upper() + title[1:], int(8.5 * width)), x=0.01, ha="left", fontsize=11, fontweight="bold"
    )
    dots = f"Bands: {found.settings.level:.0%}, for all layers at once; a dot: 0 is outside."
    small = "\n".join(textwrap.fill(line, int(13 * width)) for line in (dots, about))
    figure.legend(
        *_once(*grid[0, 0].get_legend_handles_labels()),
        loc="outside lower left",
        ncols=2,
        fontsize=8.5,
        frameon=False,
        title=small,
        title_fontsize=8,
        alignment="left",
    )
    return figure


def _growths(found: AttentionFindings, measure: Measure, queries: str) -> list[Growth]:
    own = [found.growth_of(variant, queries, measure) for variant in found.variants]
    return [one for one in own if one is not None and np.isfinite(one.before).any()]


def _style(found: AttentionFindings, variant: str) -> dict[str, Any]:
    place = found.variants.index(variant)
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _STROKES[place // len(_COLOURS) % len(_STROKES)]}


def _draw_levels(axes: Any, found: AttentionFindings, measure: Measure, queries: str) -> None:
    unit, growths = _AXES[measure][2], _growths(found, measure, queries)
    if growths:
        first = growths[0]
        axes.plot(first.layers, unit * first.before, color=_GREY, linewidth=4, label=f"'{found.reference}'")
    for one in growths:
        style = _style(found, one.variant)
        axes.plot(one.layers, unit * one.after, marker="o", markersize=3, label=f"'{one.variant}'", **style)
    place = found.place_of(found.reference, queries)
    if measure == "inside" and place is not None:
        words = "if spread evenly: the right place's share of the picture"
        axes.axhline(unit * place.region, color=_QUIET, linewidth=1, linestyle=":", label=words)


def _draw_differences(axes: Any, found: AttentionFindings, measure: Measure, queries: str) -> None:
    unit = _AXES[measure][2]
    axes.axhline(0, color=_QUIET, linewidth=1)
    for one in _growths(found, measure, queries):
        change, style = one.difference, _style(found, one.variant)
        axes.plot(one.layers, unit * change.value, linewidth=1.4, **style)
        axes.fill_between(
            one.layers, unit * change.low, unit * change.high, color=style["color"], alpha=0.16, linewidth=0
        )
        sure = change.above | change.below
        axes.plot(one.layers[sure], unit * change.value[sure], "o", color=style["color"], markersize=4.5)


def _shade(axes: Any, late: Sequence[int]) -> None:
    """Shade the late layers, which may have gaps."""
    words = "late layers, of which the findings speak"
    for layer in late:
        if layer - 1 not in late:
            last = next(end for end in range(layer, max(late) + 1) if end + 1 not in late)
            axes.axvspan(layer - 0.5, last + 0.5, color=_LATE, linewidth=0, zorder=0, label=words)


def _once(handles: Sequence[Any], labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return legend entries, each label once."""
    own = dict(zip(labels, handles, strict=True))
    return list(own.values()), list(own)
