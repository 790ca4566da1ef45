"""What a comparison's `matrix.parquet` doesn't say of itself: `record.json` beside it, which makes it comparable again.

{"task": "plam_compare_mmstar", "of": "mmstar", "model": "qwen2_5_vl_7b", "reference": "base", "measures": [...], ...}
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import DataError, first_problem
from lmms_plam.files import write_text
from lmms_plam.scoring.record import Benchmark, Measure, Sample

RECORD = "record.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SavedMeasure(_Frozen):
    """A `Measure`, and whether a higher value is better."""

    key: str
    metric: str
    group: str = ""
    higher_is_better: bool = True


class ComparisonRecord(_Frozen):
    """How a comparison's matrix is measured, and what was asked.

    Attributes:
        task: the comparison's name.
        of: the task that it asked.
        model: name of the model config.
        fingerprint: of what answered (weights, files, backend, versions).
        date: when, as YYYY-MM-DD.
        reference: the variant that others are compared with.
        recipes: what each variant is, in words.
        vlm: the model that is merged; empty where an earlier version wrote the record.
        merges: the recipes themselves, by variant; none where an earlier version wrote the record.
        measures: what is measured, the headline first.
        part_columns: columns of the matrix whose every value is measured by itself.
        perfect_answer: the best value of a document.
        data: SHA-256 of the matrix.
        notes: what a reader must know of the scores.
        asked: by document id, a digest of question and target.
    """

    task: str
    of: str
    model: str
    fingerprint: str
    date: str
    reference: str
    recipes: dict[str, str] = {}
    vlm: str = ""
    merges: dict[str, MergeRecipe] = {}
    measures: tuple[SavedMeasure, ...]
    part_columns: tuple[str, ...] = ()
    perfect_answer: float = 1.0
    data: str
    notes: tuple[str, ...] = ()
    asked: dict[int, str]

    @property
    def benchmark(self) -> Benchmark:
        """How the matrix is measured."""
        return Benchmark(
            _unread,
            tuple(Measure(one.key, one.metric, one.group) for one in self.measures),
            perfect_answer=self.perfect_answer,
            part_columns=self.part_columns,
        )

    def points_up(self, key: str) -> bool:
        """Whether a higher value of a measure is better; a part is measured as the headline is."""
        headline, *_ = (one for one in self.measures if not one.group)
        return next((one for one in self.measures if one.key == key), headline).higher_is_better

    def write(self, folder: Path) -> None:
        """Write `record.json`."""
        write_text(folder / RECORD, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ComparisonRecord:
        """Read a folder's `record.json`.

        Raises:
            DataError: it can't be read, or isn't one.
        """
        path = folder / RECORD
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} can't be read: {error}") from error
        except ValidationError as error:
            raise DataError(f"{path} is no comparison's record: {first_problem(error)}") from error


def digest_question(question: str, target: str) -> str:
    """Return 12 hexadecimal digits that two documents share where they ask the same."""
    return hashlib.sha256(f"{question}\0{target}".encode()).hexdigest()[:12]


def _unread(_: Sample) -> NoReturn:
    raise AssertionError("a saved matrix has been read")
