"""Do documents whose attention grows become right more often? The claim behind "a merge helps because it looks more".

Each document's change in attention, variant minus reference, against its change in score. Two numbers say how they go
together: the probability that of two documents whose scores change differently the one that gains has the greater
growth (order.py; one half is no relation), and how much more score the half that grew more gained than the other half.
Resampling unit: the cluster.

What can be concluded: if attention were why answers improve, documents that gain would be those whose attention grew.
Where they are not, growth and gain are two effects of one merge. Where they are, growth may still be a sign of what
helped and not its cause: nothing was made to grow alone. Among the base's failures a score can't fall, so that any
change of answers, also a useless one, raises it there (regression to the mean): that failures become right is no
evidence of anything. Neither is how much attention grows among failures against all documents, if attention goes with
being right. What is asked among them is only whether those that become right differ in growth from those that stay
wrong, a comparison within the failures that selection leaves fair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmms_plam.attention.jackknife import Band, Jackknife, Tested, band, mean_over_documents, single
from lmms_plam.attention.order import order_agreement
from lmms_plam.attention.prediction import CHANCE, why_no_order
from lmms_plam.attention.record import AttentionRecord, Measure
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import FloatArray, IntArray

Among = Literal["all", "failures"]


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """How growth of attention and change of score go together.

    Attributes:
        variant: what is compared.
        reference: what it is compared with.
        queries: whose attention it is.
        measure: what grows.
        among: all documents, or those on which the reference scores 0 or less.
        layers: (n_layers,) decoder layers.
        documents: how many have a known growth in the late layers.
        gained: how many of them score higher than under the reference.
        lost: how many score lower.
        by_layer: the probability of agreeing orders by layer, 0.5 where nothing grows; None where nobody can tell.
        order: the same of the mean growth over the late layers.
        halves: mean change in score of the documents whose late growth is above the median (taken as it is) minus that
            of the others; None where nobody can tell, or all grow alike.
        missing: why nobody can tell; empty where it is told.
    """

    variant: str
    reference: str
    queries: str
    measure: Measure
    among: Among
    layers: IntArray
    documents: int
    gained: int
    lost: int
    by_layer: Band | None
    order: Tested | None
    halves: Tested | None
    missing: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `attention.json` holds of it."""
        return {
            "variant": self.variant,
            "reference": self.reference,
            "queries": self.queries,
            "measure": self.measure,
            "among": self.among,
            "layers": self.layers.tolist(),
            "documents": self.documents,
            "gained": self.gained,
            "lost": self.lost,
            "by_layer": self.by_layer.to_dict() if self.by_layer else None,
            "order": self.order.to_dict() if self.order else None,
            "halves": self.halves.to_dict() if self.halves else None,
            "missing": self.missing,
        }


def relation(
    record: AttentionRecord,
    reference: str,
    variant: str,
    queries: str,
    late: Sequence[int],
    *,
    measure: Measure = "mass",
    among: Among = "all",
    settings: Settings | None = None,
) -> Relation:
    """Ask whether documents whose attention grows gain score.

    Args:
        record: the attention.
        reference: the variant that is compared with.
        variant: the variant that is compared.
        queries: whose attention.
        late: decoder layers whose mean growth counts; a document counts if it is known in all of them.
        measure: what grows.
        among: all documents, or the reference's failures.
        settings: level, draws, seed.

    Raises:
        DataError: the record lacks one of these.
    """
    settings = settings or Settings()
    columns = record.columns(late)
    asked = record.scores(reference) <= 0 if among == "failures" else np.ones(len(record.doc_ids), dtype=np.bool_)
    growth = (record.of(measure, variant, queries) - record.of(measure, reference, queries))[asked]
    change = (record.scores(variant) - record.scores(reference))[asked]
    cluster = np.unique(record.clusters[asked], return_inverse=True)[1]
    in_late = growth[:, columns].mean(axis=1, keepdims=True)
    known = np.isfinite(in_late[:, 0])
    missing = (
        why_no_order(in_late[:, 0], change, cluster, "change in score")
        if asked.any()
        else f"'{reference}' gets no document wrong"
    )
    by_layer = order = halves = None
    if not missing:
        by_layer = band(order_agreement(growth, change, cluster), settings, CHANCE, odds=True)
        words = "probability that of two documents the one that gains more score has the greater growth in late layers"
        order = single(order_agreement(in_late, change, cluster), words, settings, CHANCE, odds=True)
        halves = _halves(in_late[known, 0], change[known], cluster[known], settings)
    return Relation(
        variant=variant,
        reference=reference,
        queries=queries,
        measure=measure,
        among=among,
        layers=record.layers,
        documents=int(known.sum()),
        gained=int((change[known] > 0).sum()),
        lost=int((change[known] < 0).sum()),
        by_layer=by_layer,
        order=order,
        halves=halves,
        missing=missing,
    )


def _halves(growth: FloatArray, change: FloatArray, cluster: IntArray, settings: Settings) -> Tested | None:
    more = growth > np.median(growth)
    if not more.any():
        return None
    split = np.stack([np.where(more, change, np.nan), np.where(more, np.nan, change)], axis=1)
    both = mean_over_documents(split, np.unique(cluster, return_inverse=True)[1])
    left_out = np.where(np.isnan(both.left_out), both.value, both.left_out)  # every cluster has a say in one half
    apart = Jackknife(
        both.value[:1] - both.value[1:], left_out[:, :1] - left_out[:, 1:], both.documents.sum(keepdims=True)
    )
    words = "mean change in score of the documents whose attention grows more than the median's minus that of the rest"
    return single(apart, words, settings)
