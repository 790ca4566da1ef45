"""What candidates' probabilities are worth: ties as the sources count them, and the averages they take.

A tie counts as right where the right candidate is among the likeliest: the sources take the first of the largest, and
the right one stands first (BLiMP has seven pairs of equal sentences). Winoground's own scores want strictly more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def is_right(values: Sequence[float]) -> float:
    """Return 1 if the first value is among the largest, else 0."""
    return float(values[0] == max(values))


def is_tied(values: Sequence[float]) -> float:
    """Return 1 if the largest value is there more than once, else 0."""
    return float(list(values).count(max(values)) > 1)


def per_character(values: Sequence[float], completions: Sequence[str]) -> list[float]:
    """Return each log-probability over its completion's length in characters, as lm-evaluation-harness normalises."""
    return [value / len(completion) for value, completion in zip(values, completions, strict=True)]


def mutual_information(values: Sequence[float], alone: Sequence[float]) -> list[float]:
    """Return log P(completion | context, pictures) - log P(completion), in nats."""
    return [value - prior for value, prior in zip(values, alone, strict=True)]


def winoground_scores(values: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return Winoground's text, image and group score of an item (Thrush et al. 2022, section 3.3), 0 or 1 each.

    Args:
        values: by picture and caption; the n-th caption belongs to the n-th picture.
    """
    text = values[0][0] > values[0][1] and values[1][1] > values[1][0]
    image = values[0][0] > values[1][0] and values[1][1] > values[0][1]
    return {"text": float(text), "image": float(image), "group": float(text and image)}


def macro(records: Iterable[Mapping[str, Any]]) -> float:
    """Return the mean over parts of each part's mean score; nested where parts are `file/part`.

    That is over files, of each file's mean over its parts, as the BabyLM evaluation averages Entity Tracking.
    """
    parts: dict[str, list[float]] = {}
    for record in records:
        parts.setdefault(str(record["part"]), []).append(float(record["score"]))
    files: dict[str, list[float]] = {}
    for part, scores in parts.items():
        file = part.partition("/")[0]
        files.setdefault(file, []).append(sum(scores) / len(scores))
    return _mean([_mean(means) for means in files.values()])


def mean(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean score."""
    return _mean([float(record["score"]) for record in records])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
