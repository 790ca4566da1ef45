"""A cell: one command, in a folder of its own, named by the content of what it does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lmms_plam.errors import DataError

CELLS = "cells"
"""The folder of a study that holds a folder for each cell."""

STUDY = "{study}"
"""Stands for the study's folder in a cell's arguments, which are the same wherever that lies."""

START = "{start}"
"""Stands for `merge.start_layer=PATH,` in a cell's arguments, or for nothing where the probe found no plateau."""

Program = Literal["lmms_eval", "plam"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One command of a study.

    Attributes:
        name: of its folder: what it is in a few words, and a digest of all that its results depend on.
        model: what the model is called in its folder, OUTPUT/plam/MODEL.
        step: what it is a step of.
        tasks: of lmms-eval.
        program: `lmms_eval`, or `plam` for an export.
        arguments: of that program, with STUDY and START in them.
        after: names of the cells that come before.
        plateau: a file of one of these, below the study's folder, whose onset is the start layer where it found one.
        needs: packages that have to be there, beyond this one's own.
        cost: about how many ordinary runs of its tasks it costs; 0 without any.
        disk: about how many bytes it writes.
    """

    name: str
    model: str
    step: str
    tasks: tuple[str, ...]
    program: Program
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    plateau: str | None = None
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    disk: int = 0

    @property
    def keeps_answers(self) -> bool:
        """Whether a run that is stopped goes on with the answers that it has; vLLM's begins again."""
        return self.step not in ("export", "serve")

    @property
    def folder(self) -> str:
        """Its folder below the study's."""
        return f"{CELLS}/{self.name}"

    def file(self, task: str, name: str) -> str:
        """Return where one of its family tasks leaves a file, below the study's folder."""
        return f"{self.folder}/plam/{self.model}/{task}/{name}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Cell:
        """Return what `to_dict` gave.

        Raises:
            DataError: it is no cell.
        """
        known = {one.name for one in fields(cls)}
        try:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
            }
            return cls(**{name: value for name, value in values.items() if name in known})
        except (AttributeError, TypeError) as error:
            raise DataError(f"this is no cell of a study ({error})") from None


def name_cell(words: Sequence[str], content: Any) -> str:
    """Return a name: words that say what it is, and eight digits of a digest of what it does.

    Args:
        words: of which those are joined that make a folder's name.
        content: all that its results depend on, as JSON can hold it.
    """
    text = json.dumps(content, sort_keys=True)
    said = re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip(".")
    return f"{said[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def command(cell: Cell, root: Path, launch: Sequence[str]) -> list[str]:
    """Return what is run for a cell, once those before it are finished.

    Args:
        cell: which one.
        root: the study's folder.
        launch: what stands before `lmms_eval`, such as `python -m`.
    """
    place = str(root.resolve())
    start = f"merge.start_layer={place}/{cell.plateau}," if cell.plateau and has_plateau(root / cell.plateau) else ""
    arguments = [text.replace(START, start).replace(STUDY, place) for text in cell.arguments]
    if cell.program == "plam":
        return ["plam", *arguments]
    return [*launch, "lmms_eval", *arguments]


def has_plateau(path: Path) -> bool:
    """Whether a probe found a layer to merge from; taken for granted where it isn't there yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["onset"] is not None and found["onset"] < found["depth"]
    except FileNotFoundError:
        return True
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is no plateau.json of a probe ({error}): run its cell again") from None
