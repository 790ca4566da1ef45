"""From records to what a page's sentences, tables and forests are made of: everything in points, above 0 better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.report.language import is_base_lm
from lmms_plam.search.record import Recipe
from lmms_plam.site.found import Compared, Of, Place, Study
from lmms_plam.site.records import Attention, Difference, Found, Plateau
from lmms_plam.site.words import Gain, Looked, Onset, Picked

MERGED = "merged"
"""What a comparison calls the model that its config merges."""

_AGAINST = "against "
_FORMAT_PARTS = ("one_read", "cut_off")


@dataclass(frozen=True, slots=True)
class Line:
    """One variant's headline difference on one benchmark.

    Attributes:
        place: of the comparison.
        variant: its name.
        recipe: what it is, in words; of runs that were compared by hand, against which.
        gain: the difference.
        difference: as the record holds it, in the metric's own unit.
        tuned_here: whether its recipe is the pick of a search on the same benchmark, so that it is no estimate.
        base_lm: whether the variant is the base LM itself.
        saved: whether a comparison task says what the variants are.
        date: of the comparison, as YYYY-MM-DD; empty where nobody says.
    """

    place: Place
    variant: str
    recipe: str
    gain: Gain
    difference: Difference
    tuned_here: bool
    base_lm: bool
    saved: bool
    date: str


def lines(study: Study, model: str) -> list[Line]:
    """Return every variant's headline difference of a model, benchmark by benchmark."""
    own = [search for search in study.searches if search.place.model == model]
    picked = {(search.place.benchmark, recipe_of(search.record)) for search in own}
    sources = {(study.source(search.place), recipe_of(search.record)) for search in own}
    found = []
    for compared in study.comparisons:
        if compared.place.model == model:
            here = study.source(compared.place)
            found += _lines_of(compared, picked, {recipe for source, recipe in sources if here and source == here})
    return found


def judged(study: Study, model: str) -> dict[str, list[Gain]]:
    """Return the gains of each recipe that a model's configs merge, on documents that didn't choose it, by recipe.

    A difference on the documents that chose its recipe is replaced by the search's cross-fitted gain. A benchmark that
    was asked several times counts once.
    """
    found: dict[str, list[Gain]] = {}
    unseen = {
        (search.place.benchmark, recipe_of(search.record)): unseen_gain(search)
        for search in _searches(study, model).everything
    }
    for one in _lines(study, model).counted:
        if one.saved and one.variant != MERGED:
            continue
        gain = unseen.get((one.place.benchmark, one.recipe)) if one.tuned_here else one.gain
        if gain is not None:
            found.setdefault(one.recipe, []).append(replace(gain, benchmark=one.place.benchmark))
    return found


def language(study: Study, model: str) -> dict[str, tuple[list[Gain], list[Gain], list[Gain]]]:
    """Return by recipe what the VLM has more than its base LM on text, and what the merge adds on text and on pictures.

    Recipes that were asked of pictures alone are left out, unless the base LM was asked of text.
    """
    known = {one.place.benchmark: one.gain for one in _lines(study, model).counted if one.base_lm and one.gain.text}
    lost = [_turned(replace(gain, benchmark=name)) for name, gain in known.items()]
    parts = {
        recipe: (lost, [one for one in gains if one.text], [one for one in gains if not one.text])
        for recipe, gains in judged(study, model).items()
    }
    return {recipe: (lost, back, seen) for recipe, (lost, back, seen) in parts.items() if lost or back}


def onsets(study: Study, model: str) -> list[Onset]:
    """Return the onsets that a model's probes found."""
    return [Onset(one.place.benchmark, one.record.onset) for one in _probes(study, model).counted]


def searches(study: Study, model: str) -> list[Picked]:
    """Return what a model's searches picked."""
    return [
        Picked(one.place.benchmark, pick_words(one.record), unseen_gain(one), one.record.any_better_p)
        for one in _searches(study, model).counted
    ]


def looks(study: Study, model: str) -> list[Looked]:
    """Return what merging changes in a model's attention on the picture."""
    return [found for one in _looks(study, model).counted if (found := _looked(one.place, one.record)) is not None]


def counted_once(study: Study) -> list[str]:
    """Say of each benchmark that a model was asked several times which of its records sentences and means count."""
    return [
        f"{model} has {times} {noun} on {kept.benchmark}: sentences and means count {kept.run or kept.task} alone,"
        " which has most documents or, of as many, is the newest"
        for model in study.models
        for noun, asked in (
            ("probes", _probes(study, model)),
            ("searches", _searches(study, model)),
            ("comparisons of one recipe", _lines(study, model)),
            ("attention records", _looks(study, model)),
        )
        for kept, times in asked.several()
    ]


def unseen_gain(search: Of[Found]) -> Gain | None:
    """Return a search's cross-fitted gain; None where there are too few documents for one."""
    record, found = search.record, search.record.unseen
    if found is None:
        return None
    low, high = (None if end is None else end * record.points for end in (found.ci_low, found.ci_high))
    return Gain(
        benchmark=search.place.label,
        points=found.gain * record.points,
        low=low,
        high=high,
        level=record.settings.level,
        documents=record.n_documents,
        cross_fitted=True,
    )


def recipe_of(search: Found) -> str:
    """Return a search's pick as comparisons write recipes; empty where it can't be told."""
    try:
        return recipe_in_words(MergeRecipe.model_validate(search.pick.fields))
    except ValidationError:
        return ""


def pick_words(search: Found) -> str:
    """Return a search's pick as a reader is told of it."""
    try:
        fields = MergeRecipe.model_validate(search.pick.fields)
        return str(Recipe(name=search.pick.name, kind="merge" if fields.has_base_lm else "scaled", fields=fields))
    except ValidationError:
        return search.pick.name


def start_in_words(recipe: str) -> str:
    """Return a recipe as the subject of a sentence."""
    if recipe.startswith(_AGAINST):
        return f"compared with {recipe.removeprefix(_AGAINST)}, it"
    found = re.search(r"start_layer=(\d+)", recipe)
    return f"merging from layer {found[1]} on" if found else "the merge"


class _Placed(Protocol):
    """What has a place."""

    @property
    def place(self) -> Place: ...


_P = TypeVar("_P", bound=_Placed)


@dataclass(frozen=True, slots=True)
class _Asked(Generic[_P]):
    """Records of one kind and model, those of one benchmark with the one that counts last.

    Attributes:
        by_key: the records that ask the same.
    """

    by_key: Mapping[tuple[str, ...], Sequence[_P]]

    @classmethod
    def of(cls, found: Iterable[tuple[_P, tuple[str, ...], int, str]]) -> _Asked[_P]:
        """Return it of records, each with what it is of beside its benchmark, its documents, and its date."""
        by_key: dict[tuple[str, ...], list[_P]] = {}
        for one, of, _, _ in sorted(found, key=lambda entry: entry[2:]):
            by_key.setdefault((one.place.benchmark, *of), []).append(one)
        return cls({key: by_key[key] for key in sorted(by_key)})

    @property
    def everything(self) -> list[_P]:
        """All of them."""
        return [one for same in self.by_key.values() for one in same]

    @property
    def counted(self) -> list[_P]:
        """Of each benchmark the one with most documents, of as many the newest."""
        return [same[-1] for same in self.by_key.values()]

    def several(self) -> list[tuple[Place, int]]:
        """Return the place of each that counts for several, and for how many."""
        found = {key[0]: (same[-1].place, len(same)) for key, same in self.by_key.items() if len(same) > 1}
        return list(found.values())


def _lines(study: Study, model: str) -> _Asked[Line]:
    return _Asked.of((one, (one.recipe, one.variant), one.gain.documents, one.date) for one in lines(study, model))


def _probes(study: Study, model: str) -> _Asked[Of[Plateau]]:
    own = (one for one in study.probes if one.place.model == model)
    return _Asked.of((one, (), one.record.n_documents, one.record.date or "") for one in own)


def _searches(study: Study, model: str) -> _Asked[Of[Found]]:
    own = (one for one in study.searches if one.place.model == model)
    return _Asked.of((one, (), one.record.n_documents, one.record.date) for one in own)


def _looks(study: Study, model: str) -> _Asked[Of[Attention]]:
    own = (one for one in study.attention if one.place.model == model)
    return _Asked.of((one, (), one.record.n_documents, one.record.about.rpartition(", ")[2]) for one in own)


def _lines_of(compared: Of[Compared], picked: set[tuple[str, str]], of_the_same: set[str]) -> list[Line]:
    """Return a comparison's lines, given the picks by benchmark and those chosen on the same dataset and split."""
    differences, saved, found = compared.record.differences, compared.record.saved, []
    for one in differences:
        if one.metric != differences[0].metric:
            continue
        recipe = f"{_AGAINST}{one.reference}" if saved is None else saved.recipes.get(one.variant, "")
        tuned_here = (compared.place.benchmark, recipe) in picked
        found.append(
            Line(
                place=compared.place,
                variant=one.variant,
                recipe=recipe,
                gain=replace(_gain(compared, one), shared=not tuned_here and recipe in of_the_same),
                difference=one,
                tuned_here=tuned_here,
                base_lm=is_base_lm(recipe),
                saved=saved is not None,
                date="" if saved is None else saved.date,
            )
        )
    return found


def _gain(compared: Of[Compared], one: Difference) -> Gain:
    saved = compared.record.saved
    sign = 1 if one.higher_is_better else -1
    factor = sign * 100 / perfect_of(compared.record, one)
    ends = sorted(factor * end for end in (one.ci_low, one.ci_high) if end is not None)
    return Gain(
        benchmark=compared.place.label,
        points=factor * one.difference,
        low=ends[0] if len(ends) == 2 else None,
        high=ends[1] if len(ends) == 2 else None,
        level=one.level,
        p_value=one.p_value,
        by_format=_by_format(compared.record, one, factor),
        documents=one.n,
        text=saved is not None and not saved.pictures,
    )


def perfect_of(compared: Compared, one: Difference) -> float:
    """Return a metric's value where every document scores its best, as near as the record tells."""
    if one.perfect is not None:
        return one.perfect
    if compared.saved is not None:
        return compared.saved.perfect_answer
    return 1.0 if max(abs(one.a), abs(one.b)) <= 1 else 100.0


def _by_format(compared: Compared, one: Difference, factor: float) -> float | None:
    for audited in compared.audits:
        if (audited.metric, audited.variant) == (one.metric, one.variant) and not audited.missing:
            return factor * sum(part.difference for part in audited.parts if part.part in _FORMAT_PARTS)
    return None


def _turned(gain: Gain) -> Gain:
    """Return a base LM's difference to the VLM as the VLM's to it."""
    low, high = (None if end is None else -end for end in (gain.high, gain.low))
    return Gain(gain.benchmark, -gain.points, low, high, gain.level, gain.p_value, documents=gain.documents, text=True)


def _looked(place: Place, record: Attention) -> Looked | None:
    one = record.headline.get(MERGED)
    if one is None or one.difference is None or one.low is None or one.high is None or one.p_value is None:
        return None
    return Looked(place.benchmark, 100 * one.difference, 100 * one.low, 100 * one.high, one.p_value)
