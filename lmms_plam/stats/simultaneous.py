"""What can be said of the best of many recipes, having looked at all: max-T intervals and p-values.

The interval of each recipe's gain is wide enough that all of them hold together with the stated probability, so that
the one that was picked for being the best is held too (Westfall and Young 1993; Romano and Wolf 2005). Conditional
intervals for winners (Andrews, Kitagawa and McCloskey 2024) were tried and don't hold here: scores are discrete and
neighbouring recipes tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lmms_plam.stats.bootstrap import bootstrap
from lmms_plam.stats.matrix import FloatArray, IntArray
from lmms_plam.stats.pseudo import widened_error
from lmms_plam.stats.significance import max_t
from lmms_plam.stats.spread import spread, standard_errors
from lmms_plam.stats.units import Units


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Intervals of all recipes' gains that hold together.

    Attributes:
        critical: standard errors on either side.
        errors: (n_recipes,) cluster-robust standard errors of the gains, those of few changes with pseudo-observations.
        drawn: (draws, n_recipes) the metric on resampled clusters.
    """

    critical: float
    errors: FloatArray
    drawn: FloatArray


def simultaneous(
    units: Units, reference: int, family: IntArray, draws: int, rng: np.random.Generator, level: float = 0.95
) -> Band:
    """Find how wide intervals must be that hold for a whole family of variants.

    Args:
        units: the sample; in a search, unasked documents have the reference's scores.
        reference: column that all are compared with.
        family: columns of all of them; in a search, of every recipe that could have been picked, those that racing
            dropped among them.
        draws: bootstrap draws of clusters, the same for all variants.
        rng: source of randomness.
        level: probability that all hold.
    """
    contrasts = np.eye(units.credit.shape[1])
    contrasts[reference] -= 1.0
    _, plug_in = standard_errors(units, contrasts)
    errors = np.array([widened_error(units, contrast, spread(units, contrast)) for contrast in contrasts.T])
    drawn = bootstrap(units, draws, rng)
    gaps = drawn[:, family] - drawn[:, [reference]] - (units.estimate() @ contrasts)[family]
    widths = plug_in[family]
    largest = np.abs(np.divide(gaps, widths, out=np.zeros_like(gaps), where=widths > 0)).max(axis=1)
    return Band(max(float(np.quantile(largest, level)), float(ndtri((1 + level) / 2))), errors, drawn)


def any_better(
    units: Units, reference: int | IntArray, family: IntArray, flips: int, rng: np.random.Generator
) -> float | None:
    """Return the p-value of "is any of the family better than its reference?"; None if none has another reference.

    Args:
        units: the sample, of a metric of which higher is better; unasked documents have the reference's scores.
        reference: the column that all are compared with, or (n_variants,) one for each.
        family: the columns that are compared.
        flips: random label assignments of whole clusters.
        rng: source of randomness.
    """
    own = np.arange(units.credit.shape[1])
    references = own.copy()
    references[family] = np.broadcast_to(reference, own.shape)[family]
    if (references == own).all():
        return None
    return float(max_t(units, references, flips, rng, "greater").min())
