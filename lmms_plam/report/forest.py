"""A forest plot: one line a difference with its interval, on a common scale, grouped by benchmark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_INK, _QUIET, _BETTER, _WORSE = "#222222", "#8a8a8a", "#1f4e79", "#c0392b"
_LABEL, _TITLE = 34, 88
"""Characters in a line of a label, and of the title."""


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of the plot.

    Attributes:
        group: whose line it is, such as the benchmark; lines of one group stand below its name.
        label: what tells it from others of its group; empty where it is alone.
        value: the difference, in points (hundredths of a perfect score).
        low: lower end of its interval, None without one.
        high: upper end.
        higher_is_better: whether a difference above zero is good news.
        words: what stands at the right margin.
    """

    group: str
    label: str
    value: float
    low: float | None
    high: float | None
    higher_is_better: bool
    words: str


def draw_forest(rows: Sequence[ForestRow], title: str, axis: str, kind: str = "svg") -> bytes:
    """Draw the plot.

    Args:
        rows: from top to bottom, those of a group one after the other.
        title: a line above it, which is wrapped.
        axis: what the horizontal axis shows.
        kind: `svg` or `png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(_lines(rows))
    places = _places([label for label, _ in lines])
    heading = textwrap.fill(title, _TITLE)
    height = 1.5 + 0.3 * (places[-1] + 1) + 0.22 * heading.count("\n")
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color=_QUIET, linewidth=1, linestyle="--", zorder=0)
    for place, (_, row) in zip(places, lines, strict=True):
        if row is None:
            continue
        colour = _colour(row)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row.value, place, "s", color=colour, markersize=6)
        axes.text(1.01, place, row.words, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=_INK)
    labels = axes.set_yticks(places, [label for label, _ in lines])
    for tick, (_, row) in zip(labels, lines, strict=True):
        tick.label1.set_fontweight("bold" if row is None or not row.label else "normal")
        tick.label1.set_fontsize(9)
    axes.set_ylim(places[-1] + 0.8, -0.8)
    axes.set_xlabel(textwrap.fill(axis, _TITLE))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _lines(rows: Sequence[ForestRow]) -> Iterator[tuple[str, ForestRow | None]]:
    """Yield each line's label and row, a group of several below a line of its own."""
    group = None
    for row in rows:
        if row.group != group and row.label:
            yield _wrapped(row.group), None
        group = row.group
        yield _wrapped(row.label or row.group), row


def _places(labels: Sequence[str]) -> list[float]:
    """Return where lines stand from the top, those with several lines of text further apart."""
    places, below = [], 0.0
    for label in labels:
        half = 0.5 + 0.3 * label.count("\n")
        places.append(below + half - 0.5)
        below += 2 * half
    return places


def _wrapped(label: str) -> str:
    """Break a label into lines between words, and behind the underscores and slashes of a task's name."""
    lines = [""]
    for piece in re.findall(r"[^\s_/]*[\s_/]?", label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > _LABEL:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def _colour(row: ForestRow) -> str:
    """Return the colour of a change for the better, for the worse, or of one that may be none."""
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return _QUIET
    return _BETTER if (row.low > 0) == row.higher_is_better else _WORSE
