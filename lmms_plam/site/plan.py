"""What a study says of its cells, where the folder is one: `plan.json`, and each cell's `manifest.json`.

A folder without them is read alike: they add names, commands and cost.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from lmms_plam.site.records import Read, read

PLAN, MANIFEST, FAILURE, CELLS = "plan.json", "manifest.json", "failure.json", "cells"


class PlannedCell(Read):
    """A cell as `plan.json` lists it."""

    name: str
    model: str = ""
    step: str = ""
    tasks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def is_served(self) -> bool:
        """Whether vLLM answers what a cell before it exports."""
        return self.step == "serve"


class Plan(Read):
    """A study's cells in their order."""

    cells: tuple[PlannedCell, ...]


class Manifest(Read):
    """How a cell ran.

    Attributes:
        command: what was run, as words or as one line.
        seconds: how long it took; None where nobody says.
        code: the exit code; None alike.
        versions: of packages.
    """

    command: tuple[str, ...] | str = ()
    seconds: float | None = None
    code: int | None = None
    versions: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def line(self) -> str:
        """The command as a shell reads it."""
        return self.command if isinstance(self.command, str) else shlex.join(self.command)


class Failure(Read):
    """Why a cell failed."""

    reason: str


def missing_cells(folder: Path, plan: Plan) -> list[str]:
    """Return a sentence for each cell of a study that isn't finished.

    Raises:
        DataError: what says why a cell failed can't be read.
    """
    found = []
    for cell in plan.cells:
        here = folder / CELLS / cell.name
        if (here / FAILURE).is_file():
            found.append(f"the cell {cell.name} failed: {read(here / FAILURE, Failure).reason}")
        elif not (here / MANIFEST).is_file():
            where = f" where {' and '.join(cell.needs)} is installed" if cell.needs else ""
            found.append(f"the cell {cell.name} isn't finished: run the study again{where}")
    return found


def earlier_cells(folder: Path, plan: Plan) -> list[Path]:
    """Return the folders of cells that the plan doesn't name, as an edited study leaves them."""
    named = {cell.name for cell in plan.cells}
    return [cell for cell in sorted((folder / CELLS).glob("*")) if cell.is_dir() and cell.name not in named]


def read_plan(folder: Path) -> Plan | None:
    """Read the study's plan; None where the folder is no study's.

    Raises:
        DataError: it isn't one.
    """
    path = folder / PLAN
    return read(path, Plan) if path.is_file() else None


def read_manifest(folder: Path) -> Manifest | None:
    """Read a cell's manifest; None where there is none.

    Raises:
        DataError: it isn't one.
    """
    path = folder / MANIFEST
    return read(path, Manifest) if path.is_file() else None
