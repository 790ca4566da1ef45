"""A sweep over pairs of checkpoints: every score with its interval, and what the choice of the best one is worth.

Choosing a checkpoint and a recipe by their score is a search as any other, over pairs times recipes: the score of the
one that is best on some documents flatters it there. So it is cross-fitted (crossfit.py): chosen on some documents, and
scored on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmms_plam.search.crossfit import Plan, Rule, Unseen, always, cross_fit
from lmms_plam.search.pick import best
from lmms_plam.stats.bootstrap import bootstrap, interval
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric
from lmms_plam.stats.units import Units

UNTOUCHED = "untouched"
"""The recipe that leaves the VLM as it is."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of the joined matrix is.

    Attributes:
        vlm: the VLM's checkpoint.
        base_lm: the base LM's.
        recipe: how they are merged, or UNTOUCHED.
    """

    vlm: str
    base_lm: str
    recipe: str

    def __str__(self) -> str:
        """Say what it is; a pair and its recipe take two lines."""
        if self.recipe == UNTOUCHED:
            return f"{self.vlm}, {UNTOUCHED}"
        return f"{self.vlm} with\n{self.base_lm}, {self.recipe}"


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and its gain over the untouched VLM of the same pair, in the metric's unit.

    Attributes:
        column: of which.
        score: on all documents.
        low: lower end of its interval; None with one cluster.
        high: upper end.
        gain: score minus the untouched VLM's; None of that one itself.
        gain_low: lower end of its paired interval.
        gain_high: upper end.
    """

    column: Column
    score: float
    low: float | None
    high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The best of some columns.

    Attributes:
        column: best on all documents.
        tuned_here: its score on these: flattering.
        unseen: score of a column chosen on other documents than it is scored on; None with one cluster.
        gain: of that over the last VLM's checkpoint untouched, which nobody chose; None likewise.
    """

    column: Column
    tuned_here: float
    unseen: Unseen | None
    gain: Unseen | None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a sweep found on one benchmark.

    Attributes:
        task: the benchmark's comparison.
        estimand: what is measured.
        perfect: the metric where every document scores its best.
        level: of the intervals.
        documents: how many.
        clusters: resampling units.
        scored: all columns, in order.
        merged: the best merge, by checkpoints and recipe.
        untouched: the best untouched VLM, by checkpoint.
        merged_over_untouched: gain of the former over the latter, both chosen on other documents than those scored.
    """

    task: str
    estimand: str
    perfect: float
    level: float
    documents: int
    clusters: int
    scored: tuple[Scored, ...]
    merged: Choice
    untouched: Choice
    merged_over_untouched: Unseen | None


def analyse_checkpoints(
    task: str,
    matrix: ScoreMatrix,
    columns: Sequence[Column],
    metric: Metric,
    perfect: float,
    *,
    higher_is_better: bool = True,
    plan: Plan | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Checkpoints:
    """Score every pair and recipe, and say what choosing the best is worth.

    Args:
        task: the benchmark's comparison.
        matrix: documents x (pairs x recipes).
        columns: what its columns are; checkpoints in the order of the training, of ties the first is chosen. The last
            pair's VLM is what a choice is compared with.
        metric: the benchmark's own.
        perfect: its best value.
        higher_is_better: which way it points.
        plan: of the cross-fitting.
        draws: of the bootstrap.
        seed: of all random streams.
        level: of the intervals.
    """
    units, sign = Units.of(matrix, metric), 1.0 if higher_is_better else -1.0
    values = units.estimate()
    drawn = bootstrap(units, draws, np.random.default_rng([seed, 0]))
    untouched = np.array([place for place, one in enumerate(columns) if one.recipe == UNTOUCHED])
    merged = np.array([place for place, one in enumerate(columns) if one.recipe != UNTOUCHED])
    base = {(columns[place].vlm, columns[place].base_lm): int(place) for place in untouched}
    rules: dict[str, Rule] = {
        "merged": lambda found: best(sign * found, merged),
        "untouched": lambda found: best(sign * found, untouched),
        "last": always(int(untouched[-1])),
    }
    crossed = None
    if units.n_clusters > 1:
        crossed = cross_fit(units, rules, plan or Plan(), np.random.default_rng([seed, 2]), level)

    def choice(rule: str) -> Choice:
        place = int(rules[rule](values[None])[0])
        seen = crossed.score(rule) if crossed else None
        return Choice(columns[place], float(values[place]), seen, crossed.gain(rule, "last") if crossed else None)

    return Checkpoints(
        task=task,
        estimand=metric.estimand,
        perfect=perfect,
        level=level,
        documents=len(matrix.doc_ids),
        clusters=units.n_clusters,
        scored=tuple(
            _scored(one, place, base[one.vlm, one.base_lm], units, values, drawn, level)
            for place, one in enumerate(columns)
        ),
        merged=choice("merged"),
        untouched=choice("untouched"),
        merged_over_untouched=crossed.gain("merged", "untouched") if crossed else None,
    )


def _scored(
    column: Column, place: int, base: int, units: Units, values: FloatArray, drawn: FloatArray, level: float
) -> Scored:
    def within(contrast: FloatArray) -> tuple[float | None, float | None]:
        if units.n_clusters < 2:
            return None, None
        found = interval(drawn @ contrast, units, contrast, level)
        return found.low, found.high

    one = np.zeros(len(values))
    one[place] = 1.0
    low, high = within(one)
    if place == base:
        return Scored(column, float(values[place]), low, high, None, None, None)
    one[base] = -1.0
    return Scored(column, float(values[place]), low, high, float(values @ one), *within(one))
