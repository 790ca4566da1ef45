"""Does any point of the plateau differ from the full model: do late layers lose by seeing the image, or gain again?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_plam.probes.curve import MaskingCurve


@dataclass(frozen=True, slots=True)
class LateContrast:
    """Plateau points against the full model, corrected for their number.

    Estimand: score at a plateau cut minus score with all layers seeing the image, for every cut from the onset to the
    last but one, as paired differences. Resampling unit: the cluster. The p-values are those of the largest |t| over
    the cuts under the centred bootstrap (max-T, Westfall and Young 1993; Romano and Wolf 2005).

    Attributes:
        cut: where |t| is largest.
        difference: there, in score units; positive: better with the image hidden from late layers.
        p_two_sided: any cut differs from full.
        p_decline: some cut is better than full.
        p_review: some cut is worse than full.
    """

    cut: int
    difference: float
    p_two_sided: float
    p_decline: float
    p_review: float


def late_contrast(curve: MaskingCurve, onset: int) -> LateContrast | None:
    """Compare the cuts from the onset on with the last; None if no document's score changes after the onset."""
    after = (curve.cuts >= onset) & (curve.cuts < curve.cuts[-1])
    differences = curve.scores[after] - curve.scores[-1]
    centred = curve.draws[:, after] - curve.draws[:, -1:] - differences
    errors = centred.std(axis=0, ddof=1)
    varies = errors > 1e-12 * curve.perfect
    if not varies.any():
        return None
    t, drawn = differences[varies] / errors[varies], centred[:, varies] / errors[varies]
    strongest = int(np.abs(t).argmax())
    return LateContrast(
        cut=int(curve.cuts[after][varies][strongest]),
        difference=float(differences[varies][strongest]),
        p_two_sided=_share(np.abs(drawn).max(axis=1) >= np.abs(t).max()),
        p_decline=_share(drawn.max(axis=1) >= t.max()),
        p_review=_share((-drawn).max(axis=1) >= (-t).max()),
    )


def _share(at_least: npt.NDArray[np.bool_]) -> float:
    return float((1 + at_least.sum()) / (1 + len(at_least)))
