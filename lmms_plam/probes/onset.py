"""Rules that read the plateau onset k* off a masking curve, for one curve or for thousands of draws of it.

The default is the tolerance rule on the isotonic fit; the 3-segment fit and Kneedle are its cross-checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lmms_plam.errors import ConfigError, did_you_mean
from lmms_plam.probes.isotonic import isotonic_fit
from lmms_plam.stats.matrix import FloatArray, IntArray

IndexArray = npt.NDArray[np.intp]
Method = Literal["isotonic", "segments", "kneedle"]
METHODS: tuple[Method, ...] = get_args(Method)
TOP_POINTS = 4
"""How many of the last cuts say, unless a rule says otherwise, how high the curve comes."""

ROUNDING = 1e-12
"""Within which scores, and sums of probabilities, count as equal."""


@dataclass(frozen=True, slots=True)
class OnsetRule:
    """How the plateau onset k*, one of the cuts that were measured, is read off a curve.

    Attributes:
        method: `isotonic`: k* is the first cut where the isotonic fit is within the tolerance of its top, the mean of
            its last points. `segments`: the end of the ramp in the least-squares fit flat, ramp, flat. `kneedle`: the
            cut where the curve, both axes scaled to [0, 1], lies highest above the diagonal (Satopaa et al. 2011,
            without smoothing). Only `isotonic` uses the tolerances.
        tolerance: least tolerance, in points: hundredths of the score of a perfect run.
        share: least tolerance as a share of the rise, which is the top minus the fit at cut 0. The larger one counts.
        top_points: how many of the last points make the top.
    """

    method: Method = "isotonic"
    tolerance: float = 1.0
    share: float = 0.05
    top_points: int = TOP_POINTS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            hint = did_you_mean(self.method, METHODS)
            raise ConfigError(f"no onset rule '{self.method}'.{hint} Known: {', '.join(METHODS)}")
        if not 0 <= self.tolerance < np.inf or not 0 <= self.share < 1 or self.top_points < 1:
            raise ConfigError(
                "an onset rule needs tolerance >= 0, 0 <= share < 1 and top_points >= 1, not "
                f"tolerance={self.tolerance}, share={self.share}, top_points={self.top_points}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What the tolerance rule compares, one value for each curve.

    Attributes:
        fit: (..., n_cuts) isotonic fit.
        top: (...,) mean of the fit's last points.
        tolerance: (...,) distance, in score units, within which two levels count as equal.
    """

    fit: FloatArray
    top: FloatArray
    tolerance: FloatArray

    @classmethod
    def of(cls, curves: FloatArray, rule: OnsetRule, perfect: float) -> Levels:
        """Fit the curves and measure their tops.

        Args:
            curves: (..., n_cuts) curves.
            rule: tolerance, share and top_points are used.
            perfect: score of a perfect run, which is 100 points.
        """
        fit = isotonic_fit(curves)
        top = fit[..., -rule.top_points :].mean(axis=-1)
        tolerance = np.maximum(rule.tolerance * perfect / 100, rule.share * (top - fit[..., 0]))
        return cls(fit, top, tolerance)

    def onset(self) -> IndexArray:
        """First cut whose fit is within the tolerance of the top."""
        reached = self.fit >= (self.top - self.tolerance - ROUNDING)[..., None]
        return np.asarray(reached.argmax(axis=-1))


def onset_index(curves: FloatArray, cuts: IntArray, rule: OnsetRule, perfect: float = 1.0) -> IndexArray:
    """Return, for each curve, the index of the plateau onset among the cuts.

    Args:
        curves: (..., n_cuts) scores by cut.
        cuts: (n_cuts,) increasing.
        rule: how the onset is read.
        perfect: score of a perfect run, which is 100 points.
    """
    if rule.method == "segments":
        return _end_of_ramp(curves, cuts)
    if rule.method == "kneedle":
        return _knee(curves, cuts)
    return Levels.of(curves, rule, perfect).onset()


def takeoff_index(curves: FloatArray, cuts: IntArray, rule: OnsetRule, perfect: float = 1.0) -> IndexArray:
    """Return, for each curve, the index of the last cut before the rise: the same rule on the curve turned around."""
    turned = onset_index(-curves[..., ::-1], cuts[-1] - cuts[::-1], rule, perfect)
    return len(cuts) - 1 - turned


def _end_of_ramp(curves: FloatArray, cuts: IntArray) -> IndexArray:
    """Fit flat, ramp, flat with knots at every pair of cuts; the best pair explains the largest sum of squares."""
    starts, ends = np.triu_indices(len(cuts), k=1)
    ramps = np.clip((cuts - cuts[starts, None]) / (cuts[ends] - cuts[starts])[:, None], 0, 1)
    ramps = ramps - ramps.mean(axis=1, keepdims=True)
    ramps /= np.linalg.norm(ramps, axis=1, keepdims=True)
    explained = curves @ ramps.T  # the square root of it, with the sign of the slope: a falling ramp is no rise
    return np.asarray(ends[explained.argmax(axis=-1)])


def _knee(curves: FloatArray, cuts: IntArray) -> IndexArray:
    low, high = curves.min(axis=-1, keepdims=True), curves.max(axis=-1, keepdims=True)
    heights = (curves - low) / np.maximum(high - low, ROUNDING)
    return np.asarray((heights - (cuts - cuts[0]) / (cuts[-1] - cuts[0])).argmax(axis=-1))
