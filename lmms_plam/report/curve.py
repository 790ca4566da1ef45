"""The masking curve as a picture that explains itself: score over cut, band, onset, its interval and the verdict."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from lmms_plam.files import replacing
from lmms_plam.probes.plateau import Plateau, Stage
from lmms_plam.probes.record import Probe

_CURVE, _ONSET, _QUIET, _AGREEMENT, _RECIPE = "#1f4e79", "#c0392b", "#5f5f5f", "#2a7f62", "#c77700"
_INTERVAL = "#f2cfca"
_STAGES = {
    "separation": ("#eceff4", "separation:\nthe image is not used yet"),
    "alignment": ("#dcead9", "alignment:\nthe image is being read"),
    "degradation": ("#f6e9dc", "plateau: these layers\nno longer need the image"),
}
_LEAST_SPAN = 0.25  # of the scores' axis, as a share of the best possible score
_ROOM_FOR_WORDS = 0.17  # share of the axis that a stage's name takes


PICTURES = ("curve.png", "curve.svg")


def draw_curve(probe: Probe, folder: Path) -> None:
    """Draw a probe's curve as `curve.png` and `curve.svg`.

    Args:
        probe: what `analyse` returned.
        folder: where the files go; made if missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    _draw_scores(upper, probe)
    if probe.plateau.onset is None:
        lower.text(0.5, 0.5, "no plateau, so no onset to place", transform=lower.transAxes, ha="center", color=_QUIET)
        lower.set_yticks([])
    else:
        _draw_probability(lower, probe)
    _name_cuts(lower, int(probe.curve.cuts[-1]))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    headline, small_print = _words(probe)
    headline = textwrap.fill(f"{probe.origin.task}: {headline}", 85)
    figure.suptitle(headline, x=0.01, ha="left", fontsize=13, fontweight="bold")
    upper.set_title(textwrap.fill(small_print, 120), loc="left", fontsize=9, color=_QUIET)

    for name in PICTURES:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150)


def _words(probe: Probe) -> tuple[str, str]:
    plateau, curve = probe.plateau, probe.curve
    headline = "no plateau" if plateau.onset is None else f"plateau from layer {plateau.onset} on ({_interval(probe)})"
    if plateau.verdict.startswith("late"):
        headline += f", {plateau.verdict}"
    reason = plateau.reason[0].upper() + plateau.reason[1:]
    questions = f"{curve.n_documents:,} questions"
    if probe.origin.without_image:
        questions += f", {probe.origin.without_image:,} of them without an image"
    if probe.origin.queries == "last":
        questions += "; hidden from the prompt's last token and the answer only"
    elif probe.origin.queries.startswith("authors"):
        questions += f"; not hidden but cut out as in the authors' code ({probe.origin.queries})"
    who = "".join(f"{word}, " for word in (probe.origin.name, probe.origin.date) if word)
    return headline, f"{reason}. {_without_labels(probe)}{who}{questions}; {len(curve.draws):,} bootstrap draws."


def _without_labels(probe: Probe) -> str:
    found = probe.agreement
    if found is None:
        return ""
    if found.onset is None:
        return "Without labels: no plateau, answers change up to the last cuts. "
    low, high = found.estimate.interval
    return (
        f"Without labels: from layer {found.onset} on ({low} to {high}) answers agree with the full model's as often "
        "as they ever do. "
    )


def _interval(probe: Probe) -> str:
    low, high = probe.plateau.estimate.interval
    return f"{probe.plateau.level:.0%} interval: " + (f"layers {low} to {high}" if high > low else f"layer {low}")


def _draw_scores(axes: Any, probe: Probe) -> None:
    plateau, perfect = probe.plateau, probe.curve.perfect
    in_percent = perfect in (1, 100)
    unit = 100 / perfect if in_percent else 1
    cuts = np.array([point.cut for point in plateau.points])
    full = unit * plateau.full
    score, low, high, fit = (
        unit * np.array([getattr(point, name) for point in plateau.points])
        for name in ("score", "difference_low", "difference_high", "fit")
    )
    axes.plot(cuts, score, "o", color=_CURVE, markersize=4.5, label="measured score")
    axes.plot(cuts, fit, color=_CURVE, linewidth=2, label="curve that never falls, fitted")
    band = f"{plateau.level:.0%} band of the paired difference to the full model"
    axes.fill_between(cuts, full + low, full + high, color=_CURVE, alpha=0.18, linewidth=0, label=band)
    axes.axhline(full, color=_QUIET, linewidth=1, linestyle="--", label=f"image seen by all layers: {full:.1f}")
    axes.set_ylabel("score, % of the best possible" if in_percent else "score")
    if probe.origin.chance is not None:
        chance = unit * probe.origin.chance
        axes.axhline(chance, color=_QUIET, linewidth=1, linestyle=":", label=f"chance: {chance:.1f}")
    if probe.agreement is not None and in_percent:
        _draw_agreement(axes, probe.agreement)
    if probe.origin.recipe is not None:
        words = f"the recipe merges from layer {probe.origin.recipe} on"
        axes.axvline(probe.origin.recipe, color=_RECIPE, linewidth=1.4, linestyle="--", label=words)
    if plateau.onset is not None:
        axes.axvline(plateau.onset, color=_ONSET, linewidth=1.8, label=f"plateau onset k* = {plateau.onset}")
        low_cut, high_cut = plateau.estimate.interval
        axes.axvspan(low_cut - 0.15, high_cut + 0.15, color=_INTERVAL, linewidth=0, zorder=0.5, label=_interval(probe))
    for stage in plateau.stages:
        _shade(axes, stage, int(cuts[-1]))
    bottom, top = axes.get_ylim()
    widen = max(0.0, _LEAST_SPAN * unit * perfect - (top - bottom))  # so that noise on a flat curve looks small
    bottom, top = bottom - 0.6 * widen, top + 0.4 * widen
    axes.set_ylim(bottom, top + 0.16 * (top - bottom))  # room for the stages' names
    if in_percent:
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 100])
    axes.spines[["top", "right"]].set_visible(False)


def _draw_agreement(axes: Any, found: Plateau) -> None:
    cuts, share = zip(*((point.cut, 100 * point.score) for point in found.points), strict=True)
    onset = "none" if found.onset is None else str(found.onset)
    words = f"without labels: % answered as by the full model (onset: {onset})"
    axes.plot(cuts, share, "-", color=_AGREEMENT, linewidth=1.2, label=words)
    if found.onset is not None:
        axes.plot(found.onset, share[cuts.index(found.onset)], "D", color=_AGREEMENT, markersize=6)


def _shade(axes: Any, stage: Stage, depth: int) -> None:
    colour, words = _STAGES[stage.name]
    axes.axvspan(stage.first, stage.end, color=colour, linewidth=0, zorder=0)
    if stage.end - stage.first < _ROOM_FOR_WORDS * depth:
        axes.patches[-1].set_label(words.replace("\n", " "))
        return
    axes.text(
        (stage.first + stage.end) / 2,
        0.985,
        words,
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=8,
        color=_QUIET,
    )


def _draw_probability(axes: Any, probe: Probe) -> None:
    shares = probe.plateau.estimate.probability
    axes.bar(list(shares), list(shares.values()), color=_ONSET, alpha=0.75, width=0.8)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axes.set_ylabel("probability\nof the onset", fontsize=8.5)


def _name_cuts(axes: Any, depth: int) -> None:
    axes.set_xlim(-0.5, depth + 0.5)
    axes.set_xlabel(
        f"cut k: decoder layers k, k+1, ... can't see the image  (k = 0: none sees it, k = {depth}: all {depth} see it)"
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
