"""Transfer: tuned on one benchmark, scored on another, no document used twice.

On its own benchmark a recipe's gain is the cross-fitted one. Where two benchmarks share documents (the digits with
their pictures, and written out), the recipe for each fold of the one is chosen on the other's remaining documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.search.pick import best, gentlest_first
from lmms_plam.search.record import Recipe
from lmms_plam.search.result import Search, SearchSettings, Transfer
from lmms_plam.search.surface import Surface
from lmms_plam.stats.bootstrap import bootstrap, interval
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.units import Units

_GAIN = np.array([-1.0, 1.0])


def add_transfer(surfaces: Sequence[Surface], searches: Sequence[Search]) -> list[Search]:
    """Fill in each search's row of the table: tuned on it, scored on every one.

    Args:
        surfaces: what was asked.
        searches: what `analyse` found of each.

    Raises:
        DataError: searches of two models, or one that is there twice.
    """
    first = surfaces[0].record
    for place, surface in enumerate(surfaces):
        if surface.record.model != first.model:
            raise DataError(
                f"mixed searches: {first.task} is of model {first.model}, {surface.record.task} of model"
                f" {surface.record.model}; a table of transfer takes one model's"
            )
        if any(surface.record.task == other.record.task for other in surfaces[:place]):
            raise DataError(f"{surface.record.task} is there twice; give each search once")
    if len(searches) < 2:
        return list(searches)
    return [
        replace(
            search,
            transfer=tuple(
                _own(search) if target is surface else _cell(surface, target, search) for target in surfaces
            ),
        )
        for surface, search in zip(surfaces, searches, strict=True)
    ]


def _own(search: Search) -> Transfer:
    task, found = search.record.task, search.unseen
    how = "its own documents, by cross-fitting"
    if found is None:
        return Transfer(task, task, None, None, None, None, f"{how}: too few clusters")
    return Transfer(task, task, None, found.gain, found.ci_low, found.ci_high, how)


def _cell(tuned: Surface, target: Surface, search: Search) -> Transfer:
    names = tuned.record.task, target.record.task
    same = tuned.record.documents is not None and tuned.record.documents == target.record.documents
    if same and search.settings.criterion == "metric":  # the label-free choice uses no document's score
        return _shared(tuned, target, search.settings)
    picked = search.in_sample.recipe
    column = _same(target, picked)
    if column is None:
        return Transfer(*names, picked.name, None, None, None, "the recipe wasn't asked there")
    if not target.complete[column]:
        after = f"after {target.n_asked[column]:,} documents"
        return Transfer(*names, picked.name, None, None, None, f"racing dropped the recipe there {after}")
    pair = target.units.select([target.base, column])
    return Transfer(*names, picked.name, *_estimate(pair, search.settings), "other documents")


def _shared(tuned: Surface, target: Surface, settings: SearchSettings) -> Transfer:
    names = tuned.record.task, target.record.task
    order = gentlest_first(tuned.recipes, tuned.columns(tuned.record.sought))
    clusters, cluster = np.unique(target.matrix.clusters, return_inverse=True)
    rng = np.random.default_rng([settings.seed, 3])
    fold = (rng.permutation(len(clusters)) % min(settings.plan.folds, len(clusters)))[cluster]
    scores, answers = np.empty(len(fold)), np.empty(len(fold), dtype=object)
    for place in np.unique(fold):
        held = fold == place
        seen = np.isin(tuned.matrix.doc_ids, target.matrix.doc_ids[held])
        others = ~np.isin(tuned.matrix.clusters, tuned.matrix.clusters[seen])
        if not others.any():
            return Transfer(*names, None, None, None, None, "no document is left to tune on")
        chosen = tuned.recipes[int(best(Units.of(tuned.matrix.select(others), tuned.metric).estimate(), order))]
        column = _same(target, chosen)
        if column is None or not target.complete[column]:
            return Transfer(*names, chosen.name, None, None, None, "the recipe wasn't asked there on all documents")
        scores[held], answers[held] = target.matrix.scores[held, column], target.matrix.answers[held, column]
    matrix: ScoreMatrix = target.matrix.take([target.base, target.base])
    matrix = replace(
        matrix,
        scores=np.column_stack([matrix.scores[:, 0], scores]),
        answers=np.column_stack([matrix.answers[:, 0], answers]),
    )
    how = "the same documents, by cross-fitting"
    return Transfer(*names, None, *_estimate(Units.of(matrix, target.metric), settings), how)


def _same(surface: Surface, recipe: Recipe) -> int | None:
    """Return the column of the recipe with these fields, whatever it is called there."""
    for column, other in enumerate(surface.recipes):
        if other.fields == recipe.fields:
            return column
    return None


def _estimate(pair: Units, settings: SearchSettings) -> tuple[float, float | None, float | None]:
    gain = float(pair.estimate() @ _GAIN)
    if pair.n_clusters == 1:
        return gain, None, None
    drawn = bootstrap(pair, settings.draws, np.random.default_rng([settings.seed, 4]))
    found = interval(drawn @ _GAIN, pair, _GAIN, settings.level)
    return gain, found.low, found.high
