"""P-values of several hypotheses at once: Holm for a declared family, Benjamini and Hochberg for a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lmms_plam.stats.matrix import FloatArray


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Adjust p-values so that the chance of any false rejection is at most the level (Holm 1979).

    Args:
        p_values: (n,) of the declared family.

    Returns:
        (n,) adjusted p-values in the same order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p_values: npt.ArrayLike) -> FloatArray:
    """Adjust p-values so that the expected share of false rejections among all is at most the level (1995).

    Args:
        p_values: (n,) of the sweep; independent or positively dependent, as neighbouring layers are.

    Returns:
        (n,) adjusted p-values in the same order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[::-1]
    steps = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(steps), 1.0)
    return adjusted


def adjust_known(method: Callable[[list[float]], FloatArray], p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of a family some of whose members have none; these stay None and count for nothing."""
    adjusted = iter(method([p for p in p_values if p is not None]))
    return [None if p is None else float(next(adjusted)) for p in p_values]
