"""Upstream's MathVista, which can't be imported without the package Levenshtein and a judge's key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest


def edits(one: str, other: str) -> int:
    """Return Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for place, left in enumerate(one, 1):
        above, row[0] = row[0], place
        for column, right in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (left != right))
    return row[-1]


@contextmanager
def upstream_mathvista() -> Iterator[ModuleType]:
    """Import lmms-eval's module with a stand-in for the package and a key that nobody is shown."""
    package = ModuleType("Levenshtein")
    package.distance = edits  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "Levenshtein", package)
        patch.setenv("OPENAI_API_KEY", "none")
        from lmms_eval.tasks.mathvista import utils

        yield utils
