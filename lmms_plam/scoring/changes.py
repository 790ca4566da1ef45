"""Documents on which a variant scores otherwise than the base: all of them counted, some of them shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lmms_plam.scoring.examples import Example, evenly_spaced
from lmms_plam.stats.matrix import ScoreMatrix

_EACH_WAY = 8


@dataclass(frozen=True, slots=True)
class Change:
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
    def way(self) -> str:
        """Whether the variant scores `higher` or `lower`."""
        return "higher" if self.scores[1] > self.scores[0] else "lower"


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of a task.

    Attributes:
        task: the task's name.
        base: the variant that others are compared with.
        all: variant by variant, in the order of the documents.
        shown: at most eight of each variant and way, spread evenly over the documents.
        examples: what a reader sees of the documents shown, by id.
    """

    task: str
    base: str
    all: tuple[Change, ...]
    shown: tuple[Change, ...]
    examples: Mapping[int, Example]

    @classmethod
    def of(
        cls, task: str, matrix: ScoreMatrix, base: str, examples: Callable[[list[int]], Iterable[Example]]
    ) -> Changes:
        """Find them.

        Args:
            task: the task's name.
            matrix: its scores.
            base: the variant to compare with.
            examples: returns what a reader sees of documents.
        """
        found = _find(matrix, base)
        kinds: dict[tuple[str, str], list[Change]] = {}
        for change in found:
            kinds.setdefault((change.variant, change.way), []).append(change)
        shown = tuple(change for kind in kinds.values() for change in evenly_spaced(kind, _EACH_WAY))
        doc_ids = list(dict.fromkeys(change.doc_id for change in shown))
        return cls(task, base, tuple(found), shown, {example.doc_id: example for example in examples(doc_ids)})

    def counts(self) -> list[str]:
        """Return a line for each variant that changes documents: on how many it scores higher, and lower."""
        lines = []
        for variant in dict.fromkeys(change.variant for change in self.all):
            ways = [change.way for change in self.all if change.variant == variant]
            higher, lower = ways.count("higher"), ways.count("lower")
            noun = "document" if higher == 1 else "documents"
            lines.append(f"{variant} scores higher on {higher:,} {noun} and lower on {lower:,}")
        return lines


def _find(matrix: ScoreMatrix, base: str) -> list[Change]:
    reference = matrix.column(base)
    changes = []
    for variant in matrix.variants:
        column = matrix.column(variant)
        for row in np.flatnonzero(matrix.scores[:, column] != matrix.scores[:, reference]):
            (answer, other), (score, changed) = (
                cells[row, [reference, column]].tolist() for cells in (matrix.answers, matrix.scores)
            )
            changes.append(Change(int(matrix.doc_ids[row]), variant, (answer, other), (score, changed)))
    return changes
