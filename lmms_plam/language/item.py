"""An item: texts to rank, the first of which is right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmms_plam.errors import DataError


@dataclass(frozen=True, slots=True)
class Item:
    """What is ranked: P(completion | pictures, context) for each completion.

    Attributes:
        name: tells the item from all others of its benchmark.
        part: what the benchmark averages over: paradigm, domain, file and number of operations.
        kind: a coarser or other division, for tables.
        completions: the candidates, the right one first.
        context: the text before them, without the completions' own leading blank.
        cluster: items that depend on each other share it; by default the item is by itself.
        pictures: what is shown, most often nothing; of `datasets`' image feature.
    """

    name: str
    part: str
    kind: str
    completions: tuple[str, ...]
    context: str = ""
    cluster: str = ""
    pictures: tuple[Any, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """Return the item as a row of a dataset."""
        return {
            "question_id": self.name,
            "part": self.part,
            "kind": self.kind,
            "cluster": self.cluster or self.name,
            "context": self.context,
            "completions": list(self.completions),
            **{f"picture_{place}": picture for place, picture in enumerate(self.pictures)},
        }


def check_completions(where: str, completions: Sequence[str], begins: bool = False) -> None:
    """Refuse candidates that can't be ranked. Equal ones are ties, which the sources have and count.

    Args:
        where: names the item.
        completions: the candidates.
        begins: whether a candidate may begin another, which then can never be likelier.

    Raises:
        DataError: fewer than two, an empty one, or one that begins another.
    """
    if len(completions) < 2:
        raise DataError(f"{where}: {len(completions)} candidate is nothing to choose among")
    for completion in completions:
        if not completion.strip():
            raise DataError(f"{where}: the candidate {completion!r} is empty, so that there is nothing to score")
    for first in completions:
        for second in completions:
            if not begins and first != second and second.startswith(first):
                raise DataError(
                    f"{where}: the candidate {first!r} begins the candidate {second!r}, which can never be likelier"
                )


def same(*texts: str) -> str:
    """Return a short name that items with the same texts, in any order, share."""
    return hashlib.sha1("\0".join(sorted(texts)).encode()).hexdigest()[:12]
