"""Comparisons' saved matrices: found, and joined into one of all their variants where they asked the same documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lmms_plam.errors import DataError
from lmms_plam.files import digest
from lmms_plam.probes.record import MATRIX, PLATEAU
from lmms_plam.runs.join import Joined
from lmms_plam.scoring.examples import Example
from lmms_plam.scoring.saved import RECORD, ComparisonRecord
from lmms_plam.search.record import RECIPES
from lmms_plam.stats.matrix import ScoreMatrix


@dataclass(frozen=True, slots=True)
class SavedComparison:
    """A folder with a comparison's matrix.

    Attributes:
        folder: where it lies.
        label: what tells it from others of its task.
        record: how it is measured.
    """

    folder: Path
    label: str
    record: ComparisonRecord


def find_saved(places: Sequence[Path]) -> list[SavedComparison]:
    """Find the comparisons' matrices in folders or below them.

    Each is labelled by the end of its folder's path that tells it from others of the same task, such as the model.

    Raises:
        DataError: a folder that holds none, and what it holds instead; or one twice.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        here = [path.parent for path in sorted(place.rglob(MATRIX)) if (path.parent / RECORD).is_file()]
        if not here:
            raise DataError(_say_what_is_there(place))
        for folder in here:
            if folder.resolve() in folders:
                raise DataError(f"{folder} is named twice")
            folders[folder.resolve()] = folder
    found = [SavedComparison(folder, "", ComparisonRecord.read(folder)) for folder in folders.values()]
    for one in found:
        if digest(one.folder / MATRIX) != one.record.data:
            raise DataError(f"{one.folder / RECORD} is about another matrix than the {MATRIX} beside it; compare again")
    labels = _tell_apart([path.parts for path in folders], [one.record.task for one in found])
    return [replace(one, label=label) for one, label in zip(found, labels, strict=True)]


def join_saved(
    saved: Sequence[SavedComparison], *, intersection: bool = False, apart: bool = False
) -> tuple[Joined, str]:
    """Join comparisons of one task: all their variants on the same documents.

    A variant that answered alike in all of them, as the untouched VLM does, is one; others of one name are called
    LABEL/NAME.

    Args:
        saved: the comparisons, of one task.
        intersection: take the documents that all were asked alike, instead of refusing different ones.
        apart: call every variant LABEL/NAME.

    Returns:
        The task, and the reference that the first of them names.

    Raises:
        DataError: tasks, metrics or documents differ, or a matrix can't be read.
    """
    first = saved[0].record
    for other in saved[1:]:
        if (other.record.of, other.record.measures) != (first.of, first.measures):
            raise DataError(f"{other.folder} measures {other.record.of} otherwise than {saved[0].folder} does")
    matrices = [ScoreMatrix.read(one.folder / MATRIX) for one in saved]
    doc_ids, left_out = _asked_alike(saved, matrices, intersection)
    matrices = [matrix.select(np.isin(matrix.doc_ids, doc_ids)) for matrix in matrices]
    joined = matrices[0]
    if any((other.clusters != joined.clusters).any() or (other.strata != joined.strata).any() for other in matrices):
        raise DataError(f"{first.task}: clusters or strata differ between the runs; run one of them again")
    names = _name_variants(saved, matrices, apart)
    columns = {
        name: (matrix, column) for matrix, own in zip(matrices, names, strict=True) for column, name in enumerate(own)
    }
    matrix = joined.with_variants(columns)
    notes = dict.fromkeys(note for one in saved for note in one.record.notes)
    if left_out:
        notes[f"{left_out} documents left out, which not all runs were asked alike"] = None
    asked = {int(doc_id): Example(int(doc_id), "") for doc_id in doc_ids}
    reference = names[0][matrices[0].column(first.reference)]
    return Joined(first.task, first.benchmark, matrix, asked, left_out, tuple(notes)), reference


def by_task(saved: Iterable[SavedComparison]) -> dict[str, list[SavedComparison]]:
    """Return comparisons by task."""
    tasks: dict[str, list[SavedComparison]] = {}
    for one in saved:
        tasks.setdefault(one.record.task, []).append(one)
    return tasks


def _asked_alike(
    saved: Sequence[SavedComparison], matrices: Sequence[ScoreMatrix], intersection: bool
) -> tuple[list[int], int]:
    """Return the documents that all were asked alike, and how many others there are; refuse them unless told not to."""
    asked: list[Mapping[int, str]] = [
        {doc_id: one.record.asked.get(doc_id, "") for doc_id in matrix.doc_ids.tolist()}
        for one, matrix in zip(saved, matrices, strict=True)
    ]
    everything = sorted(set().union(*asked))
    alike = [doc_id for doc_id in everything if len({own.get(doc_id) for own in asked}) == 1]
    task = saved[0].record.task
    if len(alike) < len(everything) and not intersection:
        raise DataError(
            f"{task}: {len(everything) - len(alike)} of {len(everything)} documents weren't asked alike in"
            f" {' and '.join(one.label for one in saved)}; --intersection compares the others"
        )
    if not alike:
        raise DataError(f"{task}: no document was asked alike in {' and '.join(one.label for one in saved)}")
    return alike, len(everything) - len(alike)


def _name_variants(saved: Sequence[SavedComparison], matrices: Sequence[ScoreMatrix], apart: bool) -> list[list[str]]:
    """Return each matrix's variants as they are called among all of them."""
    columns: dict[str, list[tuple[ScoreMatrix, int]]] = {}
    for matrix in matrices:
        for column, name in enumerate(matrix.variants):
            columns.setdefault(name, []).append((matrix, column))
    shared = {
        name
        for name, places in columns.items()
        if not apart
        and all(
            (matrix.scores[:, column] == places[0][0].scores[:, places[0][1]]).all()
            and (matrix.answers[:, column] == places[0][0].answers[:, places[0][1]]).all()
            and _cut_off(matrix, column) == _cut_off(places[0][0], places[0][1])  # by the same limit
            for matrix, column in places
        )
    }
    return [
        [name if name in shared else f"{one.label}/{name}" for name in matrix.variants]
        for one, matrix in zip(saved, matrices, strict=True)
    ]


def _cut_off(matrix: ScoreMatrix, column: int) -> list[str] | None:
    return None if matrix.formats is None else matrix.formats.cut_off[:, column].tolist()


def _tell_apart(paths: Sequence[tuple[str, ...]], tasks: Sequence[str]) -> list[str]:
    """Return for each comparison's path the shortest end that tells its model from others.

    A model is the folder above, as runs leave it, and shared by its tasks; the folder itself where two comparisons of
    one task lie side by side.
    """
    above = [path[:-1] for path in paths]
    side_by_side = {path for path, count in Counter(zip(above, tasks, strict=True)).items() if count > 1}
    models = [
        path if (folder, task) in side_by_side else folder
        for path, folder, task in zip(paths, above, tasks, strict=True)
    ]
    return [_shortest_end(model, set(models) - {model}) for model in models]


def _shortest_end(path: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    length = 1
    while length < len(path) and any(other[-length:] == path[-length:] for other in others):
        length += 1
    return "/".join(part for part in path[-length:] if part not in ("plam", "/"))


def _say_what_is_there(place: Path) -> str:
    matrices = sorted(place.rglob(MATRIX))
    if any((path.parent / PLATEAU).exists() for path in matrices):
        return f"{place} holds a masking probe's matrix and no comparison's: `plam plateau` reads it again"
    if any((path.parent / RECIPES).exists() for path in matrices):
        return (
            f"{place} holds a search's matrix and no comparison's: `plam search` reads it again, and says what a choice"
            " among its recipes is worth"
        )
    if matrices:
        return (
            f"{matrices[0].parent} has no {RECORD}: it is another study's matrix, or a comparison's and"
            " an earlier version wrote it, so run the comparison again"
        )
    return f"{place} holds no comparison's {MATRIX}"
