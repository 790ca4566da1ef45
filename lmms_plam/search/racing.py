"""Racing: after each block of documents, recipes that are plainly behind the best are not asked again.

A merge is dropped when the best merge so far is ahead of it by `z` paired, cluster-robust standard errors (in a space
without merges, a scaled VLM). Nothing
corrects for looking repeatedly: a race decides what is worth asking, and tests nothing. It costs next to nothing in
what is picked. But recipes are dropped on documents that the cross-fitting later holds out, which flatters it: with
1,000 documents in blocks of 100, 256 recipes and nothing that helps, by .15 to .2 points at z = 2, .06 at z = 2.5 and
.01 at z = 3, for .40, .64 and .86 of the answers; less with fewer recipes or documents
(`benchmarks/search_honesty.py`).

The base is never dropped. A scaled VLM is dropped when it is plainly behind itself and no merge that is still asked
needs it as its control.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.search.record import Recipe, sought_kind
from lmms_plam.search.surface import upwards
from lmms_plam.stats.matrix import IntArray, ScoreMatrix, TextArray
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.spread import standard_errors
from lmms_plam.stats.units import Units

FAIR_RACE = 2.5
"""Standard errors from which on a race shifts the cross-fitted gain by less than a tenth of a point."""

FEWEST_CLUSTERS = 20
"""Nothing is dropped before so many clusters are there: their spread isn't known."""


def plainly_behind(
    matrix: ScoreMatrix, metric: Metric, recipes: Sequence[Recipe], z: float, higher_is_better: bool = True
) -> dict[str, str]:
    """Return which recipes to ask no more, each with the reason in words.

    Args:
        matrix: scores of all documents so far, of whole clusters; its variants are the recipes still asked.
        metric: the benchmark's own.
        recipes: what the variants are, in any order.
        z: standard errors.
        higher_is_better: whether a higher value of the metric is.

    Raises:
        DataError: z isn't above 0, or a variant is none of the recipes.
    """
    if not z > 0:
        raise DataError(f"racing drops recipes that are z standard errors behind, with z above 0, not {z:g}")
    known = {recipe.name: recipe for recipe in recipes}
    if unknown := [name for name in matrix.variants if name not in known]:
        raise DataError(f"the variant '{unknown[0]}' is none of the search's recipes")
    units = Units.of(matrix, upwards(metric, higher_is_better))
    kinds = np.array([known[name].kind for name in matrix.variants])
    merges = np.flatnonzero(kinds == sought_kind(known[name] for name in matrix.variants))
    if units.n_clusters < FEWEST_CLUSTERS or not len(merges):
        return {}
    values = units.estimate()
    best = int(merges[values[merges].argmax()])
    contrasts = -np.eye(len(kinds))
    contrasts[best] += 1.0
    errors, _ = standard_errors(units, contrasts)
    gaps = values[best] - values
    behind = (gaps >= z * errors) & (gaps > 1e-12 * abs(units.scale)) & (kinds != "base")
    needed = {
        _place(known[name])
        for name, kind, drop in zip(matrix.variants, kinds, behind, strict=True)
        if kind == "merge" and not drop
    }
    reasons = {}
    for column in np.flatnonzero(behind):
        name = matrix.variants[column]
        if kinds[column] == "scaled" and _place(known[name]) in needed:
            continue
        ahead = f", {gaps[column] / errors[column]:.1f} standard errors" if errors[column] else ""
        reasons[name] = (
            f"{gaps[column]:.4g} behind '{matrix.variants[best]}'{ahead}, on {len(matrix.doc_ids):,} documents"
        )
    return reasons


def blocks(clusters: TextArray, strata: TextArray, size: int, seed: int) -> list[IntArray]:
    """Deal documents into blocks to be asked one after the other, each of them a small picture of the whole.

    Benchmarks are often sorted by category. A block holds whole clusters, drawn at random, of every stratum in
    proportion.

    Args:
        clusters: (n_docs,) names of the documents' clusters.
        strata: (n_docs,) of their strata.
        size: documents a block, about; the last may be smaller.
        seed: of the shuffling.

    Returns:
        Positions of the documents, block by block.

    Raises:
        DataError: a block of no document.
    """
    if size < 1:
        raise DataError(f"a block is 1 document or more, not {size}")
    rng = np.random.default_rng(seed)
    names, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
    _, stratum = np.unique(np.asarray(strata)[first], return_inverse=True)
    shuffled = np.lexsort((rng.random(len(names)), stratum))
    n_clusters = np.bincount(stratum)
    place = np.empty(len(names))
    within = np.concatenate([np.arange(n) for n in n_clusters])
    place[shuffled] = (within + rng.random(len(n_clusters))[stratum[shuffled]]) / n_clusters[stratum[shuffled]]
    order = np.argsort(place, kind="stable")
    n_documents = np.bincount(cluster)[order]
    n_blocks = max(1, int(np.ceil(len(clusters) / size)))
    ends = np.searchsorted(np.cumsum(n_documents), size * np.arange(1, n_blocks)) + 1
    bounds = [0, *np.unique(np.minimum(ends, len(order))).tolist(), len(order)]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    documents = np.argsort(rank[cluster], kind="stable")
    sorted_rank = rank[cluster][documents]
    return [
        documents[np.searchsorted(sorted_rank, start) : np.searchsorted(sorted_rank, end)]
        for start, end in pairwise(bounds)
        if end > start
    ]


def _place(recipe: Recipe) -> tuple[object, ...]:
    """Return what a merge and its control have in common."""
    return recipe.plane, recipe.start_layer, recipe.total
