"""Where a study stands: what each cell's folder says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lmms_plam.study.cell import Cell
from lmms_plam.study.claim import PATIENCE, holder
from lmms_plam.study.plan import Plan

MANIFEST, FAILURE, LOG = "manifest.json", "failure.json", "log.txt"

State = Literal["finished", "running", "failed", "skipped", "left", "ready", "waiting"]
"""`skipped`: it needs a failed cell; `left`: it needs a package that isn't here, or a cell that does; `waiting`: it
needs a cell that is yet to be finished."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A cell's state and why.

    Attributes:
        state: see State.
        why: who runs it, what it failed of, which cell it waits for, what it needs; empty where nothing is to be said.
        seconds: that it took, of a finished one.
    """

    state: State
    why: str = ""
    seconds: float | None = None


def look(root: Path, plan: Plan, patience: float = PATIENCE) -> dict[str, Standing]:
    """Return where each cell stands, by name."""
    found: dict[str, Standing] = {}
    for cell in plan.cells:
        found[cell.name] = _look(root / cell.folder, cell, found, patience)
    return found


def is_settled(folder: Path) -> bool:
    """Whether a cell has been run to its end, well or not."""
    return (folder / MANIFEST).exists() or (folder / FAILURE).exists()


def clear_failures(root: Path, cells: Iterable[Cell]) -> None:
    """Forget what failed, so that it is tried again."""
    for cell in cells:
        (root / cell.folder / FAILURE).unlink(missing_ok=True)


def _look(folder: Path, cell: Cell, found: dict[str, Standing], patience: float) -> Standing:
    told = _read(folder / MANIFEST)
    if told is not None:
        return Standing("finished", seconds=told.get("seconds"))
    if (who := holder(folder, patience)) is not None:
        return Standing("running", str(who))
    if (failed := _read(folder / FAILURE)) is not None:
        return Standing("failed", str(failed.get("reason", "")))
    for state in ("failed", "skipped"):
        if broken := [name for name in cell.after if found[name].state == state]:
            return Standing("skipped", f"needs {broken[0]}")
    if absent := [name for name in cell.needs if find_spec(name) is None]:
        return Standing("left", f"needs {absent[0]}, which isn't installed here")
    if unfinished := [name for name in cell.after if found[name].state != "finished"]:
        left = [name for name in unfinished if found[name].state == "left"]
        return Standing("left" if left else "waiting", f"needs {(left or unfinished)[0]}")
    return Standing("ready")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return told
    except (OSError, ValueError):
        return None
