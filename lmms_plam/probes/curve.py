"""The masking curve and its bootstrap: the score as a function of the cut, and how it varies with the documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.probes.isotonic import isotonic_fit
from lmms_plam.probes.onset import TOP_POINTS
from lmms_plam.stats.bootstrap import MOST_DRAWS, bootstrap
from lmms_plam.stats.matrix import FloatArray, IntArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.units import Units, perfect_value

FEWEST_CUTS = 5
"""Of which a plateau can be told."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskingCurve:
    """Score over cut, with bootstrap draws of the whole curve.

    Estimand: the benchmark's metric at each cut, over the population its documents were drawn from. Resampling unit:
    the cluster, within its stratum; a document's scores at all cuts stay together, which keeps the cuts paired.

    Attributes:
        cuts: (n_cuts,) increasing; the image is readable in layers 0..cut-1, so that cut 0 hides it everywhere and the
            last cut, the decoder's depth, hides nothing.
        scores: (n_cuts,) the metric.
        draws: (n_draws, n_cuts) the metric on resampled clusters.
        perfect: the metric of a perfect run; a point is a hundredth of it.
        n_documents: documents.
        n_clusters: clusters they form.
        seed: of the resampling.
    """

    cuts: IntArray
    scores: FloatArray
    draws: FloatArray
    perfect: float
    n_documents: int
    n_clusters: int
    seed: int


def masking_curve(
    matrix: ScoreMatrix, metric: Metric, *, perfect_answer: float = 1.0, draws: int = 2000, seed: int = 0
) -> MaskingCurve:
    """Compute the metric at each cut and bootstrap it over clusters.

    Args:
        matrix: a masking probe's scores; its variants are cuts, "0" to the decoder's depth, in any order.
        metric: the benchmark's.
        perfect_answer: a document's best possible score.
        draws: bootstrap draws.
        seed: of the resampling.

    Raises:
        DataError: a variant that is no cut, fewer than 5 cuts, no cut 0, fewer than 2 clusters or draws, or a
            score above the best possible.
    """
    if not 2 <= draws <= MOST_DRAWS:
        raise DataError(f"{draws:,} bootstrap draws are too few or too many: take some thousands")
    if seed < 0:
        raise DataError(f"a seed is 0 or more, not {seed}")
    columns, cuts = _cuts(matrix.variants)
    if len(cuts) < FEWEST_CUTS:
        raise DataError(f"a plateau can't be told from {len(cuts)} points: measure at least {FEWEST_CUTS} cuts")
    if cuts[0] != 0:
        raise DataError(f"the curve starts at cut {cuts[0]}: cut 0, where no layer sees the image, is missing")
    if not 0 < perfect_answer < np.inf or matrix.scores.max() > perfect_answer * (1 + 1e-9):
        raise DataError(
            f"a document scores {matrix.scores.max():g} and a perfect answer {perfect_answer:g}:"
            " say what a perfect answer scores, since tolerances are hundredths of it, under"
            " `metadata: {plam: {perfect: ...}}` in the task's YAML, or to plam plateau by --perfect-answer"
        )
    units = Units.of(matrix, metric)
    if not units.weight.any():
        raise DataError(f"the metric '{metric.name}' has no document to count")
    if units.n_clusters < 2:
        raise DataError("all documents form one cluster: how the curve varies can't be told from it")
    return MaskingCurve(
        cuts=cuts,
        scores=units.estimate()[columns],
        draws=bootstrap(units, draws, np.random.default_rng(seed))[:, columns],
        perfect=perfect_value(matrix, metric, perfect_answer),
        n_documents=len(matrix.doc_ids),
        n_clusters=units.n_clusters,
        seed=seed,
    )


def pool_curves(curves: Sequence[tuple[str, MaskingCurve]], top_points: int = TOP_POINTS) -> MaskingCurve:
    """Average the curves of several benchmarks, each scaled to rise from 0 to 1.

    Estimand: the mean over the given benchmarks (taken as fixed) of the rise-normalised curve. Each benchmark is
    resampled on its own and its draw is scaled by that draw's own rise: a joint bootstrap. A point of the pooled
    curve is a hundredth of the rise.

    Args:
        curves: at least one benchmark's name and curve, all over the same cuts and with as many draws.
        top_points: how many of the last points of the isotonic fit make a curve's top.

    Raises:
        DataError: other cuts or draws, or a benchmark whose curve doesn't rise.
    """
    first_name, first = curves[0]
    for name, curve in curves:
        if curve.draws.shape != first.draws.shape or (curve.cuts != first.cuts).any():
            raise DataError(
                f"{name} and {first_name} differ in their cuts or in their number of draws, and can't be pooled"
            )
        rise, error = rise_of(curve, top_points)
        if rise <= 2 * error:
            raise DataError(f"{name} doesn't rise ({rise:.4g} +- {error:.2g}), so that its curve can't be scaled")
    # Equal seeds draw alike from benchmarks of equal size: shuffled, one's draws say nothing of another's.
    rng = np.random.default_rng(first.seed)
    draws = [_scaled(rng.permutation(curve.draws), top_points) for _, curve in curves]
    return MaskingCurve(
        cuts=first.cuts,
        scores=np.mean([_scaled(curve.scores, top_points) for _, curve in curves], axis=0),
        draws=np.mean(draws, axis=0),
        perfect=1.0,
        n_documents=sum(curve.n_documents for _, curve in curves),
        n_clusters=sum(curve.n_clusters for _, curve in curves),
        seed=first.seed,
    )


def rise_of(curve: MaskingCurve, top_points: int) -> tuple[float, float]:
    """Return what seeing the image is worth, mean score of the last cuts minus score at cut 0, and its standard error.

    Taken from the curve itself: the isotonic fit of a flat noisy curve always rises.
    """
    rises = curve.draws[:, -top_points:].mean(axis=1) - curve.draws[:, 0]
    return float(curve.scores[-top_points:].mean() - curve.scores[0]), float(rises.std(ddof=1))


def _scaled(curves: FloatArray, top_points: int) -> FloatArray:
    fit = isotonic_fit(curves)
    bottom = fit[..., :1]
    rise = fit[..., -top_points:].mean(axis=-1, keepdims=True) - bottom
    return np.asarray((curves - bottom) / np.maximum(rise, np.finfo(np.float64).tiny))


def is_cut(name: str) -> bool:
    """Say whether a variant's name is that of a cut: a number of decoder layers."""
    return name.isdecimal() and len(name) < 10 and name == str(int(name))


def _cuts(variants: tuple[str, ...]) -> tuple[IntArray, IntArray]:
    """Return the variants' columns in the order of their cuts, and the cuts."""
    other = [name for name in variants if not is_cut(name)]
    if other:
        mixed = len(other) < len(variants)
        raise DataError(
            f"the variant '{other[0]}' is no cut, a whole number of layers: "
            + ("cuts are mixed with other variants" if mixed else "this is no masking probe's matrix")
        )
    cuts = np.array([int(name) for name in variants], dtype=np.int64)
    columns = np.argsort(cuts).astype(np.int64)
    return columns, cuts[columns]
