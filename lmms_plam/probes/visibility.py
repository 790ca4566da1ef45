"""What it costs to keep the picture from other layers than the late ones, or to switch attention off.

A masking curve hides the picture from layer k on. Its critics ask whether the stages that it shows are an artefact of
that: so the picture is hidden below layer k instead (early hiding), or in a window of layers only. And where attention
hardly works any more, a merge of attention can hardly change anything: so attention is switched off from layer k on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.probes.curve import masking_curve
from lmms_plam.probes.plateau import Plateau, find_plateau
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.simultaneous import simultaneous
from lmms_plam.stats.units import Units, perfect_value
from lmms_plam.words import runs

Kind = Literal["late", "early", "window", "silent"]
_NAMES = {"late": "{0}", "early": "early {1}", "window": "window {0}-{2}", "silent": "silent {0}"}
_PATTERN = re.compile(r"(?P<late>\d+)|early (?P<early>\d+)|window (?P<first>\d+)-(?P<last>\d+)|silent (?P<silent>\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variant hides the picture, or silences attention: in layers first..end-1."""

    kind: Kind
    first: int
    end: int

    @property
    def variant(self) -> str:
        """Its name in matrices: `12` (hidden from layer 12 on), `early 12` (below it), `window 4-7`, `silent 12`."""
        return _NAMES[self.kind].format(self.first, self.end, self.end - 1)

    @property
    def border(self) -> int:
        """The layer by which late and early hiding, and silence, are told apart: the k of their curves."""
        return self.end if self.kind == "early" else self.first


@dataclass(frozen=True, slots=True)
class Contrast:
    """A place against the full model, paired.

    Attributes:
        place: the place.
        score: the benchmark's metric there.
        difference: minus that of the full model.
        low: of an interval of the difference that holds for all places of its kind at once.
        high: its other end.
    """

    place: Place
    score: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Visibility:
    """What hiding and silencing at several places showed.

    Attributes:
        depth: decoder layers L.
        full: score of the full model.
        perfect: score of a perfect run; a point is a hundredth of it.
        level: nominal coverage of the intervals.
        contrasts: by kind, in the order of layers.
        curves: by kind (not windows), the plateau of the curve over k. Early hiding is turned around: its curve is over
            the number of late layers that see the picture.
        documents: how many were asked.
        clusters: what they form.
        recipe: the first layer that the model's recipe merges, if it merges.
    """

    depth: int
    full: float
    perfect: float
    level: float
    contrasts: Mapping[Kind, tuple[Contrast, ...]]
    curves: Mapping[Kind, Plateau]
    documents: int
    clusters: int
    recipe: int | None = None

    @property
    def early_limit(self) -> tuple[int, int, int] | None:
        """The last k below which the picture can be hidden within the tolerance, and its interval; None without one."""
        curve = self.curves.get("early")
        if curve is None or curve.onset is None:
            return None
        low, high = curve.estimate.interval
        return self.depth - curve.onset, self.depth - high, self.depth - low

    def at(self, kind: Kind, border: int) -> Contrast | None:
        """Return the contrast of a kind at layer k, if it was asked."""
        return next((one for one in self.contrasts.get(kind, ()) if one.place.border == border), None)

    @property
    def costliest(self) -> Contrast:
        """The window that costs most."""
        return min(self.contrasts["window"], key=lambda one: one.difference)

    def to_dict(self) -> dict[str, Any]:
        """Return what `visibility.json` holds; scores are in the benchmark's units."""
        return {
            "depth": self.depth,
            "full": self.full,
            "perfect": self.perfect,
            "level": self.level,
            "n_documents": self.documents,
            "n_clusters": self.clusters,
            "recipe": self.recipe,
            "early_limit": None if self.early_limit is None else dict(zip(_LIMIT, self.early_limit, strict=True)),
            "onsets": {kind: curve.onset for kind, curve in self.curves.items() if kind != "early"},
            "contrasts": {
                kind: [{"variant": one.place.variant, **_flat(one)} for one in own]
                for kind, own in self.contrasts.items()
            },
            "findings": findings(self),
        }


_LIMIT = ("value", "low", "high")


def _flat(contrast: Contrast) -> dict[str, Any]:
    found = asdict(contrast)
    place = found.pop("place")
    return {"first": place["first"], "end": place["end"], **found}


def read_place(variant: str, depth: int) -> Place:
    """Read a variant's name.

    Raises:
        DataError: it names no place.
    """
    found = _PATTERN.fullmatch(variant)
    if found is None:
        raise DataError(f"the variant '{variant}' says neither where the picture is hidden nor where attention is off")
    if found["early"]:
        return Place("early", 0, int(found["early"]))
    if found["first"]:
        return Place("window", int(found["first"]), int(found["last"]) + 1)
    kind: Kind = "late" if found["late"] else "silent"
    return Place(kind, int(found[kind]), depth)


def visibility(
    matrix: ScoreMatrix,
    metric: Metric,
    depth: int,
    *,
    perfect_answer: float = 1.0,
    recipe: int | None = None,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
) -> Visibility:
    """Compare every place with the full model, and find where the curves of hiding and silence level off.

    Estimand: the paired difference of the benchmark's metric. Resampling unit: the cluster, within its stratum.

    Args:
        matrix: scores by document and variant, named as `Place.variant`; the cut at the depth is the full model.
        metric: the benchmark's.
        depth: decoder layers.
        perfect_answer: a document's best possible score.
        recipe: the first layer that the model's recipe merges.
        level: nominal coverage of all intervals.
        draws: bootstrap draws.
        seed: of the resampling.

    Raises:
        DataError: a variant that is no place, no full model, or what a masking curve refuses.
    """
    places = [read_place(variant, depth) for variant in matrix.variants]
    full = matrix.column(str(depth))
    units = Units.of(matrix, metric)
    if units.n_clusters < 2:
        raise DataError("all documents form one cluster: how scores vary can't be told from it")
    scores = units.estimate()
    contrasts: dict[Kind, tuple[Contrast, ...]] = {}
    for kind in dict.fromkeys(place.kind for place in places):
        own = [column for column, place in enumerate(places) if place.kind == kind and column != full]
        own.sort(key=lambda column: (places[column].border, places[column].end))
        if own:
            band = simultaneous(units, full, np.array(own), draws, np.random.default_rng([seed, 0]), level)
            reach = band.critical * band.errors
            contrasts[kind] = tuple(
                Contrast(
                    place=places[column],
                    score=float(scores[column]),
                    difference=float(scores[column] - scores[full]),
                    low=float(scores[column] - scores[full] - reach[column]),
                    high=float(scores[column] - scores[full] + reach[column]),
                )
                for column in own
            )
    curves: dict[Kind, Plateau] = {}
    for kind in contrasts.keys() & {"late", "early", "silent"}:
        named = _as_cuts(places, kind, depth)
        part = replace(matrix.take(list(named)), variants=tuple(named.values()))
        curve = masking_curve(part, metric, perfect_answer=perfect_answer, draws=draws, seed=seed)
        curves[kind] = find_plateau(curve, level=level)
    perfect = perfect_value(matrix, metric, perfect_answer)
    sizes = len(matrix.doc_ids), units.n_clusters
    return Visibility(depth, float(scores[full]), perfect, level, contrasts, curves, *sizes, recipe)


def _as_cuts(places: Sequence[Place], kind: Kind, depth: int) -> dict[int, str]:
    """Return the columns of a curve and what a masking curve would call them: the layers in which something works."""
    named = {column: place for column, place in enumerate(places) if place.kind == kind}
    if kind == "early":
        turned = {column: str(depth - place.border) for column, place in named.items()}
        ends = {column: str(place.first) for column, place in enumerate(places) if place.kind == "late"}
        return turned | {column: cut for column, cut in ends.items() if cut in ("0", str(depth))}
    full = {column: place for column, place in enumerate(places) if place == Place("late", depth, depth)}
    return {column: str(place.border) for column, place in (named | full).items()}


def findings(found: Visibility) -> list[str]:
    """Say in sentences what was found, by kind."""
    said = []
    if "early" in found.contrasts:
        said += _of_early(found)
    if "window" in found.contrasts:
        said += _of_windows(found)
    if "silent" in found.contrasts:
        said += _of_silence(found)
    return said


def _of_early(found: Visibility) -> list[str]:
    late, limit = found.curves["late"], found.early_limit
    if late.rise <= 2 * late.rise_error:
        return ["seeing the picture changes no score here beyond noise, so that where it is read can't be told"]
    if limit is None:
        said = ["the picture can't be hidden from the first layers without loss: what they make of it is read later"]
    else:
        value, low, high = limit
        said = [
            f"hiding the picture below layer {value} keeps the score within {_tolerance(found, 'early')} points of its "
            f"top ({found.level:.0%} interval of that limit: {low} to {high})"
        ]
    if late.onset is not None and limit is not None:
        if limit[0] < late.onset:
            said.append(f"so it is read in layers {limit[0]} to {late.onset - 1}: before them and after them it may go")
        else:
            said.append(f"late layers make up for it: seen in layers {limit[0]} and later alone, it is read there")
    stage = next((stage for stage in late.stages if stage.name == "separation"), None)
    test = found.at("early", stage.end) if stage is not None else None
    if stage is None or test is None:
        said.append("the masking curve has no flat start, so there is no first stage that early hiding could test")
    else:
        words = (
            f"layers 0 to {stage.end - 1} are the masking curve's flat start: hiding the picture there alone changes "
            "the score by"
        )
        verdict = (
            "they take part in reading it, so that the flat start does not mean unused layers"
            if test.high < -0.01 * found.perfect
            else "the first stage is no artefact of hiding late"
            if test.low > -0.01 * found.perfect
            else "this sample can't tell whether they take part in reading it"
        )
        said.append(f"{words} {_points(found, test)}: {verdict}")
    return said


def _of_windows(found: Visibility) -> list[str]:
    worst, windows = found.costliest, found.contrasts["window"]
    if worst.difference >= 0:
        return ["no window lowers the score"]
    sure = [one.place.first for one in windows if one.high < 0]
    said = [f"hiding the picture in {_layers(worst.place)} alone changes the score most: {_points(found, worst)}"]
    if not sure:
        return [*said, "no window loses score for sure"]
    return [*said, f"windows that lose score for sure begin at layer {runs(sure)}"]


def _of_silence(found: Visibility) -> list[str]:
    curve = found.curves["silent"]
    onset = curve.onset
    said = [
        "attention changes no score here beyond noise"
        if curve.rise <= 2 * curve.rise_error
        else "attention may be needed up to the last layers, as far as the layers that were asked can tell"
        if onset is None
        else f"with attention switched off from layer {onset} on, the score stays within "
        f"{_tolerance(found, 'silent')} points of its top"
    ]
    test = found.at("silent", found.recipe) if found.recipe is not None else None
    if test is not None:
        said.append(
            f"switching it off in all layers that the recipe merges ({_layers(test.place)}) changes the score by "
            f"{_points(found, test)}: "
            + (
                "there is something for a merge of attention to change"
                if test.high < -0.01 * found.perfect
                else "a merge of attention there can hardly change anything"
                if test.low > -0.01 * found.perfect
                else "this sample can't tell whether a merge of attention there can change much"
            )
        )
    return said


def _layers(place: Place) -> str:
    return f"layer {place.first}" if place.end == place.first + 1 else f"layers {place.first} to {place.end - 1}"


def _tolerance(found: Visibility, kind: Kind) -> str:
    return f"{found.curves[kind].tolerance * 100 / found.perfect:.1f}"


def _points(found: Visibility, contrast: Contrast) -> str:
    point = 100 / found.perfect
    low, high = contrast.low * point, contrast.high * point
    return f"{contrast.difference * point:+.1f} points ({low:+.1f} to {high:+.1f})"
