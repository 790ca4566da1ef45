"""How lmms-eval scores the embedded benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image


def show_nothing(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Return no picture (doc_to_visual of benchmarks whose grids are written out)."""
    return []


def mean_score(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of right answers."""
    return float(sum(record["score"] for record in records)) / len(records)
