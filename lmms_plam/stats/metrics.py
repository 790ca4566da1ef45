"""The benchmarks' own metrics, each a ratio estimator: credits over weights, summed by cluster, pooled over strata.

A metric turns a score matrix into two arrays of shape (n_docs, n_variants), a credit and a weight for each document.
Inside a stratum the value is sum(credit) / sum(weight); `pooling` says how strata combine. Every benchmark of the
papers fits: an accuracy is 0/1 credits over ones, an MME total credits pairs, F1 is 2 TP over 2 TP + FP + FN. To add a
metric, write one function and register it:

    @register("rare_words", estimand="accuracy, each question weighted by its rarity")
    def rare_words(matrix):
        weight = matrix.columns["rarity"].astype(float)[:, None]
        return matrix.scores * weight, np.broadcast_to(weight, matrix.scores.shape)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmms_plam.errors import DataError, did_you_mean
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix, TextArray

Pooling = Literal["all", "mean", "sum"]
Credit = Callable[[ScoreMatrix], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Metric:
    """An estimand of a score matrix.

    Attributes:
        name: its name in the registry.
        estimand: what it estimates, in words.
        credit: gives credits and weights, each (n_docs, n_variants). A credit that belongs to a group of documents (a
            pair, a circular group) sits on the group's first document, with weight 0 on the others.
        pooling: `all` ignores strata: sum of credits over sum of weights; `mean` and `sum` take the strata's own
            ratios, each stratum alike.
        scale: factor on the result, 100 where the harness reports percent.
    """

    name: str
    estimand: str
    credit: Credit
    pooling: Pooling = "all"
    scale: float = 1.0


METRICS: dict[str, Metric] = {}
"""The registered metrics by name."""


def register(name: str, *, estimand: str, pooling: Pooling = "all", scale: float = 1.0) -> Callable[[Credit], Credit]:
    """Register a credit function as a metric; see the module's example."""

    def add(credit: Credit) -> Credit:
        METRICS[name] = Metric(name, estimand, credit, pooling, scale)
        return credit

    return add


def find_metric(name: str) -> Metric:
    """Return a registered metric.

    Raises:
        DataError: there is none of that name.
    """
    if name not in METRICS:
        raise DataError(f"no metric '{name}'.{did_you_mean(name, METRICS)} Registered: {', '.join(sorted(METRICS))}")
    return METRICS[name]


@register("mean", estimand="mean score over documents")
@register("percent", estimand="mean score over documents, in percent", scale=100)
@register("macro", estimand="unweighted mean over strata of the mean score in each", pooling="mean")
def mean(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit each document with its score."""
    return matrix.scores, np.ones_like(matrix.scores)


@register("macro_of_files", estimand="mean over files (`file/part`) of the mean over a file's strata", pooling="mean")
def file_mean(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit each document with its score, scaled so that the mean over all strata is the mean over files' means."""
    strata, code = np.unique(matrix.strata, return_inverse=True)
    files, file_of = np.unique([stratum.partition("/")[0] for stratum in strata], return_inverse=True)
    scale = len(strata) / (len(files) * np.bincount(file_of)[file_of])
    return matrix.scores * scale[code][:, None], np.ones_like(matrix.scores)


@register("winoground_text", estimand="share of items whose two pictures each have the likelier caption of their own")
def winoground_text(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit an item whose answer says `text`."""
    return _says(matrix, "text")


@register("winoground_image", estimand="share of items whose two captions are each likelier with their own picture")
def winoground_image(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit an item whose answer says `image`."""
    return _says(matrix, "image")


@register("winoground_group", estimand="share of items that are right in text and image score")
def winoground_group(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit an item whose answer says both."""
    text, ones = _says(matrix, "text")
    return text * _says(matrix, "image")[0], ones


@register("mme", estimand="sum over categories of the mean over image pairs of accuracy + accuracy+", pooling="sum")
def pairs(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a pair (cluster) of yes/no questions with 0, 50 or 200: percent right, and 100 more if both are."""
    share = _group_mean(matrix, matrix.clusters)
    return _on_first(100 * share + 100 * (share == 1), matrix.clusters)


@register("all_right", estimand="share of clusters whose every document is right, in percent", scale=100)
def all_right(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a cluster with 1 if all its documents are right (MMBench's CircularEval)."""
    return _on_first(_group_mean(matrix, matrix.clusters) == 1, matrix.clusters)


@register("question_right", estimand="share of questions right on every figure (qAcc), in percent", scale=100)
def question_right(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a question with 1 if it is right on all figures of its set; column `question` names it."""
    questions = matrix.columns["question"]
    return _on_first(_group_mean(matrix, questions) == 1, questions)


@register("figure_right", estimand="share of figures with every question right (fAcc), in percent", scale=100)
def figure_right(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a figure with 1 if all its questions are right; column `figure` names it, empty for no figure."""
    figures = matrix.columns["figure"]
    credit, weight = _on_first(_group_mean(matrix, figures) == 1, figures)
    shown = (figures != "")[:, None]
    return credit * shown, weight * shown


@register("yes_precision", estimand="true positives over all answers 'yes'")
def yes_precision(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a true positive; weigh every document that was answered 'yes'."""
    true_positive, false_positive, _ = _confusion(matrix)
    return true_positive, true_positive + false_positive


@register("yes_recall", estimand="true positives over true positives and answers 'no' where 'yes' is right")
def yes_recall(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """Credit a true positive; answers other than yes and no have no weight (as POPE is scored upstream)."""
    true_positive, _, false_negative = _confusion(matrix)
    return true_positive, true_positive + false_negative


@register("yes_f1", estimand="harmonic mean of yes_precision and yes_recall")
def yes_f1(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray]:
    """F1 = 2 TP / (2 TP + FP + FN)."""
    true_positive, false_positive, false_negative = _confusion(matrix)
    return 2 * true_positive, 2 * true_positive + false_positive + false_negative


def _says(matrix: ScoreMatrix, word: str) -> tuple[FloatArray, FloatArray]:
    """Credit documents among whose answer's words this one is."""
    said = [[word in answer.split() for answer in row] for row in matrix.answers.tolist()]
    return np.array(said, dtype=float), np.ones_like(matrix.scores)


def _confusion(matrix: ScoreMatrix) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return true positives, false positives and false negatives, (n_docs, n_variants) of 0 and 1."""
    yes, no, right = matrix.answers == "yes", matrix.answers == "no", matrix.scores == 1
    return (yes & right).astype(float), (yes & ~right).astype(float), (no & ~right).astype(float)


def _group_mean(matrix: ScoreMatrix, groups: TextArray) -> FloatArray:
    """Return, for every document, the mean score of its group, (n_docs, n_variants)."""
    _, code = np.unique(groups, return_inverse=True)
    size = np.bincount(code)
    means = np.stack([np.bincount(code, weights=column) / size for column in matrix.scores.T], axis=1)
    return np.asarray(means[code], dtype=np.float64)


def _on_first(values: FloatArray, groups: TextArray) -> tuple[FloatArray, FloatArray]:
    """Keep a group's value on its first document, with weight 1 there and 0 elsewhere."""
    weight = np.zeros(values.shape)
    weight[np.unique(groups, return_index=True)[1]] = 1.0
    return values * weight, weight
