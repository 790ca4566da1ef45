"""Searches to test with: folders as a run would leave them, of simulated answers whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lmms_plam.config import MergeRecipe
from lmms_plam.search import surface as surfaces
from lmms_plam.search.record import ProbeOnset, Racing, Recipe, SearchRecord
from lmms_plam.search.surface import Surface
from lmms_plam.stats.matrix import ScoreMatrix

BASE = Recipe(name="base", kind="base")


def recipe(start_layer, lambda_lm, lambda_vlm, name=None, dropped_after=None, **fields) -> Recipe:
    merged = MergeRecipe(start_layer=start_layer, lambda_lm=lambda_lm, lambda_vlm=lambda_vlm, **fields)
    kind = "scaled" if lambda_lm == 0 else "merge"
    name = name or f"{start_layer}: {lambda_lm:g} {lambda_vlm:g}"
    why = None if dropped_after is None else f"0.05 behind, 2.3 standard errors, on {dropped_after} documents"
    return Recipe(name=name, kind=kind, fields=merged, dropped_after=dropped_after, dropped_why=why)


def line(layers, steps=10) -> list[Recipe]:
    shares = [round(step / steps, 2) for step in range(1, steps + 1)]
    return [recipe(layer, share, round(1 - share, 2)) for layer in layers for share in shares]


def grid(layers, top=1.5, step=0.5) -> list[Recipe]:
    values = [round(value, 2) for value in np.arange(0, top + step / 2, step)]
    pairs = [(lm, vlm) for lm in values for vlm in values if (lm, vlm) not in ((0, 0), (0, 1))]
    return [recipe(layer, *pair) for layer in layers for pair in pairs]


def scores_of(recipes, n, gain=lambda one: 0.0, seed=0, flips=0.04, accuracy=0.6) -> np.ndarray:
    """Return (n, n_recipes) right and wrong answers; neighbours in the list flip the same documents."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, 1)) < accuracy
    shared = rng.random((n, 1))
    own = rng.random((n, len(recipes)))
    luck = np.where(rng.random((n, len(recipes))) < 0.7, shared, own)
    gains = np.array([0.0 if one.kind == "base" else gain(one) for one in recipes])
    won, lost = (flips + np.maximum(gains, 0)) / (1 - accuracy), (flips + np.maximum(-gains, 0)) / accuracy
    changed = np.where([one.kind == "base" for one in recipes], False, luck < np.where(right, lost, won))
    return np.where(changed, ~right, right).astype(float)


def matrix_of(recipes, scores, clusters=None, strata=None, answers=None, doc_ids=None) -> ScoreMatrix:
    n = len(scores)
    doc_ids = np.arange(n) if doc_ids is None else np.asarray(doc_ids)
    if answers is None:
        rng = np.random.default_rng(1)
        wrong = rng.choice(["B", "C", "D"], (n, 1))
        answers = np.where(scores == 1, "A", wrong).astype(object)
    return ScoreMatrix(
        doc_ids=doc_ids,
        variants=tuple(one.name for one in recipes),
        scores=np.asarray(scores, dtype=float),
        answers=np.asarray(answers, dtype=object),
        clusters=doc_ids.astype(str) if clusters is None else np.asarray(clusters).astype(str),
        strata=np.full(n, "") if strata is None else np.asarray(strata).astype(str),
    )


def asked_of(recipes, n) -> np.ndarray:
    """Return which cells were asked, documents in order."""
    asked = np.ones((n, len(recipes)), dtype=bool)
    for column, one in enumerate(recipes):
        if one.dropped_after is not None:
            asked[one.dropped_after :, column] = False
    return asked


def surface_of(recipes, scores, task="plam_search_task", clusters=None, strata=None, answers=None, **said) -> Surface:
    """Return the surface as reading a folder would give it."""
    asked = asked_of(recipes, len(scores))
    filled = np.where(asked, scores, scores[:, [0]])
    record = SearchRecord(task=task, recipes=tuple(recipes), **said)
    return Surface.of(record, matrix_of(recipes, filled, clusters, strata, answers), asked)


def save(folder: Path, recipes, scores, clusters=None, strata=None, answers=None, **said) -> Path:
    """Write a search's folder, the rows of dropped recipes missing."""
    said = {"task": folder.name, "space": "line", "config": "digits", "date": "2026-11-25", "model": "abc"} | said
    matrix = matrix_of(recipes, scores, clusters, strata, answers)
    surfaces.save(folder, SearchRecord(recipes=tuple(recipes), **said), matrix, asked_of(recipes, len(scores)))
    return folder


RACING = Racing(z=2, block=100)
PROBE = ProbeOnset(onset=18, interval=(17, 19))
