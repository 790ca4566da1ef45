"""Does attention fall on the right place? Its share of the attention on the picture against its share of the picture.

Estimand: the mean over documents of the share of the attention on the picture that falls inside the right region,
over the mean share of the picture that the region takes: 1 is what attention spread evenly, or at random, gives. (A
mean of ratios would be ruled by the smallest regions.) Resampling unit: the cluster. What a merge changes in it is
`growth` of the measure `inside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmms_plam.attention.jackknife import Band, Tested, band, listed, mean_over_documents, ratio_of_means, single
from lmms_plam.attention.record import AttentionRecord
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import FloatArray, IntArray

EVEN = 1.0
"""The ratio of attention that knows nothing of the region."""


@dataclass(frozen=True, slots=True, eq=False)
class RightPlace:
    """A variant's attention inside the right region.

    Attributes:
        variant: whose attention.
        queries: of which tokens.
        layers: (n_layers,) decoder layers.
        inside: (n_layers,) mean share of the attention on the picture that falls inside.
        region: mean share of the picture that the region takes, over the documents of `late_inside`.
        ratio: inside over the region's share, by layer.
        late_inside: `inside` of the mean over the late layers.
        late: its ratio.
    """

    variant: str
    queries: str
    layers: IntArray
    inside: FloatArray
    region: float
    ratio: Band
    late_inside: float
    late: Tested

    def to_dict(self) -> dict[str, Any]:
        """Return what `attention.json` holds of it."""
        return {
            "variant": self.variant,
            "queries": self.queries,
            "layers": self.layers.tolist(),
            "inside": listed(self.inside),
            "region": self.region,
            "ratio": self.ratio.to_dict(),
            "late_inside": self.late_inside,
            "late": self.late.to_dict(),
        }


def right_place(
    record: AttentionRecord, variant: str, queries: str, late: Sequence[int], *, settings: Settings | None = None
) -> RightPlace | None:
    """Compare the attention inside the right region with the region's share of the picture.

    Args:
        record: the attention.
        variant: whose attention.
        queries: of which tokens.
        late: decoder layers whose mean is compared too.
        settings: level, draws, seed.

    Returns:
        The comparison; None where no document knows its region and attention in all late layers.

    Raises:
        DataError: the record lacks one of these.
    """
    settings = settings or Settings()
    inside, clusters = record.of("inside", variant, queries), record.clusters
    in_late = inside[:, record.columns(late)].mean(axis=1, keepdims=True)
    region = np.where(record.region > 0, record.region, np.nan)[:, None]
    told = np.isfinite(in_late) & np.isfinite(region)
    if not told.any():
        return None
    words = "attention inside the right region over the region's share of the picture, mean over late layers"
    everywhere = np.broadcast_to(region, inside.shape)
    return RightPlace(
        variant=variant,
        queries=queries,
        layers=record.layers,
        inside=mean_over_documents(np.where(np.isfinite(everywhere), inside, np.nan), clusters).value,
        region=float(region[told].mean()),
        ratio=band(ratio_of_means(inside, everywhere, clusters), settings, EVEN),
        late_inside=float(in_late[told].mean()),
        late=single(ratio_of_means(in_late, region, clusters), words, settings, EVEN),
    )
