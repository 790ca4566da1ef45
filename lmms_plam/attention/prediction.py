"""Does attention predict being right? Of two documents of which one scores higher, has it more attention?

Estimand: the probability of that over pairs of documents whose scores differ, the area under the ROC curve where scores
are right or wrong (order.py). Resampling unit: the cluster; intervals in log odds, by layer holding for all layers at
once. It compares documents with each other: easy ones may be looked at more, or less, whatever looking does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmms_plam.attention.jackknife import Band, Tested, band, single
from lmms_plam.attention.order import order_agreement
from lmms_plam.attention.record import AttentionRecord, Measure
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import FloatArray, IntArray

FEWEST = 10
"""With fewer clusters whose scores are unlike the commonest one no order is told: intervals would cover too little."""

CHANCE = 0.5
"""The probability of agreeing orders if attention tells nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """How well attention orders a variant's documents by score.

    Attributes:
        variant: whose attention and score.
        queries: whose attention it is.
        measure: what orders.
        layers: (n_layers,) decoder layers.
        by_layer: the probability by layer; None where nobody can tell.
        late: of each document's mean over the late layers; None where nobody can tell.
        graded: whether scores are more than right or wrong.
        missing: why nobody can tell; empty where it is told.
    """

    variant: str
    queries: str
    measure: Measure
    layers: IntArray
    by_layer: Band | None
    late: Tested | None
    graded: bool
    missing: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `attention.json` holds of it."""
        return {
            "variant": self.variant,
            "queries": self.queries,
            "measure": self.measure,
            "layers": self.layers.tolist(),
            "by_layer": self.by_layer.to_dict() if self.by_layer else None,
            "late": self.late.to_dict() if self.late else None,
            "graded": self.graded,
            "missing": self.missing,
        }


def prediction(
    record: AttentionRecord,
    variant: str,
    queries: str,
    late: Sequence[int],
    *,
    measure: Measure = "mass",
    settings: Settings | None = None,
) -> Prediction:
    """Ask whether documents that a variant scores higher on have more attention.

    Args:
        record: the attention.
        variant: whose attention and score.
        queries: whose attention.
        late: decoder layers whose mean is asked too; a document counts there if it is known in all of them.
        measure: what may predict.
        settings: level, draws, seed.

    Raises:
        DataError: the record lacks one of these.
    """
    settings = settings or Settings()
    attention, score = record.of(measure, variant, queries), record.scores(variant)
    in_late = attention[:, record.columns(late)].mean(axis=1, keepdims=True)
    missing = why_no_order(in_late[:, 0], score, record.clusters, "score")
    by_layer = of_late = None
    if not missing:
        by_layer = band(order_agreement(attention, score, record.clusters), settings, CHANCE, odds=True)
        words = "probability that of two documents the one that scores higher has more attention in late layers"
        of_late = single(order_agreement(in_late, score, record.clusters), words, settings, CHANCE, odds=True)
    graded = not np.isin(score, (0, 1)).all()
    return Prediction(variant, queries, measure, record.layers, by_layer, of_late, graded, missing)


def why_no_order(attention: FloatArray, score: FloatArray, cluster: IntArray, what: str) -> str:
    """Say why nobody can tell whether attention and score go together; empty if one can.

    Args:
        attention: (n_docs,), NaN where it isn't known.
        score: (n_docs,).
        cluster: (n_docs,) codes.
        what: what `score` is called.
    """
    known = np.isfinite(attention)
    if not known.any():
        return "no document tells its attention"
    levels, place, count = np.unique(score[known], return_inverse=True, return_counts=True)
    if len(levels) == 1:
        return f"all {int(count[0])} documents have the same {what}, {levels[0]:g}"
    common = place == count.argmax()
    fewer = min(len(np.unique(cluster[known][side])) for side in (common, ~common))
    if fewer < FEWEST:
        return (
            f"only {fewer} of {len(np.unique(cluster[known]))} clusters have another {what} than the rest: too few to"
            " tell"
        )
    return ""
