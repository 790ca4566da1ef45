"""The plateau without labels: from which cut on do answers stay those of the full model?

Any pictures and questions will do for it, with targets or without. It is a stricter question than the score's: an
answer may go on changing from wrong to wrong, or back and forth at no net loss, while the score no longer moves. So its
onset comes later than the score's or not at all where answers are unsettled; `benchmarks/agreement_onset.py` measures
by how much.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmms_plam.probes.curve import MaskingCurve, masking_curve
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric


def agreement_curve(matrix: ScoreMatrix, *, draws: int = 2000, seed: int = 0) -> MaskingCurve:
    """Compute the share of documents answered as the full model answers them, at each cut below it, and bootstrap it.

    Estimand: that share, over the population of documents. Resampling unit: the cluster. The full model agrees with
    itself by definition, so it is no point of the curve: how high the curve comes, the last cuts below it say.

    Args:
        matrix: a masking probe's; only its answers are read, which count as equal up to case and white space.
        draws: bootstrap draws.
        seed: of the resampling.

    Raises:
        DataError: as `masking_curve`, with one cut fewer.
    """
    full = max(range(len(matrix.variants)), key=lambda column: int(matrix.variants[column]))
    answers = np.vectorize(lambda answer: " ".join(str(answer).casefold().split()), otypes=[object])(matrix.answers)
    agreeing = replace(matrix, scores=(answers == answers[:, [full]]).astype(float))
    below = [column for column in range(len(matrix.variants)) if column != full]
    return masking_curve(agreeing.take(below), find_metric("mean"), draws=draws, seed=seed)
