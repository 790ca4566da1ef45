"""The start-layer sweep of a recipe search as a picture: gains over start layers, and the probe's onset."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from lmms_plam.files import replacing
from lmms_plam.report.heatmap import provenance
from lmms_plam.search.result import TUNED_HERE, Search

SWEEP = ("sweep.png", "sweep.svg")

_HONEST, _TUNED, _ONSET, _QUIET, _PICK = "#1f4e79", "#8a8a8a", "#c0392b", "#5f5f5f", "#c77700"
_APART = 0.09


def draw_sweep(search: Search, folder: Path) -> None:
    """Draw the gain of each start layer as `sweep.png` and `sweep.svg`.

    Args:
        search: what was found, at two start layers or more.
        folder: where the files go; made if missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(0, color=_QUIET, linewidth=1, linestyle="--", label="the untouched VLM")
    _draw_onset(axes, search)
    _draw_tuned(axes, search)
    _draw_unseen(axes, search)
    layers = [layer.start_layer for layer in search.layers]
    axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
    axes.set_xticks(layers)
    axes.set_xlabel("start layer k0: decoder layers from it on are merged")
    axes.set_ylabel("gain in points (hundredths of a perfect score)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8.5, frameon=False)
    figure.suptitle(f"{search.record.task}: from which layer on?", x=0.01, ha="left", fontsize=13, fontweight="bold")
    small = f"Intervals of {search.settings.level:.0%}. {provenance(search)}."
    axes.set_title(textwrap.fill(small, 120), loc="left", fontsize=9, color=_QUIET)
    for name in SWEEP:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150)


def _draw_onset(axes: Any, search: Search) -> None:
    probe = search.record.probe
    if probe is None or probe.onset is None:
        return
    low, high = probe.interval
    layers = [layer.start_layer for layer in search.layers]
    beyond = "" if min(layers) - 0.6 <= probe.onset <= max(layers) + 0.6 else ", outside of this picture"
    words = f"the probe's plateau onset k* = {probe.onset} (interval {low} to {high}){beyond}"
    axes.axvspan(low - 0.15, high + 0.15, color=_ONSET, alpha=0.12, linewidth=0)
    axes.axvline(probe.onset, color=_ONSET, linewidth=1.8, label=words)


def _draw_unseen(axes: Any, search: Search) -> None:
    points = search.points
    label = "coefficients chosen on other documents than those scored"
    for layer in search.layers:
        unseen, x = layer.unseen, layer.start_layer - _APART
        if unseen.ci_low is not None and unseen.ci_high is not None:
            axes.plot([x, x], [unseen.ci_low * points, unseen.ci_high * points], color=_HONEST, linewidth=2.2)
        axes.plot(x, unseen.gain * points, "o", color=_HONEST, markersize=6.5, label=label)
        label = ""


def _draw_tuned(axes: Any, search: Search) -> None:
    points = search.points
    lm, vlm = search.in_sample.recipe.coefficients
    label = f"the pick's {lm:g} LM + {vlm:g} VLM, {TUNED_HERE};\nintervals that hold for all recipes at once"
    for layer in search.layers:
        if layer.name is None:
            continue
        one, x = search.measured(layer.name), layer.start_layer + _APART
        if one.gain is None:
            continue
        if one.ci_low is not None and one.ci_high is not None:
            axes.plot([x, x], [one.ci_low * points, one.ci_high * points], color=_TUNED, linewidth=1.4)
        axes.plot(x, one.gain * points, "s", color=_TUNED, markersize=5.5, label=label)
        label = ""
        if layer.name == search.pick:
            ring = {"markerfacecolor": "none", "markeredgecolor": _PICK, "markeredgewidth": 2.2}
            axes.plot(x, one.gain * points, "s", markersize=11, label="the pick", **ring)
