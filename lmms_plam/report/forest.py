"""A forest plot: one line a metric, the paired difference and its interval on a common scale."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

_INK, _QUIET, _BETTER, _WORSE = "#222222", "#8a8a8a", "#1f4e79", "#c0392b"


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of the plot.

    Attributes:
        label: what was measured.
        value: the difference, in points (hundredths of a perfect score).
        low: lower end of its interval, None without one.
        high: upper end.
        higher_is_better: whether a difference above zero is good news.
        words: what stands at the right margin.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    higher_is_better: bool
    words: str


def draw_forest(rows: Sequence[ForestRow], title: str, axis: str, kind: str = "svg") -> bytes:
    """Draw the plot.

    Args:
        rows: from top to bottom.
        title: a line above it.
        axis: what the horizontal axis shows.
        kind: `svg` or `png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color=_QUIET, linewidth=1, linestyle="--")
    for place, row in enumerate(rows):
        colour = _colour(row)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row.value, place, "s", color=colour, markersize=6)
        axes.text(1.01, place, row.words, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=_INK)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _colour(row: ForestRow) -> str:
    """Return the colour of a change for the better, for the worse, or of one that may be none."""
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return _QUIET
    return _BETTER if (row.low > 0) == row.higher_is_better else _WORSE
