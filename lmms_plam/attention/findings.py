"""What a record of attention tells, in sentences for somebody who hasn't read the paper.

The numbers behind them, of every set of queries, measure and layer, are in `AttentionFindings.to_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmms_plam.attention.growth import Growth
from lmms_plam.attention.jackknife import Tested
from lmms_plam.attention.prediction import Prediction
from lmms_plam.attention.record import QUERIES, Measure
from lmms_plam.attention.relation import Relation
from lmms_plam.attention.summary import SCALED, AttentionFindings
from lmms_plam.words import runs

_NOUN: dict[Measure, str] = {"mass": "attention on the picture", "inside": "attention on the right place"}


def findings(found: AttentionFindings) -> list[str]:
    """Say in sentences what was found: what changes, what goes with being right, what goes with becoming right."""
    said = []
    if found.without:
        said.append(
            f"{found.without} of {found.documents} documents have no attention on a picture, and count in none of this"
        )
    first = found.queries[0]
    for variant in found.variants:
        for queries in found.queries:
            said += _of_growth(found, variant, queries)
        said += _of_narrowing(found, variant, first)
        said += _of_control(found, variant, first)
    for variant in (found.reference, *found.variants):
        said += _of_place(found, variant, first)
    said += [_of_prediction(found, one) for one in found.predictions if one.queries == first]
    said += [_of_relation(one) for one in found.relations if one.queries == first]
    return said


def main_findings(found: AttentionFindings) -> list[str]:
    """Return those of the findings that a reader needs first: of one merge, from the question, and its control."""
    variant = next((name for name in found.variants if name != SCALED), found.variants[0])
    first = found.queries[0]
    said = _of_growth(found, variant, first)
    said += _of_narrowing(found, variant, first)
    said += _of_control(found, variant, first)
    said += _of_place(found, variant, first)
    prediction = found.prediction_of(variant, first)
    if prediction is not None:
        said.append(_of_prediction(found, prediction))
    relations = (found.relation_of(variant, first, measure) for measure in _NOUN)
    return said + [_of_relation(relation) for relation in relations if relation is not None]


def _of_growth(found: AttentionFindings, variant: str, queries: str) -> list[str]:
    mass = found.growth_of(variant, queries)
    if mass is None or math.isnan(mass.late.before):
        return [f"whether {QUERIES[queries]} looks at the picture more under '{variant}' nobody can tell"]
    late = mass.late
    verdict = ("it can't be said to look at the picture more or less", "it looks more", "it looks less")
    said = [
        f"in {_layers(found.late)} {QUERIES[queries]} gives the picture {late.before:.1%} of its attention under "
        f"'{found.reference}' and {late.after:.1%} under '{variant}', {_points(late.difference)}: "
        f"{verdict[late.difference.direction]}; of all layers, {_by_layer(mass)}"
    ]
    kept = found.growth_of(variant, queries, "mass_without_sinks")
    if kept is None or math.isnan(kept.late.before):
        return said
    change = kept.late.difference
    if change.direction == late.difference.direction:
        return said
    return [
        *said,
        f"that is not so without attention sinks, the tokens that are looked at whatever is asked: "
        f"{kept.late.before:.1%} and {kept.late.after:.1%}, {_points(change)}",
    ]


def _of_narrowing(found: AttentionFindings, variant: str, queries: str) -> list[str]:
    spread = found.growth_of(variant, queries, "entropy")
    if spread is None or math.isnan(spread.late.before):
        return []
    change = spread.late.difference
    verdict = ("neither narrower nor wider for sure", "wider", "narrower")
    return [
        f"within the picture its attention is {verdict[change.direction]} under '{variant}': entropy, 1 for evenly "
        f"spread, is {spread.late.before:.3f} and {spread.late.after:.3f}, {change.value:+.3f}"
        f"{_interval(change, '+.3f')}"
    ]


def _of_control(found: AttentionFindings, variant: str, queries: str) -> list[str]:
    mass, entropy = (found.control_of(variant, queries, measure) for measure in ("mass", "entropy"))
    if mass is None or math.isnan(mass.late.before):
        return []
    change = mass.late.difference
    verdict = ("no more or less for sure", "more", "less")
    controlled = variant in found.scaled.control_of
    if controlled:
        what = ", the VLM scaled by the same sum of coefficients without any of the base LM,"
    elif found.scaled.factor is not None:
        what = f", the VLM scaled by {found.scaled.factor:g} without any of the base LM,"
    else:
        what = ""
    said = f"against '{SCALED}'{what} '{variant}' looks at the picture {verdict[change.direction]}, {_points(change)}"
    if entropy is not None and not math.isnan(entropy.late.before):
        change = entropy.late.difference
        verdict = ("neither narrower nor wider for sure", "wider", "narrower")
        said += f", and {verdict[change.direction]}, by an entropy of {change.value:+.3f}{_interval(change, '+.3f')}"
    return [f"{said}: that is the merge's own, and the rest is scaling" if controlled else said]


def _of_place(found: AttentionFindings, variant: str, queries: str) -> list[str]:
    place = found.place_of(variant, queries)
    if place is None:
        return []
    most = int(np.nanargmax(place.ratio.value))
    verdict = ("no more or less for sure than attention spread evenly", "more than if spread evenly", "less than if so")
    said = (
        f"under '{variant}' {place.late_inside:.1%} of what {QUERIES[queries]} gives the picture falls on the right "
        f"place, which takes {place.region:.1%} of it: {place.late.value:.2f} times its share"
        f"{_interval(place.late, '.2f')}, {verdict[place.late.direction]}; of all layers, most in layer "
        f"{place.layers[most]}, {place.ratio.value[most]:.2f} times"
    )
    change = found.growth_of(variant, queries, "inside")
    if change is None or math.isnan(change.late.before):
        return [said]
    moved = change.late.difference
    verdict = ("no change for sure", "more than before", "less than before")
    return [f"{said}; against '{found.reference}' {_points(moved)}, {verdict[moved.direction]}"]


def _of_prediction(found: AttentionFindings, one: Prediction) -> str:
    noun = _NOUN[one.measure]
    if one.late is None or one.by_layer is None:
        return f"whether {noun} goes with being right under '{one.variant}' nobody can tell: {one.missing}"
    verdict = (
        "it doesn't tell for sure which is right",
        "more of it goes with being right",
        "more of it goes with being wrong",
    )
    pair = "whose scores differ, the one that scores higher" if one.graded else "one right and one wrong, the right one"
    sure = [int(layer) for layer in one.layers[one.by_layer.above | one.by_layer.below]]
    layers = (
        f"of all layers, {_layers(sure)} {'tells' if len(sure) == 1 else 'tell'} for sure"
        if sure
        else "of all layers, none tells for sure"
    )
    return (
        f"under '{one.variant}', of two documents, {pair} has more {noun} in {_layers(found.late)} in "
        f"{_pairs(one.late)}: {verdict[one.late.direction]}; {layers}"
    )


def _of_relation(one: Relation) -> str:
    noun = _NOUN[one.measure]
    asked = "documents" if one.measure == "mass" else "documents with a known place"
    if one.among == "all":
        start = f"of {one.documents} {asked} {one.gained} score higher and {one.lost} lower under '{one.variant}'"
        pair = "of two whose scores change differently, the one that gains more"
    else:
        start = (
            f"of {one.documents} documents that '{one.reference}' gets wrong {one.gained} score under '{one.variant}'"
        )
        pair = "of one that does and one that doesn't"
    if one.order is None:
        return f"{start}: whether growth of {noun} goes with that nobody can tell: {one.missing}"
    verdict = (
        "no relation for sure",
        "growth goes with becoming right, which alone doesn't make it the cause",
        "it grows less where answers become right, so that its growth is not why they do",
    )
    halves = ""
    if one.halves is not None:
        halves = (
            f"; the half on which it grows most gains {100 * one.halves.value:+.1f} points against the other half"
            f"{_interval(one.halves, '+.1f', 100)}"
        )
    former = "" if one.among == "all" else ", the one that does"
    return (
        f"{start}; {pair}{former} has the greater growth of {noun} in {_pairs(one.order)}: "
        f"{verdict[one.order.direction]}{halves}"
    )


def _by_layer(one: Growth) -> str:
    told = [f"it {verb} in {_layers(some)}" for verb, some in (("grows", one.grows), ("falls", one.falls)) if some]
    return f"{' and '.join(told)} for sure" if told else "it changes for sure in none"


def _layers(layers: Sequence[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {runs(layers)}"


def _points(found: Tested) -> str:
    return f"{100 * found.value:+.2f} percentage points{_interval(found, '+.2f', 100)}"


def _pairs(found: Tested) -> str:
    return f"{found.value:.0%} of pairs{_interval(found, '.0%')}, where 50% is chance"


def _interval(found: Tested, form: str, factor: float = 1) -> str:
    low, high = found.estimate.ci_low, found.estimate.ci_high
    if low is None or high is None:
        return " (too few documents for an interval)"
    return f" ({found.estimate.level:.0%} interval {factor * low:{form}} to {factor * high:{form}})"
