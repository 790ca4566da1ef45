"""What a merge changes in attention: each layer's mean under a variant minus that under the reference, paired.

Estimand: the mean over documents of the paired difference. Resampling unit: the cluster. Intervals hold for all layers
at once, p-values are corrected for their number (jackknife.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmms_plam.attention.jackknife import Band, Tested, band, listed, mean_over_documents, number, single
from lmms_plam.attention.record import MEASURES, AttentionRecord, Measure
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class LateChange:
    """The same of each document's mean over the late layers.

    Attributes:
        before: mean under the reference, over the documents that both know.
        after: mean under the variant.
        difference: after - before, with its interval.
    """

    before: float
    after: float
    difference: Tested


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """A measure of attention under a variant and under the reference, layer by layer.

    Attributes:
        variant: what is compared.
        reference: what it is compared with.
        queries: whose attention it is.
        measure: what is compared.
        layers: (n_layers,) decoder layers.
        before: (n_layers,) means under the reference; NaN where no document tells.
        after: (n_layers,) means under the variant, over the same documents.
        difference: after - before.
        late: the same over the late layers.
        left_out: documents that say nothing in some layer, as those without a picture.
    """

    variant: str
    reference: str
    queries: str
    measure: Measure
    layers: IntArray
    before: FloatArray
    after: FloatArray
    difference: Band
    late: LateChange
    left_out: int

    @property
    def grows(self) -> list[int]:
        """The layers in which it grows for sure."""
        return [int(layer) for layer in self.layers[self.difference.above]]

    @property
    def falls(self) -> list[int]:
        """The layers in which it falls for sure."""
        return [int(layer) for layer in self.layers[self.difference.below]]

    def to_dict(self) -> dict[str, Any]:
        """Return what `attention.json` holds of it."""
        late = self.late
        return {
            "variant": self.variant,
            "reference": self.reference,
            "queries": self.queries,
            "measure": self.measure,
            "layers": self.layers.tolist(),
            "before": listed(self.before),
            "after": listed(self.after),
            "difference": self.difference.to_dict(),
            "late": {
                "before": number(late.before),
                "after": number(late.after),
                "difference": late.difference.to_dict(),
            },
            "left_out": self.left_out,
        }


def growth(
    record: AttentionRecord,
    reference: str,
    variant: str,
    queries: str,
    late: Sequence[int],
    *,
    measure: Measure = "mass",
    settings: Settings | None = None,
) -> Growth:
    """Compare a measure of attention under two variants.

    Args:
        record: the attention.
        reference: the variant that is compared with.
        variant: the variant that is compared.
        queries: whose attention.
        late: decoder layers whose mean is compared too; a document counts there if it is known in all of them.
        measure: what is compared.
        settings: level, draws, seed.

    Raises:
        DataError: the record lacks one of these.
    """
    settings = settings or Settings()
    columns, clusters = record.columns(late), record.clusters
    before, after = (record.of(measure, name, queries) for name in (reference, variant))
    both = np.isfinite(before) & np.isfinite(after)
    before, after = (np.where(both, values, np.nan) for values in (before, after))
    late_before, late_after = (values[:, columns].mean(axis=1, keepdims=True) for values in (before, after))
    words = f"paired difference of the {MEASURES[measure]}, mean over late layers"
    return Growth(
        variant=variant,
        reference=reference,
        queries=queries,
        measure=measure,
        layers=record.layers,
        before=mean_over_documents(before, clusters).value,
        after=mean_over_documents(after, clusters).value,
        difference=band(mean_over_documents(after - before, clusters), settings),
        late=LateChange(
            before=float(mean_over_documents(late_before, clusters).value[0]),
            after=float(mean_over_documents(late_after, clusters).value[0]),
            difference=single(mean_over_documents(late_after - late_before, clusters), words, settings),
        ),
        left_out=int((~both).any(axis=1).sum()),
    )
