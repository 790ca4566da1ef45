"""Documents worth a look: those that the image decides, and those on which a variant's score parts from the base's."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lmms_plam.stats.matrix import ScoreMatrix

_THUMBNAIL = (160, 160)
_PICTURE = (800, 800)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Example:
    """What is shown of a document beside its answers; the image is a PIL image, or None."""

    doc_id: int
    question: str
    image: Any = None


@dataclass(frozen=True, slots=True)
class Flip:
    """A document on which a variant scores otherwise than the base.

    Attributes:
        doc_id: the harness's document id.
        variant: the variant's name.
        answers: the base's and the variant's.
        scores: the base's and the variant's.
    """

    doc_id: int
    variant: str
    answers: tuple[str, str]
    scores: tuple[float, float]

    @property
    def change(self) -> str:
        """Whether the variant scores `higher` or `lower`."""
        return "higher" if self.scores[1] > self.scores[0] else "lower"


def telling_documents(matrix: ScoreMatrix, count: int = 16) -> list[int]:
    """Return the ids of documents that the image decides: wrong when hidden everywhere, right when seen by all layers.

    They are spread evenly over the cut from which on the answer stays right.
    """
    scores = matrix.scores[:, np.argsort([int(name) for name in matrix.variants])]
    decided = np.flatnonzero(scores[:, 0] < scores[:, -1])
    stays = (scores[decided, ::-1] == scores[decided, -1:]).cumprod(axis=1).sum(axis=1)  # cuts at the end that agree
    order = decided[np.argsort(-stays, kind="stable")]
    return [int(matrix.doc_ids[row]) for row in _spread(order.tolist(), count)]


def find_flips(matrix: ScoreMatrix, base: str) -> list[Flip]:
    """Return all flips, variant by variant, in the order of the documents."""
    reference = matrix.column(base)
    flips = []
    for variant in matrix.variants:
        column = matrix.column(variant)
        for row in np.flatnonzero(matrix.scores[:, column] != matrix.scores[:, reference]):
            (answer, other), (score, changed) = (
                cells[row, [reference, column]].tolist() for cells in (matrix.answers, matrix.scores)
            )
            flips.append(Flip(int(matrix.doc_ids[row]), variant, (answer, other), (score, changed)))
    return flips


def choose_flips(flips: Sequence[Flip], count: int = 8) -> list[Flip]:
    """Return at most so many flips of each variant and direction, spread evenly over the documents."""
    kinds: dict[tuple[str, str], list[Flip]] = {}
    for flip in flips:
        kinds.setdefault((flip.variant, flip.change), []).append(flip)
    return [flip for kind in kinds.values() for flip in _spread(kind, count)]


def count_flips(flips: Sequence[Flip]) -> list[str]:
    """Return a line for each variant that flips documents: on how many it scores higher, and lower."""
    lines = []
    for variant in dict.fromkeys(flip.variant for flip in flips):
        changes = [flip.change for flip in flips if flip.variant == variant]
        higher, lower = (changes.count(change) for change in ("higher", "lower"))
        noun = "document" if higher == 1 else "documents"
        lines.append(f"{variant} scores higher on {higher:,} {noun} and lower on {lower:,}")
    return lines


def flips_to_html(flips: Sequence[Flip], examples: Mapping[int, Example]) -> str:
    """Return counts and a table of chosen flips, pictures inline."""
    rows, chosen = [], choose_flips(flips)
    for flip in chosen:
        example = examples[flip.doc_id]
        cells = [str(flip.doc_id), flip.variant, flip.change, _thumbnail(example.image), html.escape(example.question)]
        answers = zip(flip.answers, flip.scores, strict=True)
        cells += [f"{html.escape(answer)} <small>({score:g})</small>" for answer, score in answers]
        rows.append("<tr>" + "".join(f'<td class="text">{cell}</td>' for cell in cells) + "</tr>")
    names = ("document", "variant", "scores", "image", "question", "base (score)", "variant (score)")
    head = "".join(f'<th class="label">{name}</th>' for name in names)
    lines = count_flips(flips) or ["none"]
    if len(chosen) < len(flips):
        lines.append(f"{len(chosen)} of these {len(flips):,} changes are shown, evenly spread")
    counts = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else ""
    return f"<h2>Documents that change</h2><ul>{counts}</ul>{table}"


def picture(image: Any, size: tuple[int, int] = _PICTURE) -> Any:
    """Return a PIL image as RGB, made smaller where it is larger than `size`."""
    small = image.convert("RGB")
    small.thumbnail(size)
    return small


def _thumbnail(image: Any) -> str:
    if image is None:
        return ""
    file = io.BytesIO()
    picture(image, _THUMBNAIL).save(file, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return `count` items, or all if there are fewer, evenly spaced."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
