"""The plateau of a masking curve: its onset with interval, whether there is one at all, and the stages around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lmms_plam.errors import ConfigError
from lmms_plam.probes.curve import MaskingCurve, rise_of
from lmms_plam.probes.estimate import CutEstimate
from lmms_plam.probes.isotonic import isotonic_fit
from lmms_plam.probes.late import LateContrast, late_contrast
from lmms_plam.probes.onset import METHODS, IndexArray, Levels, OnsetRule, onset_index, takeoff_index
from lmms_plam.stats.matrix import FloatArray, IntArray

Verdict = Literal["plateau", "no plateau", "late decline", "late review"]
_MAX_SHARE_AT_EDGE = 0.1
_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One cut.

    Attributes:
        cut: k.
        score: there.
        low: of the score's bootstrap band (pointwise percentiles at the plateau's level).
        high: its other end.
        fit: the isotonic fit.
        difference_low: of the same band of the paired difference to the last cut, the full model.
        difference_high: its other end.
    """

    cut: int
    score: float
    low: float
    high: float
    fit: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Decoder layers first..end-1 of one of the paper's stages: separation, alignment or degradation."""

    name: str
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Plateau:
    """Where a masking curve stops rising, and how sure that is.

    Estimand: the cut that the rule gives on the population's curve, measured at the same cuts. Resampling unit: the
    cluster. With the onset k*, layers k*, k*+1, ... no longer gain (more than the tolerance) from seeing the image.

    Attributes:
        verdict: `no plateau`: the score doesn't rise with the cut, or still rises at the end. `late decline`,
            `late review`: there is an onset, but some later cut scores better or worse than the full model.
        reason: the verdict in one sentence.
        onset: k* on the sample; None without a plateau.
        estimate: k* with median, interval and probability by cut, whatever the verdict.
        tolerance: of the isotonic rule on the sample, in score units.
        rise: mean score of the last cuts minus score at cut 0.
        rise_error: its standard error.
        full: score with all layers seeing the image.
        level: nominal coverage of the interval and of the curve's band.
        rule: how the onset was read.
        cross_checks: what the other methods say.
        late: the plateau's points against the full model, where they vary.
        takeoff: last cut that is not better than none, by the mirrored rule.
        stages: those that the curve supports; none without a plateau.
        points: the curve.
    """

    verdict: Verdict
    reason: str
    onset: int | None
    estimate: CutEstimate
    tolerance: float
    rise: float
    rise_error: float
    full: float
    level: float
    rule: OnsetRule
    cross_checks: dict[str, CutEstimate]
    late: LateContrast | None
    takeoff: CutEstimate
    stages: tuple[Stage, ...]
    points: tuple[CurvePoint, ...]


def find_plateau(curve: MaskingCurve, rule: OnsetRule | None = None, level: float = 0.9) -> Plateau:
    """Read onset, interval, cross-checks, verdict and stages off a bootstrapped masking curve.

    There is no plateau if the rise is at most twice its standard error, or if more than a tenth of the draws put the
    onset among the last points that define the top, after the first of them: then the top itself still rises.

    Args:
        curve: from `masking_curve` or `pool_curves`.
        rule: by default the tolerance rule on the isotonic fit.
        level: nominal coverage of intervals and band.

    Raises:
        ConfigError: the level is none, or the rule's top takes the whole curve.
    """
    rule = rule or OnsetRule()
    if not 0.5 <= level < 1:
        raise ConfigError(f"level is a coverage between 0.5 and 1, not {level}")
    if rule.top_points >= len(curve.cuts):
        raise ConfigError(f"a top of {rule.top_points} points leaves no rise in a curve of {len(curve.cuts)}")
    estimate = _estimate(onset_index, curve, rule, level)
    takeoff = _estimate(takeoff_index, curve, rule, level)
    rise, rise_error = rise_of(curve, rule.top_points)
    late = late_contrast(curve, estimate.value)
    tolerance = float(Levels.of(curve.scores, rule, curve.perfect).tolerance)
    verdict, reason = _judge(curve, rule, estimate, rise, rise_error, late, tolerance)
    return Plateau(
        verdict=verdict,
        reason=reason,
        onset=None if verdict == "no plateau" else estimate.value,
        estimate=estimate,
        tolerance=tolerance,
        rise=rise,
        rise_error=rise_error,
        full=float(curve.scores[-1]),
        level=level,
        rule=rule,
        cross_checks={
            method: _estimate(onset_index, curve, replace(rule, method=method), level)
            for method in METHODS
            if method != rule.method
        },
        late=late,
        takeoff=takeoff,
        stages=() if verdict == "no plateau" else _stages(takeoff, estimate, curve.cuts, rule),
        points=_points(curve, level),
    )


def _estimate(
    read: Callable[[FloatArray, IntArray, OnsetRule, float], IndexArray],
    curve: MaskingCurve,
    rule: OnsetRule,
    level: float,
) -> CutEstimate:
    on_sample, drawn = (read(scores, curve.cuts, rule, curve.perfect) for scores in (curve.scores, curve.draws))
    return CutEstimate.of(int(on_sample), drawn, curve.cuts, level)


def _judge(
    curve: MaskingCurve,
    rule: OnsetRule,
    estimate: CutEstimate,
    rise: float,
    rise_error: float,
    late: LateContrast | None,
    tolerance: float,
) -> tuple[Verdict, str]:
    points = 100 / curve.perfect
    if rise <= 2 * rise_error:
        return "no plateau", (
            f"seeing the image is worth {rise * points:+.1f} points with a standard error of {rise_error * points:.1f}:"
            " the curve shows no rise beyond noise"
        )
    end = int(curve.cuts[-_edge(rule)])
    at_end = sum(share for cut, share in estimate.probability.items() if cut >= end)
    if at_end > _MAX_SHARE_AT_EDGE:
        return "no plateau", (
            f"the curve may rise to its end: {at_end:.0%} of the draws put the onset at cut {end} or later"
        )
    found = f"the {rule.method} rule finds a plateau"
    if rule.method == "isotonic":
        found = (
            f"with the image hidden from layer {estimate.value} on,"
            f" the score stays within {tolerance * points:.1f} points of its top"
        )
    earlier = curve.cuts[curve.cuts < estimate.value]
    unasked = range(int(earlier[-1]) + 1, estimate.value) if len(earlier) else ()
    if len(unasked) == 1:
        found += f" (cut {unasked[0]} was not asked)"
    elif unasked:
        found += f" (cuts {unasked[0]} to {unasked[-1]} were not asked)"
    if late is None or late.p_two_sided > _ALPHA:
        return "plateau", found
    worth, p = abs(late.difference) * points, f"p={late.p_two_sided:.2g}"
    if late.difference > 0:
        return "late decline", f"{found}, but cut {late.cut} scores {worth:.1f} points more than the full model ({p})"
    return "late review", f"{found}, but cut {late.cut} scores {worth:.1f} points less than the full model ({p})"


def _stages(takeoff: CutEstimate, onset: CutEstimate, cuts: IntArray, rule: OnsetRule) -> tuple[Stage, ...]:
    """Separation counts where the takeoff is as surely after the first points as the onset is before the last."""
    at_start = sum(share for cut, share in takeoff.probability.items() if cut <= cuts[_edge(rule) - 1])
    separated = takeoff.value if at_start <= _MAX_SHARE_AT_EDGE else 0
    borders = (
        ("separation", 0, separated),
        ("alignment", separated, onset.value),
        ("degradation", onset.value, int(cuts[-1])),
    )
    return tuple(Stage(name, first, end) for name, first, end in borders if first < end)


def _edge(rule: OnsetRule) -> int:
    """Return how many of the last points an onset can't be told from: those of the top but its first, at least 2."""
    return max(2, rule.top_points - 1)


def _points(curve: MaskingCurve, level: float) -> tuple[CurvePoint, ...]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(curve.draws, tails, axis=0)
    paired = np.quantile(curve.draws - curve.draws[:, -1:], tails, axis=0)
    columns = (curve.cuts, curve.scores, low, high, isotonic_fit(curve.scores), *paired)
    return tuple(
        CurvePoint(int(cut), *(float(value) for value in values)) for cut, *values in zip(*columns, strict=True)
    )
