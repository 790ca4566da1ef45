"""A paired difference in each of a benchmark's strata: MMStar's categories, MME's subtasks, MMMU's subjects.

Exploratory: so many looks find something in noise. P-values are adjusted for them by Benjamini and Hochberg (1995), and
intervals aren't, so that one in twenty leaves out the truth. A stratum of one cluster has neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lmms_plam.stats.multiplicity import adjust_known, benjamini_hochberg

if TYPE_CHECKING:
    from lmms_plam.stats.comparison import Analysis, Comparison


@dataclass(frozen=True, slots=True)
class StratumResult:
    """The difference in one stratum.

    Attributes:
        stratum: its name.
        comparison: the paired difference in the benchmark's metric of this stratum's documents alone.
        bh_p: its p-value, adjusted for all strata of this difference; None where it has none.
    """

    stratum: str
    comparison: Comparison
    bh_p: float | None


def by_stratum(analysis: Analysis, reference: str, variant: str) -> tuple[StratumResult, ...]:
    """Return the difference in each stratum, in the order of their names; nothing where there is only one stratum.

    Args:
        analysis: of the whole benchmark.
        reference: the variant that is compared with.
        variant: the other one.

    Raises:
        DataError: there is no such variant.
    """
    matrix = analysis.matrix
    names = np.unique(matrix.strata)
    if len(names) == 1:
        return ()
    pair = matrix.take([matrix.column(reference), matrix.column(variant)])
    found = [
        StratumResult(str(name), analysis.of_same(pair.select(pair.strata == name)).compare(reference, variant), None)
        for name in names
    ]
    adjusted = adjust_known(benjamini_hochberg, [one.comparison.p_value for one in found])
    return tuple(replace(one, bh_p=p_value) for one, p_value in zip(found, adjusted, strict=True))
