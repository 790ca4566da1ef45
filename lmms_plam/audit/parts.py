"""A difference split by how both answers to a document were read: the parts sum to it, each with its own interval.

Documents fall into kinds by their pair of answers. The reference's answers are exchanged for the variant's kind by
kind, in the order of KINDS, and a part is what the exchange of its kind changes in the metric. So the parts sum to the
difference for every metric. Where a document counts by itself (accuracies, macro averages) the order makes no
difference; where documents count together (pairs, circular groups, F1) a part is what its kind adds to those before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from lmms_plam.errors import DataError
from lmms_plam.stats.comparison import Analysis, Estimate, Settings
from lmms_plam.stats.matrix import Formats, IntArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric

KINDS: dict[str, str] = {
    "bare": "both a bare letter or word, read as meant",
    "meant": "both read as meant, one or both with more words",
    "fallback": "one or both read by a fallback",
    "one_read": "only one could be read",
    "neither_read": "neither could be read",
    "cut_off": "one or both cut off",
    "unknown": "not known how they were read",
}
"""What a pair of answers can be, in words. Where one is cut off it counts there, however it was read."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one kind of documents contributes to a difference.

    Attributes:
        kind: one of KINDS.
        documents: how many are of this kind.
        gained: on how many of them the variant scores higher.
        lost: on how many it scores lower.
        difference: the contribution, in the metric's unit; resampled are all clusters, whatever their kind.
        p_value: two-sided sign-flip mid-p that the contribution is none; None with one cluster.
        count_p: exact two-sided sign test of gained against lost documents, whatever they weigh in the metric; None
            where documents depend on each other.
    """

    kind: str
    documents: int
    gained: int
    lost: int
    difference: Estimate
    p_value: float | None
    count_p: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """How one variant's answers were given and read.

    Attributes:
        variant: its name.
        meant: share of its answers read as meant, of those of which that is known; None where it is of none.
        fallback: share read by a fallback.
        unread: share not read.
        cut_off: share cut off by the limit on new tokens, surely or likely, of those of which that is known.
        sure: whether answers that count as cut off surely are.
        limit: the length, in tokens, at which answers were surely cut off; None where none was.
        length: mean length, in tokens where they were counted; None where nobody counted.
    """

    variant: str
    meant: float | None
    fallback: float | None
    unread: float | None
    cut_off: float | None
    sure: bool
    limit: int | None
    length: float | None


@dataclass(frozen=True, slots=True)
class Audit:
    """A difference, split.

    Attributes:
        total: variant minus reference; the parts' differences sum to it.
        parts: of the kinds that occur, in the order of KINDS.
        sides: the reference and the variant.
        missing: why it can't be said how answers were read; empty where it can.
    """

    total: float
    parts: tuple[Part, ...]
    sides: tuple[Side, Side]
    missing: str = ""

    def part(self, kind: str) -> Part | None:
        """Return the part of a kind; None where no document is of it."""
        return next((part for part in self.parts if part.kind == kind), None)


def audit(
    matrix: ScoreMatrix, metric: Metric, reference: str, variant: str, settings: Settings | None = None
) -> Audit | None:
    """Split the difference between two variants.

    Args:
        matrix: their scores, and how their answers were given and read.
        metric: the estimand.
        reference: the variant that is compared with.
        variant: the variant that is compared.
        settings: level, draws, seed.

    Returns:
        The audit; None where the matrix says nothing of how answers were given or read.

    Raises:
        DataError: there is no such variant, or the metric can't be had of these documents.
    """
    a, b = matrix.column(reference), matrix.column(variant)
    if matrix.formats is None:
        return None
    pair = matrix.take([a, b])
    kinds = kinds_of(pair)
    present = [kind for place, kind in enumerate(KINDS) if (kinds == place).any()]
    steps = [f"step {place}" for place in range(len(present) + 1)]
    analysis = Analysis.of(_exchanged(pair, kinds, present, steps), metric, settings)
    alone = len(set(pair.clusters.tolist())) == len(pair.doc_ids)
    parts = []
    for kind, before, after in zip(present, steps, steps[1:], strict=False):
        own = kinds == list(KINDS).index(kind)
        found = analysis.compare(before, after)
        higher = pair.scores[own, 1] - pair.scores[own, 0]
        gained, lost = int((higher > 0).sum()), int((higher < 0).sum())
        parts.append(
            Part(
                kind=kind,
                documents=int(own.sum()),
                gained=gained,
                lost=lost,
                difference=found.difference,
                p_value=found.p_value,
                count_p=_sign_test(gained, lost) if alone else None,
            )
        )
    value = analysis.units.estimate()
    sides = side(matrix, reference), side(matrix, variant)
    read = _formats(pair).read != ""
    missing = "" if read.any() else "nobody says which answers its scoring can read"
    return Audit(float(value[-1] - value[0]), tuple(parts), sides, missing)


def kinds_of(pair: ScoreMatrix) -> IntArray:
    """Return the place in KINDS of each document's pair of answers, (n_docs,).

    Args:
        pair: two variants, of whose answers it is known how they were given and read.
    """
    formats = _formats(pair)
    bare = np.array([all(len(re.findall(r"\w+", answer)) == 1 for answer in row) for row in pair.answers])
    unread = (formats.read == "not").sum(axis=1)
    found = {
        "cut_off": formats.is_cut_off().any(axis=1),
        "unknown": (formats.read == "").any(axis=1),
        "neither_read": unread == 2,
        "one_read": unread == 1,
        "fallback": (formats.read == "fallback").any(axis=1),
        "bare": bare,
    }
    places = [list(KINDS).index(kind) for kind in found]
    return np.select(list(found.values()), places, default=list(KINDS).index("meant")).astype(np.int64)


def side(matrix: ScoreMatrix, variant: str) -> Side:
    """Return how a variant's answers were given and read.

    Raises:
        DataError: there is no such variant, or the matrix doesn't say.
    """
    one = _formats(matrix).at(slice(None), [matrix.column(variant)])
    read, told = one.read[:, 0], one.cut_off[:, 0]
    known = read != ""

    def share(how: str) -> float | None:
        return float((read[known] == how).mean()) if known.any() else None

    sure = told == "yes"
    limits = one.length[sure, 0]
    return Side(
        variant,
        share("meant"),
        share("fallback"),
        share("not"),
        cut_off=one.share_cut_off()[0],
        sure=not (told == "likely").any(),
        limit=int(np.nanmax(limits)) if np.isfinite(limits).any() else None,
        length=one.mean_length()[0],
    )


def _sign_test(gained: int, lost: int) -> float:
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _formats(matrix: ScoreMatrix) -> Formats:
    if matrix.formats is None:
        raise DataError("the matrix doesn't say how answers were given and read")
    return matrix.formats


def _exchanged(pair: ScoreMatrix, kinds: IntArray, present: list[str], steps: list[str]) -> ScoreMatrix:
    """Return the reference, and it with the variant's answers in the first kind, the first two kinds, and so on."""
    place = {kind: number for number, kind in enumerate(KINDS)}
    taken = np.stack([np.isin(kinds, [place[kind] for kind in present[:count]]) for count in range(len(steps))], axis=1)
    return replace(
        pair,
        variants=tuple(steps),
        scores=np.where(taken, pair.scores[:, 1:], pair.scores[:, :1]),
        answers=np.where(taken, pair.answers[:, 1:], pair.answers[:, :1]),
        formats=None,
    )
