"""A cut that was estimated: its value on the sample and what the bootstrap says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_plam.probes.onset import ROUNDING
from lmms_plam.stats.matrix import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class CutEstimate:
    """A cut read off a curve, with its bootstrap distribution.

    Attributes:
        value: on the sample.
        median: over the draws.
        interval: first and last cut of the mid-p percentile interval.
        probability: share of the draws by cut, without the cuts that no draw gave.
    """

    value: int
    median: int
    interval: tuple[int, int]
    probability: dict[int, float]

    @classmethod
    def of(cls, index: int, drawn: npt.NDArray[np.intp], cuts: IntArray, level: float = 0.9) -> CutEstimate:
        """Summarise an index into the cuts and its draws."""
        shares = np.bincount(drawn, minlength=len(cuts)) / len(drawn)
        low, high = mid_p_interval(shares, level)
        return cls(
            value=int(cuts[index]),
            median=int(cuts[np.searchsorted(np.cumsum(shares), 0.5 - ROUNDING)]),
            interval=(int(cuts[low]), int(cuts[high])),
            probability={int(cut): float(share) for cut, share in zip(cuts, shares, strict=True) if share > 0},
        )


def mid_p_interval(shares: FloatArray, level: float) -> tuple[int, int]:
    """Return the first and last index that neither tail of a discrete distribution excludes.

    A tail is `P(X < k) + P(X = k) / 2` or its mirror image, and excludes k where it is below (1 - level) / 2. Plain
    percentiles of a whole number cover too often, since they count all of P(X = k); halves bring the average coverage
    to the level (Lancaster 1961; `benchmarks/plateau_calibration.py` compares).

    Args:
        shares: (n,) probabilities that sum to 1.
        level: nominal coverage, at least 0.5.
    """
    below = np.cumsum(shares) - shares / 2
    tail = (1 - level) / 2
    inside = np.flatnonzero((below >= tail - ROUNDING) & (below <= 1 - tail + ROUNDING))
    return int(inside[0]), int(inside[-1])
