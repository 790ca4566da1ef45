"""A probe logged to an offline W&B run is there when the run's file is read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_plateau import CUTS, documents, matrix_of, ramp

from lmms_plam.probes.record import CURVE, MATRIX, PLATEAU, Origin, analyse
from lmms_plam.report.curve import draw_curve
from lmms_plam.report.wandb_log import log_probe
from lmms_plam.scoring.examples import Example, telling_documents
from lmms_plam.stats.matrix import ScoreMatrix


@pytest.fixture
def probe(tmp_path):
    folder = tmp_path / "plam_probe_task"
    folder.mkdir()
    matrix = matrix_of(documents(ramp(8, 18), 300))
    matrix.answers[:] = np.where(matrix.scores == 1, "yes", "no")
    matrix.write(folder / MATRIX)
    found = analyse(folder / MATRIX, Origin("plam_probe_task", "abc"), draws=200)
    found.write(folder)
    draw_curve(found, folder)
    return found, folder


def read_back(folder):
    """Return the records of the one offline run under a folder."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.rglob("run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    records = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        records.append(record)
    return records


def items(update):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in update}


def test_an_offline_run_holds_chart_summary_table_and_files(probe, tmp_path, monkeypatch):
    import wandb

    found, folder = probe
    monkeypatch.setenv("WANDB_SILENT", "true")
    matrix = ScoreMatrix.read(folder / MATRIX)
    chosen = telling_documents(matrix, 3)
    examples = [Example(doc_id, f"question {doc_id}", "yes", Image.new("RGB", (8, 8))) for doc_id in chosen]
    with wandb.init(mode="offline", dir=str(tmp_path / "wandb"), project="plam") as run:
        log_probe(run, found, matrix, folder, examples)
    wandb.teardown()  # the run's file is whole when the service has ended
    records = read_back(tmp_path / "wandb")

    history = [items(record.history.item) for record in records if record.HasField("history")]
    curve = [row for row in history if "plam_probe_task/curve/layer" in row]
    assert [row["plam_probe_task/curve/layer"] for row in curve] == list(CUTS)
    np.testing.assert_allclose([row["plam_probe_task/curve/score"] for row in curve], found.curve.scores)
    metrics = {record.metric.name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert metrics["plam_probe_task/curve/score"] == "plam_probe_task/curve/layer"

    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    assert summary["plam_probe_task/onset"] == found.plateau.onset
    assert summary["plam_probe_task/verdict"] == "plateau"

    (table_file,) = (tmp_path / "wandb").rglob("answers_*.table.json")
    table = json.loads(table_file.read_text())
    assert table["columns"][:5] == ["doc_id", "image", "question", "target", "cut 0"]
    assert [row[2] for row in table["data"]] == [example.question for example in examples]
    assert all((row[3], row[4], row[-1]) == ("yes", "no", "yes") for row in table["data"])
    assert list((tmp_path / "wandb").rglob("picture_*.png"))

    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    artifacts += [
        record.request.log_artifact.artifact
        for record in records
        if record.HasField("request") and record.request.HasField("log_artifact")
    ]
    (logged,) = (artifact for artifact in artifacts if artifact.type == "masking-probe")
    names = {entry.path for entry in logged.manifest.contents}
    assert {MATRIX, CURVE, PLATEAU, "curve.png", "curve.svg"} <= names


def test_telling_documents_are_those_that_the_image_decides():
    scores = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
    assert telling_documents(matrix_of(scores, range(5)), 3) == [4, 0, 2]
    assert telling_documents(matrix_of(scores, range(5)), 1) == [4]
    assert telling_documents(matrix_of(scores[[1, 3]], range(5))) == []
