"""The surface that a search measured: each recipe's score and gain on the documents that it was asked on.

Racing leaves cells of the matrix empty. In them stand the scores of what a recipe is compared with, so that such a
document adds nothing to its paired difference: a statistic in units of its own standard error (max-T) is then, up to
the strata, that of the documents asked. Scores and gains are never read off such cells: they are of the documents
asked, and only recipes asked on all documents are candidates for the pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lmms_plam.errors import DataError, about
from lmms_plam.files import digest
from lmms_plam.search.record import Recipe, SearchRecord, sought_kind
from lmms_plam.stats.matrix import BoolArray, FloatArray, IntArray, ScoreMatrix
from lmms_plam.stats.metrics import Metric, find_metric
from lmms_plam.stats.units import Units, perfect_value

MATRIX = "matrix.parquet"


@dataclass(frozen=True, eq=False)
class Surface:
    """A record and its matrix, joined.

    Attributes:
        record: what was asked.
        matrix: scores; its variants are the record's recipes, in that order. Cells not asked hold the base's.
        asked: (n_docs, n_recipes) which cells were asked, by whole clusters.
        n_asked: (n_recipes,) documents that each recipe was asked on.
    """

    record: SearchRecord
    matrix: ScoreMatrix
    asked: BoolArray
    n_asked: IntArray

    @classmethod
    def read(cls, folder: Path, record: SearchRecord | None = None) -> Surface:
        """Read a search's folder.

        Args:
            folder: holds `recipes.json` and `matrix.parquet`.
            record: what to read instead of `recipes.json`: a smaller space within it.

        Raises:
            DataError: a damaged file, or a matrix that is another's than the record's.
        """
        record = record or SearchRecord.read(folder)
        path = folder / MATRIX
        matrix, asked = ScoreMatrix.read_partial(path, record.base.name)
        if record.matrix is not None and record.matrix != digest(path):
            raise DataError(
                f"{folder}: recipes.json is of another matrix: its fingerprint is {record.matrix[:12]}..., and that of"
                f" {path.name} is {digest(path)[:12]}...; run the search again"
            )
        with about(str(folder)):
            return cls.of(record, matrix, asked)

    @classmethod
    def of(cls, record: SearchRecord, matrix: ScoreMatrix, asked: BoolArray | None = None) -> Surface:
        """Join a record with its matrix.

        Args:
            record: what was asked.
            matrix: scores of at least the record's recipes, in any order; in cells not asked those of the base.
            asked: (n_docs, n_variants) which cells were asked; None for all.

        Raises:
            DataError: a recipe is missing, or lacks documents without having been dropped.
        """
        columns = [matrix.column(recipe.name) for recipe in record.recipes]
        matrix = matrix.take(columns)
        asked = np.ones(matrix.scores.shape, dtype=np.bool_) if asked is None else asked[:, columns]
        n_asked = asked.sum(axis=0)
        for recipe, count in zip(record.recipes, n_asked, strict=True):
            if recipe.dropped_after is None and count < len(asked):
                raise DataError(
                    f"'{recipe.name}' was asked on {count:,} of {len(asked):,} documents, and nothing says that it was"
                    " dropped: let the search end, or run it again"
                )
            if recipe.dropped_after is not None and count > recipe.dropped_after:
                raise DataError(
                    f"'{recipe.name}' was dropped after {recipe.dropped_after:,} documents, and was asked on {count:,}"
                )
        _, cluster = np.unique(matrix.clusters, return_inverse=True)
        size = np.bincount(cluster)
        whole = np.stack([np.bincount(cluster, weights=column) == size for column in asked.T], axis=1)[cluster]
        base = matrix.column(record.base.name)
        filled = replace(
            matrix,
            scores=np.where(whole, matrix.scores, matrix.scores[:, [base]]),
            answers=np.where(whole, matrix.answers, matrix.answers[:, [base]]),
        )
        return cls(record, filled, whole, n_asked)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes, in the order of the columns."""
        return self.record.recipes

    @cached_property
    def metric(self) -> Metric:
        """The benchmark's own; turned over where lower is better, so that here higher always is."""
        return upwards(find_metric(self.record.metric), self.record.higher_is_better)

    @cached_property
    def base(self) -> int:
        """Column of the untouched VLM."""
        return self.matrix.column(self.record.base.name)

    @cached_property
    def complete(self) -> BoolArray:
        """(n_recipes,) which recipes were asked on all documents, and so can be picked."""
        kept = np.array([recipe.dropped_after is None for recipe in self.recipes])
        return np.asarray(self.asked.all(axis=0) & kept)

    def columns(self, kind: str, complete: bool = True) -> IntArray:
        """Return the columns of a kind of recipe: of those asked on all documents, or of all."""
        return np.array(
            [
                column
                for column, recipe in enumerate(self.recipes)
                if recipe.kind == kind and (self.complete[column] or not complete)
            ],
            dtype=np.int64,
        )

    @cached_property
    def units(self) -> Units:
        """The metric's totals by cluster; of recipes not asked on all documents, differences to the base alone."""
        return Units.of(self.matrix, self.metric)

    @cached_property
    def perfect(self) -> float:
        """The metric where every document scores its best."""
        metric = find_metric(self.record.metric)
        return perfect_value(self.matrix.take([self.base]), metric, self.record.perfect_answer)

    @cached_property
    def points(self) -> float:
        """Factor that turns the metric into points, hundredths of its perfect value."""
        return 100 / self.perfect

    @cached_property
    def scores(self) -> FloatArray:
        """(n_recipes,) each recipe's score on the documents that it was asked on; NaN without a whole cluster."""
        return self._on_documents_asked[0] * (1.0 if self.record.higher_is_better else -1.0)

    @cached_property
    def gains(self) -> FloatArray:
        """(n_recipes,) by how much its score is better than the base's on the same documents."""
        return self._on_documents_asked[1]

    @cached_property
    def _on_documents_asked(self) -> tuple[FloatArray, FloatArray]:
        scores = self.units.estimate()
        gains = scores - scores[self.base]
        for column in np.flatnonzero(~self.complete):
            there = self.asked[:, column]
            if not there.any():
                scores[column] = gains[column] = np.nan
                continue
            found = Units.of(self.matrix.select(there).take([self.base, int(column)]), self.metric).estimate()
            scores[column], gains[column] = found[1], found[1] - found[0]
        return scores, gains

    def against(self, references: IntArray) -> Units:
        """Return the totals with each recipe's unasked documents taken from what it is compared with.

        Args:
            references: (n_recipes,) column that each recipe is compared with, its own for none.
        """
        there = self.asked & self.asked[:, references]
        return Units.of(
            replace(
                self.matrix,
                scores=np.where(there, self.matrix.scores, self.matrix.scores[:, references]),
                answers=np.where(there, self.matrix.answers, self.matrix.answers[:, references]),
            ),
            self.metric,
        )

    def controls(self) -> IntArray:
        """Return the column of each merge's control, (n_recipes,); a recipe's own column where there is none.

        The control of a merge is the VLM scaled by the sum of its coefficients in the same layers and modules; where
        that changes nothing, the untouched VLM.
        """
        scaled = {(one.plane, one.start_layer, one.total): column for column, one in self._merging("scaled")}
        found = np.arange(len(self.recipes))
        for column, recipe in self._merging("merge"):
            key = (recipe.plane, recipe.start_layer, recipe.total)
            found[column] = self.base if recipe.control_is_base else scaled.get(key, column)
        return found

    def _merging(self, kind: str) -> list[tuple[int, Recipe]]:
        return [(column, recipe) for column, recipe in enumerate(self.recipes) if recipe.kind == kind]


def save(folder: Path, record: SearchRecord, matrix: ScoreMatrix, asked: BoolArray | None = None) -> None:
    """Write `matrix.parquet`, and last `recipes.json` with the matrix's fingerprint.

    Args:
        folder: where they go; made if missing.
        record: what was asked.
        matrix: scores of the record's recipes.
        asked: (n_docs, n_variants) which cells were asked; None for all.
    """
    matrix.write(folder / MATRIX, asked)
    record.model_copy(update={"matrix": digest(folder / MATRIX)}).write(folder)


def upwards(metric: Metric, higher_is_better: bool) -> Metric:
    """Return a metric of which higher is better."""
    return metric if higher_is_better else replace(metric, scale=-metric.scale)


def neighbours(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return each recipe's neighbours on the lattice of start layer and coefficients, among what is picked from.

    Neighbours agree in every other field, and are one step apart in the start layer with equal coefficients, or at one
    start layer at most one step apart in each coefficient (so that recipes along a line of constant sum are
    neighbours). A step leads to the next value that the recipes with these other fields have.
    """
    planes: dict[tuple[str, ...], list[int]] = {}
    sought = sought_kind(recipes)
    for place, recipe in enumerate(recipes):
        if recipe.kind == sought:
            planes.setdefault(recipe.plane, []).append(place)
    found: list[list[int]] = [[] for _ in recipes]
    for places in planes.values():
        values = np.array([(recipes[place].start_layer, *recipes[place].coefficients) for place in places])
        ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)
        steps = np.abs(ranks[:, None] - ranks[None])
        layer, lm, vlm = steps[..., 0], steps[..., 1], steps[..., 2]
        sideways = (layer == 0) & (np.maximum(lm, vlm) == 1)
        near = sideways | ((layer == 1) & (lm == 0) & (vlm == 0))
        for place, row in zip(places, near, strict=True):
            found[place] = [places[other] for other in np.flatnonzero(row)]
    return found
