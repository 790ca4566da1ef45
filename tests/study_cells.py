"""Cells that the stand-in for lmms-eval runs."""

from __future__ import annotations

import sys
from pathlib import Path

from lmms_plam.study.cell import STUDY, Cell
from lmms_plam.study.plan import Plan

FAKE = (sys.executable, str(Path(__file__).with_name("fake_harness.py")))
"""What stands before `lmms_eval`."""


def cell(name: str, *after: str, task: str = "quick", **more) -> Cell:
    """Return a cell that takes no time."""
    arguments = ("--tasks", task, "--output_path", f"{STUDY}/cells/{name}")
    return Cell(name, "model", "probe", (task,), "lmms_eval", arguments, after, **more)


def plan(*cells: Cell) -> Plan:
    """Return a plan of cells."""
    return Plan.of(cells)


def runs(root: Path, name: str) -> int:
    """Return how often a cell's command was run."""
    path = root / "cells" / name / "runs.txt"
    return len(path.read_text().split()) if path.exists() else 0
