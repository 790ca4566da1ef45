"""What early hiding, windows and headroom log to Weights & Biases, in an offline run read back."""

from __future__ import annotations

import json

import pytest
from family_folders import of_model
from test_harness_runs import evaluate
from test_plateau_wandb import items, read_back

TASKS = ("plam_early_digits", "plam_window_digits", "plam_headroom_digits")


def test_an_offline_run_holds_curves_numbers_findings_picture_and_files(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path / "wandb"), project="plam"):
        evaluate("plam", "config=digits,probe.cuts=0 3 6 9", list(TASKS), output=tmp_path / "runs", limit=21)
    wandb.teardown()  # the run's file is whole when the service has ended
    records = read_back(tmp_path / "wandb")
    summary: dict[str, object] = {}
    rows = []
    logged: dict[str, set[str]] = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
        if record.HasField("history"):
            rows.append(items(record.history.item))
        for artifact in (record.artifact, record.request.log_artifact.artifact):
            logged.setdefault(artifact.name, set()).update(entry.path for entry in artifact.manifest.contents)
    for task in TASKS:
        folder = of_model(tmp_path / "runs") / task
        known = json.loads((folder / "visibility.json").read_text())
        assert list(summary[f"{task}/findings"]) == known["findings"]
        assert summary[f"{task}/full"] == known["full"]
        assert logged[task] == {path.name for path in folder.iterdir()} >= {"visibility.png", "visibility.html"}
        for kind, contrasts in known["contrasts"].items():
            name = f"{task}/{kind}/difference"
            curve = [row[name] for row in rows if name in row]
            assert curve == pytest.approx([one["difference"] for one in contrasts])
    assert list((tmp_path / "wandb").rglob("picture_*.png"))
