"""A masking probe in Weights & Biases: the curve as a chart over layers, the onset in the summary, table, artifact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmms_plam.probes.record import Probe
from lmms_plam.stats.matrix import ScoreMatrix


@dataclass(frozen=True, slots=True)
class Example:
    """What a document of the table shows beside its answers; the image is a PIL image, or None."""

    doc_id: int
    question: str
    image: Any = None


def log_probe(run: Any, probe: Probe, matrix: ScoreMatrix, folder: Path, examples: Sequence[Example] = ()) -> None:
    """Log a probe to a W&B run that is under way, online or offline.

    It logs score, band and fit with the layer as their step (`TASK/curve/...`), the onset and what belongs to it in the
    summary (`TASK/onset`), a table of the examples with each cut's answer (`TASK/answers`), and the folder's files as
    an artifact of type `masking-probe`.

    Args:
        run: `wandb.run`.
        probe: what was found.
        matrix: the scores and answers that it was found in.
        folder: holds matrix, curve, plateau and pictures.
        examples: documents of the table; `telling_documents` chooses them.
    """
    import wandb

    task = probe.origin.task
    step = f"{task}/curve/layer"
    run.define_metric(step, hidden=True)
    for name in ("score", "low", "high", "fit"):
        run.define_metric(f"{task}/curve/{name}", step_metric=step)
    for point in probe.plateau.points:
        values = {"score": point.score, "low": point.low, "high": point.high, "fit": point.fit}
        run.log({step: point.cut, **{f"{task}/curve/{name}": value for name, value in values.items()}})

    record = probe.to_dict()
    for name in ("onset", "interval", "verdict", "reason", "rise", "rise_error", "full"):
        run.summary[f"{task}/{name}"] = record[name]
    if examples:
        run.log({f"{task}/answers": _answers(wandb, matrix, examples)})

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", task), type="masking-probe", metadata=record)
    artifact.add_dir(str(folder))
    run.log_artifact(artifact)


def telling_documents(matrix: ScoreMatrix, count: int = 16) -> list[int]:
    """Return the ids of documents that the image decides: wrong when hidden everywhere, right when seen by all layers.

    They are spread evenly over the cut from which on the answer stays right.
    """
    scores = matrix.scores[:, np.argsort([int(name) for name in matrix.variants])]
    decided = np.flatnonzero(scores[:, 0] < scores[:, -1])
    stays = (scores[decided, ::-1] == scores[decided, -1:]).cumprod(axis=1).sum(axis=1)  # cuts at the end that agree
    order = decided[np.argsort(-stays, kind="stable")]
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    return [int(doc_id) for doc_id in matrix.doc_ids[chosen]]


def _answers(wandb: Any, matrix: ScoreMatrix, examples: Sequence[Example]) -> Any:
    cuts = sorted(matrix.variants, key=int)
    columns = [matrix.column(cut) for cut in cuts]
    row_of = {int(doc_id): row for row, doc_id in enumerate(matrix.doc_ids)}
    table = wandb.Table(columns=["doc_id", "image", "question", *(f"cut {cut}" for cut in cuts)])
    for example in examples:
        image = None if example.image is None else wandb.Image(example.image)
        table.add_data(example.doc_id, image, example.question, *matrix.answers[row_of[example.doc_id], columns])
    return table
