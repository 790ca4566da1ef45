"""Documents as a reader sees them: question and image; and those that the image decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lmms_plam.stats.matrix import ScoreMatrix

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Example:
    """What is shown of a document beside its answers; the image is a PIL image, or None."""

    doc_id: int
    question: str
    target: str = ""
    image: Any = None


def telling_documents(matrix: ScoreMatrix, count: int = 16) -> list[int]:
    """Return the ids of documents that the image decides: wrong when hidden everywhere, right when seen by all layers.

    They are spread evenly over the cut from which on the answer stays right.
    """
    scores = matrix.scores[:, np.argsort([int(name) for name in matrix.variants])]
    decided = np.flatnonzero(scores[:, 0] < scores[:, -1])
    stays = (scores[decided, ::-1] == scores[decided, -1:]).cumprod(axis=1).sum(axis=1)  # cuts at the end that agree
    order = decided[np.argsort(-stays, kind="stable")]
    return [int(matrix.doc_ids[row]) for row in evenly_spaced(order.tolist(), count)]


def evenly_spaced(items: Sequence[_T], count: int) -> list[_T]:
    """Return `count` items, or all if there are fewer, evenly spaced."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
