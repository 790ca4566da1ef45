"""Of two documents of which one scores higher, which has more attention? The probability that both orders agree.

The estimand is Harrell's c: over all pairs of documents whose scores differ, the probability that the one with the
higher score has more attention, ties in attention counted half. For scores that are right or wrong it is the area
under the ROC curve (Mann and Whitney); twice it minus 1 is Somers' D, the form of Kendall's tau that leaves out pairs
of equal scores. One half means that attention tells nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from lmms_plam.attention.jackknife import Jackknife, left_out_ratio, sum_by_cluster
from lmms_plam.stats.matrix import FloatArray, IntArray


def order_agreement(attention: FloatArray, score: FloatArray, cluster: IntArray) -> Jackknife:
    """Return the probability that the orders agree, by column, and what it is without one cluster.

    Args:
        attention: (n_docs, n_columns); documents where it is NaN are left out of their column.
        score: (n_docs,) finite.
        cluster: (n_docs,) codes, 0 to n_clusters - 1.
    """
    shape = (int(cluster.max()) + 1, attention.shape[1])
    total, without, count = np.zeros((2, shape[1])), np.zeros((2, *shape)), np.zeros(shape)
    patterns, pattern = np.unique(np.isfinite(attention), axis=1, return_inverse=True)
    for place, known in enumerate(patterns.T):
        if not known.any():
            continue
        columns = np.flatnonzero(pattern.ravel() == place)
        part, own = attention[np.ix_(known, columns)], score[known]
        names, code = np.unique(cluster[known], return_inverse=True)
        count[np.ix_(names, columns)] = np.bincount(code)[:, None]
        each = _agreeing(part, own), np.broadcast_to(_ordered(own)[:, None], part.shape)
        within = _within_clusters(part, own, code)
        for row, pairs in enumerate(each):  # pairs whose orders agree, then all that have an order
            total[row, columns] = pairs.sum(axis=0) / 2
            without[row][np.ix_(names, columns)] = sum_by_cluster(pairs, code) - within[row]
    return left_out_ratio(total[0], total[1], without[0], without[1], count)


def _agreeing(attention: FloatArray, score: FloatArray) -> FloatArray:
    """Return with how many others each document's orders agree, ties in attention counted half, (n_docs, n_columns).

    Documents are split into a lower and a higher half by score, and these again: what agrees across a split is told by
    ranks among both halves and among one's own.
    """
    levels = np.unique(score)
    agreeing = np.zeros(attention.shape)
    if len(levels) < 2:
        return agreeing
    high = score >= levels[len(levels) // 2]
    overall = rankdata(attention, axis=0)
    for half, sign, others in ((high, 1.0, 0), (~high, -1.0, int(high.sum()))):
        beneath = overall[half] - rankdata(attention[half], axis=0)  # others that have less attention
        agreeing[half] = others + sign * beneath + _agreeing(attention[half], score[half])
    return agreeing


def _ordered(score: FloatArray) -> FloatArray:
    """Return from how many others each document's score differs, (n_docs,)."""
    _, level, size = np.unique(score, return_inverse=True, return_counts=True)
    return np.asarray(len(score) - size[level], dtype=np.float64)


def _within_clusters(attention: FloatArray, score: FloatArray, cluster: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the agreeing pairs within each cluster, and those that have an order, (n_clusters, n_columns)."""
    order = np.argsort(cluster, kind="stable")
    attention, score, cluster = attention[order], score[order], cluster[order]
    agree, ordered = np.zeros((2, int(cluster[-1]) + 1, attention.shape[1]))
    for step in range(1, int(np.bincount(cluster).max())):
        first = np.flatnonzero((cluster[step:] == cluster[:-step]) & (score[step:] != score[:-step]))
        apart = np.sign(score[first + step] - score[first])[:, None] * (attention[first + step] - attention[first])
        np.add.at(agree, cluster[first], (1 + np.sign(apart)) / 2)
        np.add.at(ordered, cluster[first], 1.0)
    return agree, ordered
