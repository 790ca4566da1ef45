"""What an attention probe logs to Weights & Biases, in an offline run read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from family_folders import of_model
from PIL import Image
from test_harness_runs import evaluate
from test_plateau_wandb import items, read_back

from lmms_plam.attention.record import RECORD, AttentionRecord
from lmms_plam.attention.shown import SHOWN, read_shown
from lmms_plam.report.overlays import SIDE

TASK = "plam_attention_digits"


def test_an_offline_run_holds_curves_maps_numbers_findings_and_files(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path / "wandb"), project="plam"):
        evaluate("plam", "config=digits", [TASK], output=tmp_path / "runs", limit=42)
    wandb.teardown()  # the run's file is whole when the service has ended
    records = read_back(tmp_path / "wandb")
    folder = of_model(tmp_path / "runs") / TASK
    record, known = AttentionRecord.read(folder / RECORD), json.loads((folder / "attention.json").read_text())

    rows = [items(one.history.item) for one in records if one.HasField("history")]
    step = f"{TASK}/attention/layer"
    curve = [row for row in rows if step in row]
    assert [row[step] for row in curve] == record.layers.tolist()
    metrics = {one.metric.glob_name: one.metric.step_metric for one in records if one.HasField("metric")}
    assert metrics[f"{TASK}/attention/*"] == step
    for variant in ("base", "merged"):
        drawn = [row[f"{TASK}/attention/ins/mass/{variant}"] for row in curve]
        np.testing.assert_allclose(drawn, record.of("mass", variant, "ins").mean(axis=0), rtol=1e-9)
    for grown in known["growth"]:
        for name in ("value", "low", "high"):
            key = f"{TASK}/attention/{grown['queries']}/{grown['measure']}/{grown['variant']}"
            key += "/difference" if name == "value" else f"/{name}"
            logged = [row.get(key) for row in curve]
            assert logged == pytest.approx(grown["difference"][name])

    summary = {}
    for one in records:
        if one.HasField("summary"):
            summary |= items(one.summary.update)
    assert list(summary[f"{TASK}/findings"]) == known["findings"]
    for name, value in known["headline"]["merged"].items():
        if name != "variant":
            assert summary[f"{TASK}/merged/{name}"] == value

    logged = {name: value for row in rows for name, value in row.items() if name.startswith(f"{TASK}/maps/")}
    shown = read_shown(folder)
    assert shown
    for one in shown:
        assert logged[f"{TASK}/maps/{one.doc_id}.caption"] == f"{one.change}: {one.question}"
        (path,) = (tmp_path / "wandb").rglob(logged[f"{TASK}/maps/{one.doc_id}.path"])
        assert Image.open(path).width > 4 * SIDE
        assert Image.open(path).height > 2 * SIDE * one.image.height / one.image.width  # two layers
    assert list((tmp_path / "wandb").rglob("mass_*.png"))

    artifacts = [artifact for one in records for artifact in (one.artifact, one.request.log_artifact.artifact)]
    (files,) = ({entry.path for entry in one.manifest.contents} for one in artifacts if one.type == "attention")
    assert files == {path.name for path in folder.iterdir()} >= {RECORD, SHOWN, "attention.html", "mass.svg"}
