"""What the page reads of each record that a run leaves, whoever wrote it: checked for its types, the rest unread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lmms_plam.errors import DataError, first_problem
from lmms_plam.report.measured import Measured

_T = TypeVar("_T")


class Read(BaseModel):
    """Keys that aren't named may hold anything."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Point(Read):
    """Of `curve.json`: the score at a cut, with its band."""

    cut: int
    score: float
    low: float
    high: float


class Plateau(Read):
    """Of `plateau.json`, and the points of `curve.json` beside it where it is there."""

    task: str
    model: str | None = None
    date: str | None = None
    verdict: str
    reason: str
    onset: int | None
    interval: tuple[int, int]
    level: float
    depth: int
    full: float
    perfect: float
    queries: str = "all"
    n_documents: int
    points: tuple[Point, ...] = ()


class Difference(Measured):
    """Of `comparison.json`: one metric of one variant of one task against the reference, the headline metric first."""

    clusters: int
    perfect: float | None = None
    holm_p: float | None = None
    estimand: str = ""


class Part(Read):
    """Documents whose answers were read alike, and what they add to a difference."""

    part: str
    difference: float
    documents: int
    gained: int
    lost: int


class Side(Read):
    """How a variant's answers were read: shares of them."""

    variant: str
    cut_off: float | None = None


class Audited(Read):
    """Of `audit.json`: the format audit of one metric of one variant."""

    task: str
    metric: str
    reference: str
    variant: str
    difference: float | None
    parts: tuple[Part, ...]
    sides: tuple[Side, ...] = ()
    missing: str | None = None
    warnings: tuple[str, ...] = ()


class UnseenGain(Read):
    """A gain on documents that its choice didn't see."""

    gain: float
    ci_low: float | None
    ci_high: float | None


class Pick(Read):
    """The recipe that a search picked."""

    name: str
    fields: dict[str, Any]


class TransferCell(Read):
    """What the pick of one search gains on another's benchmark."""

    tuned_on: str
    scored_on: str
    gain: float | None
    ci_low: float | None
    ci_high: float | None
    how: str


class SearchSettings(Read):
    """How a search was judged."""

    level: float


class Asked(Read):
    """A recipe that a search asked, on the documents that chose one."""

    name: str
    kind: str
    fields: dict[str, Any]
    score: float | None
    gain: float | None
    ci_low: float | None
    ci_high: float | None
    documents: int


class StartLayer(Read):
    """A search's gain from one start layer on, its coefficients chosen on other documents."""

    start_layer: int
    unseen: UnseenGain


class Found(Read):
    """Of `search.json`."""

    task: str
    metric: str
    config: str | None = None
    date: str = ""
    perfect: float
    base: float
    n_documents: int
    pick: Pick
    unseen: UnseenGain | None
    near_best: tuple[str, ...]
    borders: tuple[str, ...]
    any_better_p: float | None
    better_than_scaled_p: float | None
    transfer: tuple[TransferCell, ...] = ()
    recipes: tuple[Asked, ...]
    start_layers: tuple[StartLayer, ...] = ()
    settings: SearchSettings
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """Factor that turns the metric into hundredths of a perfect score."""
        return 100 / self.perfect


class Headline(Read):
    """What a variant changes in the late layers' attention on the picture, in shares."""

    untouched: float | None
    merged: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None


class Change(Read):
    """A measure's change by layer, with its band."""

    value: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class Grown(Read):
    """A measure by layer, before and after."""

    variant: str
    queries: str
    measure: str
    layers: tuple[int, ...]
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    difference: Change

    def rows(self) -> list[dict[str, float | None]]:
        """Return a flat record for each layer."""
        names = ("before", "after", "difference", "low", "high")
        change = self.difference
        columns = zip(self.before, self.after, change.value, change.low, change.high, strict=True)
        return [dict(zip(names, values, strict=True)) for values in columns]


class Attention(Read):
    """Of `attention.json`."""

    task: str
    about: str = ""
    reference: str
    variants: tuple[str, ...]
    late: tuple[int, ...]
    n_documents: int
    level: float
    headline: dict[str, Headline]
    findings: tuple[str, ...] = ()
    growth: tuple[Grown, ...] = ()

    def telling_layer(self, variant: str) -> int:
        """Return the late layer in which a variant changes most of the attention on the picture, on average."""
        for one in self.growth:
            if (one.variant, one.measure) == (variant, "mass"):
                change = {
                    layer: abs(after - before)
                    for layer, before, after in zip(one.layers, one.before, one.after, strict=True)
                    if before is not None and after is not None and layer in self.late
                }
                if change:
                    return max(change, key=lambda layer: change[layer])
        return self.late[0] if self.late else 0


class Hidden(Read):
    """Of `visibility.json`: what hiding the picture elsewhere, or silence, showed."""

    task: str
    about: str = ""
    findings: tuple[str, ...] = ()


class ConfigRead(Read):
    """Of a model config."""

    name: str
    vlm: str
    vlm_revision: str | None = None
    base_lm: str | None = None
    base_lm_revision: str | None = None
    merge: dict[str, Any] | None = None
    recipes: dict[str, dict[str, Any]] = Field(default_factory=dict)


class MergeRead(Read):
    """Of the report on a merge."""

    base_lm_commit: str | None = None
    start_layer: int
    end_layer: int
    depth: int


class Answered(Read):
    """Of `*_plam.json`: what answered."""

    fingerprint: str
    config: ConfigRead
    backend: str
    weights: str
    vlm_weights: str
    vlm_commit: str | None = None
    merge: MergeRead | None = None
    versions: dict[str, str]


def read(path: Path, kind: type[_T]) -> _T:
    """Read a JSON file as a record, or with `list[...]` as several.

    Raises:
        DataError: it can't be read, or isn't one.
    """
    try:
        return TypeAdapter(kind).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(f"{path} isn't what lmms-plam writes: {first_problem(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
