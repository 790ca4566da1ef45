"""How scores, intervals and p-values are written, in all tables alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_plam.stats.comparison import Estimate


def decimals(perfect: float) -> int:
    """Return with how many decimals a score is shown, given that of a perfect run."""
    return 4 if perfect <= 1 else 2 if perfect <= 100 else 1


def interval_text(estimate: Estimate, unit: int) -> str:
    """Return a difference's interval with so many decimals, `none` where none exists."""
    low, high = estimate.ci_low, estimate.ci_high
    return "none" if low is None or high is None else f"{low:+.{unit}f} to {high:+.{unit}f}"


def p_text(value: float | None) -> str:
    """Return a p-value in four decimals, empty for none."""
    return "" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"
