"""The plan of a study: its cells in an order in which each comes after those that it needs, as `plan.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lmms_plam.errors import ConfigError, DataError, did_you_mean
from lmms_plam.files import write_text
from lmms_plam.study.cell import Cell

PLAN, ASKED = "plan.json", "study.yaml"

VERSION = 1
"""Of how a study's folder is laid out."""


@dataclass(frozen=True)
class Plan:
    """All cells of a study, in order.

    Attributes:
        cells: each after those that it needs.
        notes: what of the YAML came to nothing, and why.
    """

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, cells: Sequence[Cell], notes: Sequence[str] = ()) -> Plan:
        """Put cells in order: as they are given, but for those that need later ones.

        Raises:
            ConfigError: a cell needs one that isn't there, or itself by way of others; or two would write one folder.
        """
        by_name = {cell.name: cell for cell in cells}
        if len(by_name) < len(cells):
            names = [cell.name for cell in cells]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two cells would write one folder, {twice}: the same is asked for twice")
        done: dict[str, Cell] = {}
        opened: list[str] = []

        def place(name: str, needed_by: str | None = None) -> None:
            if name not in by_name:
                raise ConfigError(f"{needed_by} needs {name}, which is no cell of this study: a step is missing")
            if name in opened:
                raise ConfigError(f"cells need each other in a circle: {' -> '.join([*opened, name])}")
            if name in done:
                return
            opened.append(name)
            for other in by_name[name].after:
                place(other, name)
            done[opened.pop()] = by_name[name]

        for name in by_name:
            place(name)
        return cls(tuple(done.values()), tuple(notes))

    @cached_property
    def by_name(self) -> dict[str, Cell]:
        """The cells by their names."""
        return {cell.name: cell for cell in self.cells}

    def find(self, name: str) -> Cell:
        """Return a cell by its name.

        Raises:
            ConfigError: there is none.
        """
        if name in self.by_name:
            return self.by_name[name]
        raise ConfigError(
            f"no cell '{name}' in this study.{did_you_mean(name, self.by_name)} --dry-run shows all {len(self.cells)}"
        )

    def write(self, root: Path) -> None:
        """Write `plan.json`."""
        content = {"version": VERSION, "cells": [cell.to_dict() for cell in self.cells], "notes": list(self.notes)}
        write_text(root / PLAN, json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, root: Path) -> Plan | None:
        """Read `plan.json`; None where there is none.

        Raises:
            DataError: it is damaged, or of another version.
        """
        path = root / PLAN
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, cells, notes = content["version"], content["cells"], content.get("notes", [])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no plan of a study ({error}): give another --output, or remove it") from None
        if version != VERSION:
            raise DataError(
                f"{root} is a study's folder of version {version}, and this lmms-plam writes version {VERSION}: give "
                "another --output, or go on with the lmms-plam that began it"
            )
        return cls.of([Cell.from_dict(cell) for cell in cells], notes)
