"""From a surface to a search's result: one resampling and one cross-fitting serve every question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.search.crossfit import FEWEST_CLUSTERS, CrossFit, Rule, always, cross_fit
from lmms_plam.search.labelfree import with_agreement
from lmms_plam.search.pick import best, borders, gentlest_first, near_best
from lmms_plam.search.racing import FAIR_RACE
from lmms_plam.search.record import NOUNS
from lmms_plam.search.result import (
    LabelFree,
    Layer,
    Measured,
    Scaled,
    Search,
    SearchSettings,
    Stability,
)
from lmms_plam.search.surface import Surface, neighbours
from lmms_plam.stats.bootstrap import interval
from lmms_plam.stats.comparison import FEW_CLUSTERS
from lmms_plam.stats.matrix import IntArray
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.simultaneous import Band, any_better, simultaneous
from lmms_plam.stats.spread import spread
from lmms_plam.stats.units import Units

_LEAST_CONNECTED = 3
"""Merges with neighbours of which the most stable can be told."""

_PICK, _BASE, _SCALED, _LABEL_FREE = "pick", "base", "scaled", "label-free"


def analyse(surface: Surface, settings: SearchSettings | None = None) -> Search:
    """Choose a recipe, and say what its gain is worth.

    Args:
        surface: what was asked.
        settings: how to choose and judge.

    Raises:
        DataError: one document, or a label-free choice among recipes that have no neighbours.
    """
    settings = settings or SearchSettings()
    if len(surface.matrix.doc_ids) < 2:
        raise DataError(f"{surface.record.task}: a search takes many documents, and there is one")
    units, family = surface.units, surface.columns(surface.record.sought, complete=False)
    rules = _Rules(surface)
    pick = rules.choose(settings.criterion)
    band, crossed, p_any, p_scaled = None, None, None, None
    controls = surface.controls()
    controlled = family[controls[family] != family]
    if units.n_clusters > 1:
        draws, level = settings.draws, settings.level
        band = simultaneous(units, surface.base, family, draws, _stream(settings, 0), level)
        p_any = any_better(units, surface.base, family, draws, _stream(settings, 1))
        p_scaled = any_better(surface.against(controls), controls, controlled, draws, _stream(settings, 1))
        crossed = cross_fit(
            rules.units, rules.named(settings.criterion, pick), settings.plan, _stream(settings, 2), level
        )
    names = surface.matrix.variants
    candidates = surface.columns(surface.record.sought)
    return Search(
        record=surface.record,
        settings=settings,
        estimand=find_metric(surface.record.metric).estimand,
        perfect=surface.perfect,
        documents=len(surface.matrix.doc_ids),
        clusters=units.n_clusters,
        strata=len(units.stratum_sizes),
        base=float(surface.scores[surface.base]),
        recipes=tuple(_measured(surface, band)),
        pick=names[pick],
        critical=band.critical if band else None,
        unseen=crossed.gain(_PICK, _BASE) if crossed else None,
        near_best=tuple(names[column] for column in near_best(units, pick, candidates, settings.noise)),
        borders=tuple(borders(surface.recipes, pick, surface.record.depth)),
        any_better_p=p_any,
        better_than_scaled_p=p_scaled,
        n_controlled=len(controlled),
        scaled=_scaled(rules, crossed) if crossed else None,
        label_free=_label_free(surface, rules, band, settings),
        layers=tuple(_layers(rules, pick, crossed)) if crossed else (),
        stability=_stability(surface, rules, pick, band, crossed) if band and crossed else None,
        transfer=(),
        notes=tuple(_notes(surface, rules, pick, len(controlled))),
    )


class _Rules:
    """How columns are chosen, on all documents or on some of them."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        recipes, sought = surface.recipes, surface.record.sought
        self.order = gentlest_first(recipes, surface.columns(sought))
        scaled = gentlest_first(recipes, surface.columns("scaled")) if sought == "merge" else ()
        self.scaled = np.array([surface.base, *scaled], dtype=np.int64)
        near = neighbours(recipes)
        connected = [column for column in self.order if near[column]]
        enough = len(connected) >= _LEAST_CONNECTED
        self.connected = np.array(connected if enough else [], dtype=np.int64)
        self.units: Units = with_agreement(surface) if len(self.connected) else surface.units
        self.values = self.units.estimate()

    def by_metric(self, order: IntArray) -> Rule:
        """Return the choice of the best score among some columns, the gentlest of ties."""
        return lambda values: best(values, order)

    def by_agreement(self) -> Rule:
        """Return the choice of the recipe that agrees most with its neighbours."""
        n_recipes, order = len(self.surface.recipes), self.connected
        return lambda values: best(values[:, n_recipes:], order)

    def choose(self, criterion: str) -> int:
        """Return the column that a criterion picks on all documents."""
        return int(self.of(criterion)(self.values[None])[0])

    def of(self, criterion: str) -> Rule:
        """Return a criterion's rule.

        Raises:
            DataError: nothing can be chosen by it.
        """
        if criterion == "metric":
            return self.by_metric(self.order)
        if not len(self.connected):
            raise DataError(
                f"{self.surface.record.task}: no recipe has a neighbour, one layer or one step of the coefficients"
                " away, so that none can be chosen by how well neighbours agree; choose by the metric"
            )
        return self.by_agreement()

    def named(self, criterion: str, pick: int) -> dict[str, Rule]:
        """Return every rule that is cross-fitted."""
        rules = {_BASE: always(self.surface.base), _PICK: self.of(criterion), _SCALED: self.by_metric(self.scaled)}
        for layer, columns in self.by_layer(pick).items():
            rules[_layer(layer)] = self.by_metric(columns)
        return rules

    def by_layer(self, pick: int) -> dict[int, IntArray]:
        """Return, by start layer, the candidates that differ from the pick in it and in coefficients alone."""
        recipes = self.surface.recipes
        plane = np.array([column for column in self.order if recipes[column].plane == recipes[pick].plane])
        starts = np.array([recipes[column].start_layer for column in plane])
        return {int(layer): plane[starts == layer] for layer in np.unique(starts)}


def _measured(surface: Surface, band: Band | None) -> Iterable[Measured]:
    for column, recipe in enumerate(surface.recipes):
        there, gain = bool(surface.n_asked[column]), float(surface.gains[column])
        known = there and not np.isnan(gain)
        error = float(band.errors[column]) if band and surface.complete[column] and column != surface.base else None
        reach = band.critical * error if band and error is not None and recipe.kind == surface.record.sought else None
        yield Measured(
            recipe=recipe,
            score=float(surface.scores[column]) if known else None,
            gain=gain if known else None,
            standard_error=error,
            ci_low=None if reach is None else gain - reach,
            ci_high=None if reach is None else gain + reach,
            documents=int(surface.n_asked[column]),
        )


def _scaled(rules: _Rules, crossed: CrossFit) -> Scaled | None:
    if len(rules.scaled) < 2:
        return None
    chosen = int(rules.by_metric(rules.scaled)(rules.values[None])[0])
    return Scaled(
        name=rules.surface.matrix.variants[chosen],
        unseen=crossed.gain(_SCALED, _BASE),
        merge_unseen=crossed.gain(_PICK, _SCALED),
    )


def _label_free(surface: Surface, rules: _Rules, band: Band | None, settings: SearchSettings) -> LabelFree | None:
    if not len(rules.connected):
        return None
    column = rules.choose("label-free")
    found = None
    if band:
        contrast = np.zeros(len(surface.recipes))
        contrast[[surface.base, column]] = -1.0, 1.0
        found = interval(band.drawn @ contrast, surface.units, contrast, settings.level)
    return LabelFree(
        name=surface.matrix.variants[column],
        agreement=_agreement(surface, column),
        gain=float(surface.gains[column]),
        ci_low=found.low if found else None,
        ci_high=found.high if found else None,
    )


def _agreement(surface: Surface, column: int) -> float:
    near = neighbours(surface.recipes)[column]
    answers = surface.matrix.answers
    there = surface.asked[:, near]
    return float((answers[:, near] == answers[:, [column]])[there].mean())


def _layers(rules: _Rules, pick: int, crossed: CrossFit) -> Iterable[Layer]:
    recipes, names = rules.surface.recipes, rules.surface.matrix.variants
    for layer, columns in rules.by_layer(pick).items():
        alike = [names[column] for column in columns if recipes[column].coefficients == recipes[pick].coefficients]
        yield Layer(
            start_layer=layer,
            recipes=len(columns),
            name=alike[0] if alike else None,
            unseen=crossed.gain(_layer(layer), _BASE),
        )


def _stability(surface: Surface, rules: _Rules, pick: int, band: Band, crossed: CrossFit) -> Stability:
    names = surface.matrix.variants
    return Stability(
        by_bootstrap=_shares(names, best(band.drawn, rules.order)),
        by_fold=_shares(names, crossed.picks[_PICK].ravel()),
        by_seed=tuple(map(float, crossed.values[_PICK] - crossed.values[_BASE])),
        neighbours=tuple(names[column] for column in neighbours(surface.recipes)[pick]),
    )


def _shares(names: Sequence[str], columns: IntArray) -> dict[str, float]:
    counts = Counter(columns.tolist())
    return {names[column]: count / len(columns) for column, count in counts.most_common()}


def _notes(surface: Surface, rules: _Rules, pick: int, n_controlled: int) -> Iterable[str]:
    record, units = surface.record, surface.units
    if not record.higher_is_better:
        yield "lower is better: gains count downwards"
    if units.n_clusters == 1:
        yield "one cluster: neither intervals nor a gain on unseen documents exist"
    elif units.n_clusters < FEWEST_CLUSTERS:
        yield f"only {units.n_clusters} clusters: no standard error of the gain on unseen documents"
    else:
        contrast = np.zeros(len(surface.recipes))
        contrast[[surface.base, pick]] = -1.0, 1.0
        found = spread(units, contrast)
        if found.error == 0:
            same = "scores as the base on every document" if surface.gains[pick] == 0 else "gains the same everywhere"
            yield f"the pick {same}: its intervals allow for one document more that changes, either way"
        elif found.effective < FEW_CLUSTERS:
            about = f"about {found.effective:.0f} of {units.n_clusters:,} clusters"
            yield f"the pick and the base differ on {about}: the intervals are rough"
    if surface.gains[pick] <= 0:
        noun = NOUNS[record.sought][0]
        yield f"no {noun} scored higher than the untouched VLM: the pick is the best of those that didn't"
    if record.sought == "scaled":
        yield "nothing of the base LM is in this space: it is the control of a search of merges"
    merges = surface.columns("merge", complete=False)
    if n_controlled < len(merges):
        yield (
            f"{len(merges) - n_controlled} of {len(merges)} merges have no control, the VLM scaled by the sum of"
            " their coefficients, and don't count in the comparison with it"
        )
    dropped = int((~surface.complete).sum())
    if dropped and record.racing:
        yield (
            f"racing dropped {dropped} of {len(surface.recipes)} recipes, {record.racing.z:g} standard errors behind"
            f" the best, looking after every {record.racing.block} documents: their scores are of the documents that"
            " they were asked on, and none of them could be picked"
        )
        if record.racing.z < FAIR_RACE:
            yield (
                f"a race below z = {FAIR_RACE:g} flatters the gain on unseen documents a little: by .1 to .2 points at"
                " z = 2 where nothing helps"
            )
    if len(rules.connected) and not surface.matrix.answers.astype(bool).any():
        yield "no answers were kept: the label-free pick says nothing"


def _layer(layer: int) -> str:
    return f"layer {layer}"


def _stream(settings: SearchSettings, place: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, place])
