"""The documents whose attention is drawn over their picture: what a reader sees of them, as `shown.json` holds it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmms_plam.attention.look import Maps, pack_maps, unpack_maps
from lmms_plam.errors import DataError
from lmms_plam.files import write_text

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = "shown.json"
LONGEST = 672
"""Pixels of a kept picture's longer side, at most."""

Change = Literal["better", "worse", "same"]
CHANGES: dict[Change, str] = {
    "better": "answers that the merge made better",
    "worse": "answers that the merge made worse",
    "same": "answers that score the same",
}


@dataclass(frozen=True, slots=True, eq=False)
class ShownDocument:
    """A document with the attention of two variants.

    Attributes:
        doc_id: the document.
        change: what became of its score.
        question: its text.
        target: what is right.
        image: its first picture, a PIL image.
        answers: by variant.
        maps: by variant, what each vision token gets.
        neutral: by variant, the same when asked about the picture in general; empty where that wasn't asked.
    """

    doc_id: int
    change: Change
    question: str
    target: str
    image: Image
    answers: Mapping[str, str]
    maps: Mapping[str, Maps]
    neutral: Mapping[str, Maps]


def choose(before: Mapping[int, float], after: Mapping[int, float], count: int) -> dict[int, Change]:
    """Choose documents to show: of each kind of change the first ones, by their number.

    Args:
        before: score by document, of those that can be shown.
        after: the same under the merge.
        count: how many of each kind.
    """
    found: dict[Change, list[int]] = {change: [] for change in CHANGES}
    for doc_id in sorted(before):
        gain = after[doc_id] - before[doc_id]
        found["better" if gain > 0 else "worse" if gain < 0 else "same"].append(doc_id)
    return {doc_id: change for change, doc_ids in found.items() for doc_id in doc_ids[:count]}


def write_shown(documents: Sequence[ShownDocument], folder: Path) -> None:
    """Write `shown.json`."""
    told = [
        {
            "doc_id": one.doc_id,
            "change": one.change,
            "question": one.question,
            "target": one.target,
            "image": _encode(one.image),
            "answers": dict(one.answers),
            "maps": {name: pack_maps(maps) for name, maps in one.maps.items()},
            "neutral": {name: pack_maps(maps) for name, maps in one.neutral.items()},
        }
        for one in documents
    ]
    write_text(folder / SHOWN, json.dumps(told) + "\n")


def read_shown(folder: Path) -> list[ShownDocument]:
    """Read `shown.json`.

    Raises:
        DataError: it can't be read, or isn't one.
    """
    path = folder / SHOWN
    try:
        return [_read(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} can't be read as documents to show: {error}") from error


def _read(entry: Mapping[str, Any]) -> ShownDocument:
    from PIL import Image

    return ShownDocument(
        doc_id=int(entry["doc_id"]),
        change=entry["change"],
        question=str(entry["question"]),
        target=str(entry["target"]),
        image=Image.open(io.BytesIO(base64.b64decode(entry["image"]))).convert("RGB"),
        answers=entry["answers"],
        maps={name: unpack_maps(maps) for name, maps in entry["maps"].items()},
        neutral={name: unpack_maps(maps) for name, maps in entry["neutral"].items()},
    )


def _encode(image: Image) -> str:
    smaller = image.convert("RGB")
    smaller.thumbnail((LONGEST, LONGEST))
    octets = io.BytesIO()
    smaller.save(octets, "PNG" if max(image.size) <= LONGEST // 2 else "JPEG", quality=90)
    return base64.b64encode(octets.getvalue()).decode()
