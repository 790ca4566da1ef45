"""The benchmarks: fixed questions about grids of images that training never saw, and how lmms-eval scores them.

`tasks/plam_microworld.yaml` asks about pictures, `plam_microworld_text.yaml` about the same grids written out,
`plam_microworld_held_out.yaml` about other images that nothing was chosen on. The questions lie beside those files,
where lmms-eval reads them without a hub;
`python -m lmms_plam.microworld.benchmark` writes the same files again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from lmms_plam.microworld.grids import CELL_PIXELS, Grid, Split, draw_grid, sample_grid, write_grid
from lmms_plam.microworld.questions import KINDS, NARROW, Question, ask
from lmms_plam.paths import data_folder

Quiz = tuple[tuple[Grid, tuple[Question, ...]], ...]

_SEED = 2601_07645


def draw_quiz(split: Split, grids: int, kinds: Sequence[str] = tuple(KINDS), seed: str = "") -> Quiz:
    """Draw grids of a split's images, each with one question of every kind; the same seed draws the same."""
    rng = random.Random(f"{_SEED} {split} {seed}")
    drawn = [sample_grid(split, rng) for _ in range(grids)]
    return tuple((grid, tuple(ask(kind, grid, rng) for kind in kinds)) for grid in drawn)


QUIZZES: dict[str, Quiz] = {
    "plam_microworld": draw_quiz("benchmark", 100),
    "plam_microworld_held_out": draw_quiz("held_out", 100),
}
"""By task, its grids and their questions."""


def documents(quiz: Quiz) -> Iterator[dict[str, Any]]:
    """Yield a quiz's documents, one for each question."""
    for number, (grid, questions) in enumerate(quiz):
        for question in questions:
            yield {
                "question_id": f"{number}/{question.kind}",
                "grid": number,
                "kind": question.kind,
                "group": "trained" if question.kind in NARROW else "unseen",
                "question": question.text,
                "answer": question.answer,
                "digits": list(grid.digits),
                "images": list(grid.images),
                "boxes": [list(box(cell)) for cell in sorted(set(question.cells))],
            }


def box(cell: int) -> tuple[int, int, int, int]:
    """Return where a cell lies in the picture: left, top, right and bottom in pixels."""
    return cell * CELL_PIXELS, 0, (cell + 1) * CELL_PIXELS, CELL_PIXELS


def show_picture(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Return the picture of a document's grid."""
    return [draw_grid(doc["images"])]


def ask_about_picture(doc: Mapping[str, Any]) -> str:
    """Return the question, and for some kinds the list before it."""
    return str(doc["question"])


def ask_about_text(doc: Mapping[str, Any]) -> str:
    """Return the grid written out and the question."""
    return write_grid(doc["digits"]) + ask_about_picture(doc)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score an answer by exact match, under `accuracy`, `trained` or `unseen`, and its kind.

    The records name the grid, which several questions share: it is what to resample, and lmms-eval's clustered
    standard error reads it.
    """
    record = {
        "question_id": doc["question_id"],
        "grid": doc["grid"],
        "group": doc["group"],
        "kind": doc["kind"],
        "score": float(results[0].strip() == doc["answer"]),
    }
    return {"accuracy": record, str(doc["group"]): record, str(doc["kind"]): record}


def main() -> None:
    """Write the documents where the task files expect them."""
    for task, quiz in QUIZZES.items():
        path = data_folder("tasks") / f"{task}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents(quiz)), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
