"""Joining what all answers contribute into a score matrix, as far as their clusters are complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from lmms_plam.errors import DataError
from lmms_plam.scoring.record import Record
from lmms_plam.stats.matrix import BoolArray, ScoreMatrix

_MOST_LINES = 4
"""Variants with the same remark that get a line each."""


def score_matrix(
    records: Collection[tuple[int, str, Record]], source: str, stand_in: str | None = None
) -> tuple[ScoreMatrix, BoolArray | None, list[str]]:
    """Join what all answers contribute, as far as their clusters are complete.

    Args:
        records: document id, variant and record of each answer; all records name their cluster.
        source: what an error message calls them.
        stand_in: a variant that every document was asked of, where others weren't.

    Returns:
        The matrix, which of its cells were asked (None: all), and what to say of the incomplete clusters.

    Raises:
        DataError: there is no complete cluster, or the records make no matrix.
    """
    units = {doc_id: (str(record.cluster), record.size) for doc_id, _, record in records}
    complete, notes = _complete_units(units, source)
    told = any(part is not None for _, _, record in records for part in (record.read, record.cut_off, record.length))
    rows = (
        {
            "doc_id": doc_id,
            "variant": variant,
            "answer": record.answer,
            "score": record.score,
            "cluster": record.cluster,
            "stratum": record.stratum,
            **(
                {
                    "read": record.read,
                    "cut_off": record.cut_off,
                    "length": record.length,
                    "divergence": record.divergence,
                }
                if told
                else {}
            ),
            **record.columns,
        }
        for doc_id, variant, record in records
        if doc_id in complete
    )
    if stand_in is None:
        return ScoreMatrix.from_rows(rows, source), None, notes
    return *ScoreMatrix.from_partial_rows(rows, stand_in, source), notes


def _complete_units(units: Mapping[int, tuple[str, int]], source: str) -> tuple[set[int], list[str]]:
    """Return the documents whose cluster is complete, given each one's cluster and its least size; and what is not."""
    size = Counter(cluster for cluster, _ in units.values())
    complete = {doc_id for doc_id, (cluster, least) in units.items() if size[cluster] >= least}
    if not complete:
        raise DataError(
            f"{source}: none of the {len(size)} units, each of which is several documents, is complete; raise --limit"
        )
    left_out = len(size) - len({units[doc_id][0] for doc_id in complete})
    notes = [f"{left_out} incomplete units ({len(units) - len(complete)} documents) left out"] if left_out else []
    return complete, notes


def count_remarks(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each variant and remark, given one pair of them for each answer; one line for many variants."""
    counts: dict[str, Counter[str]] = {}
    for variant, remark in remarks:
        if remark:
            counts.setdefault(remark, Counter())[variant] += 1
    lines = []
    for remark, by_variant in counts.items():
        if len(by_variant) > _MOST_LINES:
            each = ", ".join(f"{variant} {count}" for variant, count in by_variant.items())
            lines.append(f"{each}: so many answers {remark}")
        else:
            lines += [f"{variant}: {count} answers {remark}" for variant, count in by_variant.items()]
    return lines


def same_number(ours: float, theirs: float) -> bool:
    """Whether two numbers agree as far as the harness's rounding: some to 5 decimals, percents to 2."""
    return abs(ours - theirs) <= (6e-6 if abs(ours) <= 1 else 6e-3)
