"""How sure numbers by layer are: leaving out one cluster at a time says how they vary, multipliers how far together.

Means of attention, areas under curves, probabilities of order: each is computed without one cluster in turn, which
gives its standard error whatever its formula (the jackknife, CV3 of MacKinnon, Nielsen and Webb 2023, Journal of
Econometrics 232; for an area under the curve it tends to the clustered DeLong variance of Obuchowski 1997, Biometrics
53). How large the largest error over layers may be is found by multiplying each cluster's influence by a standard
normal number, the same for all layers, which keeps how layers move together (the multiplier bootstrap of Chernozhukov,
Chetverikov and Kato 2013, Annals of Statistics 41). Its quantile makes intervals that hold for all layers at once, and
p-values corrected for their number (max-T; Westfall and Young 1993). As few clusters leave a standard error unsure,
each layer's tail is that of t with the degrees of freedom that bear on it (Satterthwaite's, as in
lmms_plam.stats.spread); of a single number this is the t interval. A p-value is below 1 - level where the interval
leaves out the null's value. Of probabilities intervals are made in log odds, without which they cover too little near 0
and 1, and p-values aren't, with which they reject too seldom: where some ten documents decide, an interval may hold the
null's value although the p-value is just below 1 - level.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri, stdtr, stdtrit

from lmms_plam.stats.comparison import FEW_CLUSTERS, Estimate, Settings
from lmms_plam.stats.matrix import BoolArray, FloatArray, IntArray
from lmms_plam.stats.units import chunk_sizes

METHOD = "jackknife over clusters"
_NOTHING = 1e-12  # errors of numbers between 0 and 1 below this are rounding


@dataclass(frozen=True, slots=True, eq=False)
class Jackknife:
    """Numbers, and what they are without one cluster.

    Attributes:
        value: (n_columns,) the numbers, NaN where no document tells.
        left_out: (n_clusters, n_columns) the same without one cluster; NaN for a cluster that has no say in a column,
            infinite where nothing is left to tell.
        documents: (n_columns,) documents that have a say.
    """

    value: FloatArray
    left_out: FloatArray
    documents: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Numbers by layer, with intervals that hold for all layers at once.

    Attributes:
        value: (n_layers,) the numbers; NaN where no document tells.
        error: (n_layers,) their standard errors; NaN where too few clusters tell.
        low: (n_layers,) lower ends; NaN without a standard error.
        high: (n_layers,) upper ends.
        p_value: (n_layers,) two-sided, that the number is the null's, corrected for the number of layers; NaN without
            a standard error.
        documents: (n_layers,) documents that have a say.
        clusters: (n_layers,) clusters that they form.
        null: what the number is if there is nothing.
        level: probability that all intervals hold.
    """

    value: FloatArray
    error: FloatArray
    low: FloatArray
    high: FloatArray
    p_value: FloatArray
    documents: IntArray
    clusters: IntArray
    null: float
    level: float

    @property
    def above(self) -> BoolArray:
        """(n_layers,) which numbers are above the null's for sure."""
        return np.asarray(self.low > self.null)

    @property
    def below(self) -> BoolArray:
        """(n_layers,) which numbers are below the null's for sure."""
        return np.asarray(self.high < self.null)

    def to_dict(self) -> dict[str, Any]:
        """Return lists by layer, None for NaN."""
        names = ("value", "error", "low", "high", "p_value")
        return {name: listed(getattr(self, name)) for name in names} | {
            "documents": self.documents.tolist(),
            "clusters": self.clusters.tolist(),
            "null": self.null,
            "level": self.level,
        }


@dataclass(frozen=True, slots=True)
class Tested:
    """A single number, its interval and its p-value.

    Attributes:
        estimate: the number; its interval is missing where too few clusters tell.
        p_value: two-sided, that the number is the null's; None without an interval.
        null: what it is if there is nothing.
    """

    estimate: Estimate
    p_value: float | None
    null: float

    @property
    def value(self) -> float:
        """The number; NaN where no document tells."""
        return self.estimate.value

    @property
    def direction(self) -> int:
        """1 where the interval is above the null's value, -1 where it is below, 0 where it isn't sure or missing."""
        low, high = self.estimate.ci_low, self.estimate.ci_high
        return 0 if low is None or high is None else int(low > self.null) - int(high < self.null)

    def to_dict(self) -> dict[str, Any]:
        """Return the number, interval, p-value and how they were made, None for NaN."""
        return {**asdict(self.estimate), "value": number(self.value), "p_value": self.p_value, "null": self.null}


def band(found: Jackknife, settings: Settings, null: float = 0.0, *, odds: bool = False) -> Band:
    """Make intervals that hold for all columns at once.

    A number that is the same without whichever cluster, such as a difference in layers that are not merged, counts as
    known: its interval has no width, its p-value is 1 if it is the null's, and it costs the others nothing.

    Args:
        found: numbers by layer.
        settings: level, draws of multipliers, seed.
        null: what a number is if there is nothing.
        odds: whether to make intervals in log odds, as suits probabilities; there are none where one is 0 or 1.
    """
    clusters = (~np.isnan(found.left_out)).sum(axis=0)
    influence, error, freedom = _spread(found, clusters)
    scaled = _log_odds(found) if odds else found
    _, width, width_freedom = _spread(scaled, clusters) if odds else (influence, error, freedom)
    told, apart = np.isfinite(width), np.abs(found.value - null)
    error = np.where(told, error, np.nan)
    varies = told & (error > _NOTHING)
    reach = np.where(told, 0.0, np.nan)
    p_value = np.where(told, np.where(apart <= _NOTHING, 1.0, 2.0 ** (1 - clusters)), np.nan)
    if varies.any():
        largest = _largest(influence[:, varies], settings)
        critical = max(float(np.quantile(largest, settings.level)), float(ndtri((1 + settings.level) / 2)))
        reach[varies] = stdtrit(width_freedom[varies], ndtr(critical)) * width[varies]
        alone = stdtr(freedom[varies], -apart[varies] / error[varies])  # in one tail, as if there were no other layer
        beyond = (largest >= -ndtri(alone)[:, None]).sum(axis=1)
        p_value[varies] = np.maximum((beyond + 1) / (len(largest) + 1), 2 * alone)
    low, high = scaled.value - reach, scaled.value + reach
    return Band(
        value=found.value,
        error=error,
        low=expit(low) if odds else low,
        high=expit(high) if odds else high,
        p_value=p_value,
        documents=found.documents,
        clusters=clusters,
        null=null,
        level=settings.level,
    )


def single(found: Jackknife, estimand: str, settings: Settings, null: float = 0.0, *, odds: bool = False) -> Tested:
    """Return the interval and test of the only column.

    Args:
        found: one number.
        estimand: what it is, in words.
        settings: level, draws, seed.
        null: what it is if there is nothing.
        odds: whether to make the interval in log odds.
    """
    of_one = band(found, settings, null, odds=odds)
    error, clusters = float(of_one.error[0]), int(of_one.clusters[0])
    told = bool(np.isfinite(error))
    notes = [] if told else ["too few clusters tell, or all say the same: no interval"]
    if told and clusters < FEW_CLUSTERS:
        notes.append(f"only {clusters} clusters: the interval is rough")
    estimate = Estimate(
        estimand=estimand,
        value=float(of_one.value[0]),
        ci_low=float(of_one.low[0]) if told else None,
        ci_high=float(of_one.high[0]) if told else None,
        standard_error=error if told else None,
        n=int(of_one.documents[0]),
        clusters=clusters,
        strata=1,
        method=METHOD if told else "none",
        level=settings.level,
        draws=settings.draws,
        seed=settings.seed,
        notes=tuple(notes),
    )
    return Tested(estimate, float(of_one.p_value[0]) if told else None, null)


def ratio_of_means(above: FloatArray, below: FloatArray, cluster: IntArray) -> Jackknife:
    """Return the sum of `above` over the sum of `below`, over the documents where both are known.

    Args:
        above: (n_docs, n_columns).
        below: alike.
        cluster: (n_docs,) codes, 0 to n_clusters - 1.
    """
    known = np.isfinite(above) & np.isfinite(below)
    parts = (np.where(known, above, 0.0), np.where(known, below, 0.0), known.astype(np.float64))
    up, down, count = (sum_by_cluster(part, cluster) for part in parts)
    return left_out_ratio(up.sum(axis=0), down.sum(axis=0), up, down, count)


def mean_over_documents(values: FloatArray, cluster: IntArray) -> Jackknife:
    """Return the mean over the documents where it is known; `values` is (n_docs, n_columns)."""
    return ratio_of_means(values, np.ones(values.shape), cluster)


def left_out_ratio(
    above: FloatArray, below: FloatArray, without: FloatArray, without_below: FloatArray, count: FloatArray
) -> Jackknife:
    """Return above / below, and the same with each cluster's part taken away.

    Args:
        above: (n_columns,).
        below: alike.
        without: (n_clusters, n_columns) what of `above` goes with a cluster.
        without_below: what of `below` does.
        count: the cluster's documents that have a say.
    """
    left = below - without_below
    kept = left > _NOTHING * np.maximum(below, 1.0)
    ratios = np.divide(above - without, left, out=np.full(left.shape, np.inf), where=kept)
    value = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return Jackknife(value, np.where(count > 0, ratios, np.nan), count.sum(axis=0).astype(np.int64))


def sum_by_cluster(values: FloatArray, cluster: IntArray) -> FloatArray:
    """Sum rows by cluster.

    Args:
        values: (n_docs, n_columns).
        cluster: (n_docs,) codes, 0 to n_clusters - 1, each of which occurs.

    Returns:
        (n_clusters, n_columns).
    """
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[order], starts, axis=0))


def number(value: float) -> float | None:
    """Return a number as JSON has it, None for NaN."""
    return float(value) if np.isfinite(value) else None


def listed(values: FloatArray) -> list[float | None]:
    """Return numbers as JSON has them, None for NaN."""
    return [number(value) for value in values]


def _spread(found: Jackknife, clusters: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return influences (n_clusters, n_columns), standard errors and degrees of freedom (n_columns,)."""
    told = ~np.isinf(found.left_out).any(axis=0) & (clusters > 1)
    says = np.isfinite(found.left_out) & told
    many = np.maximum(clusters, 1)
    left_out = np.where(says, found.left_out, 0.0)
    mean = left_out.sum(axis=0) / many
    influence = np.where(says, (mean - left_out) * (many - 1) / many, 0.0)
    square, fourth = (influence**2).sum(axis=0), (influence**4).sum(axis=0)
    error = np.where(told, np.sqrt(square * many / np.maximum(many - 1, 1)), np.nan)
    seen = np.divide(fourth, square**2, out=np.ones(len(square)), where=square > _NOTHING**2) - 1 / many
    freedom = np.minimum(2 / np.maximum(seen, 1e-9), np.maximum(many - 1, 1))
    return influence, error, freedom


def _largest(influence: FloatArray, settings: Settings) -> FloatArray:
    """Return the largest size over columns of the influences' multiplied sums in standard deviations, (draws,).

    A single column's are the quantiles of the normal distribution, for which nothing need be drawn.
    """
    if influence.shape[1] == 1:
        return np.asarray(-ndtri((np.arange(settings.draws) + 0.5) / settings.draws / 2))
    scaled = influence / np.sqrt((influence**2).sum(axis=0))
    rng = np.random.default_rng([settings.seed, 2])
    chunks = chunk_sizes(settings.draws, len(scaled))
    return np.concatenate([np.abs(rng.standard_normal((size, len(scaled))) @ scaled).max(axis=1) for size in chunks])


def _log_odds(found: Jackknife) -> Jackknife:
    with np.errstate(divide="ignore"):
        value = logit(found.value)
        left_out = np.where(np.isinf(found.left_out), np.inf, logit(np.minimum(found.left_out, 1.0)))
    return Jackknife(value, left_out, found.documents)
