"""Where a record of attention comes from: what `attention.json` beside it says of task, model and merged layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lmms_plam.attention.record import RECORD
from lmms_plam.attention.shown import SHOWN
from lmms_plam.attention.summary import Scaled
from lmms_plam.errors import DataError, first_problem
from lmms_plam.files import digest

NUMBERS = "attention.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What of a run is needed to read its record again.

    Attributes:
        task: its name.
        about: which model answered and when.
        reference: the variant that the others are compared with; None for the record's first.
        late: the layers that are merged; None for the last third.
        scaled: what the scaled VLM is.
    """

    task: str
    about: str = ""
    reference: str | None = None
    late: tuple[int, ...] | None = None
    scaled: Scaled = field(default_factory=Scaled)


class Fingerprint(BaseModel):
    """SHA-256 of the files that were read, None for one that wasn't there."""

    model_config = ConfigDict(frozen=True)

    data: str | None
    shown: str | None

    @classmethod
    def of(cls, folder: Path) -> Fingerprint:
        """Return that of a folder's files."""
        data, shown = (digest(folder / name) if (folder / name).exists() else None for name in (RECORD, SHOWN))
        return cls(data=data, shown=shown)


class _Numbers(BaseModel):
    """What of an `attention.json` is read again."""

    task: str
    about: str
    reference: str
    late: tuple[int, ...]
    scaled: Scaled = Scaled()
    fingerprint: Fingerprint


def read_origin(folder: Path) -> Origin:
    """Say where a folder's record comes from, by its `attention.json` if there is one, else by the folder's name.

    Raises:
        DataError: `attention.json` is damaged or was read off other files.
    """
    path = folder / NUMBERS
    if not path.exists():
        return Origin(task=folder.resolve().name)
    try:
        told = _Numbers.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        what = first_problem(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{path} doesn't say what a record of attention is of: {what}") from None
    here = Fingerprint.of(folder)
    for name, then, now in (
        (RECORD, told.fingerprint.data, here.data),
        (SHOWN, told.fingerprint.shown, here.shown),
    ):
        if then != now:
            raise DataError(
                f"{path} is of another {name}, whose fingerprint was {str(then)[:12]} and not {str(now)[:12]}: run the"
                f" task again, or delete {NUMBERS} if {name} is right"
            )
    return Origin(told.task, told.about, told.reference, told.late, told.scaled)
