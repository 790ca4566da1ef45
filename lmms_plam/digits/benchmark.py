"""The benchmark: 1,001 fixed questions about 143 grids, and how lmms-eval shows and scores them.

`tasks/plam_digits.yaml` asks them about pictures, `tasks/plam_digits_text.yaml` about the grids written out. The
questions were drawn once, about images that training never saw, and lie beside those files, where lmms-eval reads them
without a hub; `python -m lmms_plam.digits.benchmark` writes the same file again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image

from lmms_plam.digits.grids import CELL_PIXELS, COLUMNS, Grid, Split, draw_grid, sample_grid
from lmms_plam.digits.questions import KINDS, Question, ask, write
from lmms_plam.paths import data_folder

GRIDS = 143
_SEED = 2601_07645


@cache
def quiz(split: Split) -> tuple[tuple[Grid, tuple[Question, ...]], ...]:
    """Return a split's fixed grids, each with one question of every kind."""
    rng = random.Random(f"{_SEED} {split}")
    grids = [sample_grid(split, rng) for _ in range(GRIDS)]
    return tuple((grid, tuple(ask(kind, grid.digits, rng) for kind in KINDS)) for grid in grids)


def documents() -> Iterator[dict[str, Any]]:
    """Yield the benchmark's documents, one for each question."""
    for number, (grid, questions) in enumerate(quiz("benchmark")):
        for question in questions:
            yield {
                "question_id": f"{number}/{question.kind}",
                "grid": number,
                "kind": question.kind,
                "question": question.text,
                "answer": question.answer,
                "digits": list(grid.digits),
                "images": list(grid.images),
                "boxes": [list(box(cell)) for cell in question.cells],
            }


def box(cell: int) -> tuple[int, int, int, int]:
    """Return where a cell lies in the picture: left, top, right and bottom in pixels."""
    row, column = divmod(cell, COLUMNS)
    left, top = column * CELL_PIXELS, row * CELL_PIXELS
    return left, top, left + CELL_PIXELS, top + CELL_PIXELS


def show_picture(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Return the picture of a document's grid (doc_to_visual of `plam_digits`)."""
    return [draw_grid(doc["images"])]


def ask_about_picture(doc: Mapping[str, Any]) -> str:
    """Return the bare question (doc_to_text of `plam_digits`)."""
    return str(doc["question"])


def ask_about_text(doc: Mapping[str, Any]) -> str:
    """Return the grid written out and the question (doc_to_text of `plam_digits_text`)."""
    return write(doc["digits"]) + str(doc["question"])


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score an answer by exact match, under `accuracy` and under its kind.

    The records name the grid, since seven questions share one: it is what to resample, and lmms-eval's clustered
    standard error reads it.
    """
    record = {
        "question_id": doc["question_id"],
        "grid": doc["grid"],
        "kind": doc["kind"],
        "score": float(results[0].strip() == doc["answer"]),
    }
    return {"accuracy": record, str(doc["kind"]): record}


def main() -> None:
    """Write the documents where the task files expect them."""
    path = data_folder("tasks") / "plam_digits.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents()), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
