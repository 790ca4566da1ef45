"""Documents as a reader sees them: question and image; and those that the image decides.

`examples.json` beside a comparison's matrix keeps those that its page shows, their images made small.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.files import write_text
from lmms_plam.stats.matrix import ScoreMatrix

EXAMPLES = "examples.json"

_KEPT = (320, 320)

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


def write_examples(examples: Iterable[Example], folder: Path) -> None:
    """Write `examples.json`, images as JPEG of 320 pixels at most."""
    told = [
        {"doc_id": one.doc_id, "question": one.question, "target": one.target, "image": _encode(one.image)}
        for one in examples
    ]
    write_text(folder / EXAMPLES, json.dumps(told) + "\n")


def read_examples(folder: Path) -> dict[int, Example]:
    """Read `examples.json` by document id; nothing where there is none, as earlier versions left none.

    Raises:
        DataError: it isn't one.
    """
    path = folder / EXAMPLES
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Example(int(one["doc_id"]), str(one["question"]), str(one["target"]), _decode(one["image"])) for one in told
        ]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{path} can't be read as documents to show: {error}") from error
    return {one.doc_id: one for one in found}


def _encode(image: Any) -> str | None:
    if image is None:
        return None
    smaller = image.convert("RGB")
    smaller.thumbnail(_KEPT)
    octets = io.BytesIO()
    smaller.save(octets, "JPEG", quality=85)
    return base64.b64encode(octets.getvalue()).decode()


def _decode(image: str | None) -> Any:
    from PIL import Image

    return None if image is None else Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
