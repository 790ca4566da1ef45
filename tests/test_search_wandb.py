"""A recipe search logged to an offline W&B run is there when the run's file is read back."""

from __future__ import annotations

import json

from search_worlds import BASE, line, save, scores_of
from test_plateau_wandb import items, read_back

from lmms_plam.report.search import write
from lmms_plam.report.wandb_log import log_search
from lmms_plam.search.analyse import analyse
from lmms_plam.search.crossfit import Plan
from lmms_plam.search.result import SearchSettings
from lmms_plam.search.surface import Surface


def test_an_offline_run_holds_sweep_summary_surface_pictures_and_files(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    recipes = [BASE, *line((17, 18), steps=4)]
    folder = save(tmp_path / "plam_search_task", recipes, scores_of(recipes, 200))
    search = analyse(Surface.read(folder), SearchSettings(plan=Plan(halvings=10), draws=200))
    write(search, folder)
    with wandb.init(mode="offline", dir=str(tmp_path / "wandb"), project="plam") as run:
        log_search(run, search, folder)
    wandb.teardown()  # the run's file is whole when the service has ended
    records = read_back(tmp_path / "wandb")

    history = [items(record.history.item) for record in records if record.HasField("history")]
    sweep = [row for row in history if "plam_search_task/sweep/layer" in row]
    assert [row["plam_search_task/sweep/layer"] for row in sweep] == [17, 18]
    assert [row["plam_search_task/sweep/gain_unseen"] for row in sweep] == [one.unseen.gain for one in search.layers]
    steps = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert steps["plam_search_task/sweep/*"] == "plam_search_task/sweep/layer"

    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    assert summary["plam_search_task/gain_unseen"] == search.unseen.gain
    assert summary["plam_search_task/pick"] == search.pick
    assert "plam_search_task/gain" not in summary  # a searched maximum is no gain

    (table_file,) = (tmp_path / "wandb").rglob("surface_*.table.json")
    table = json.loads(table_file.read_text())
    assert "gain (tuned on this benchmark's own documents)" in table["columns"]
    assert [row[0] for row in table["data"]] == [one.name for one in recipes]
    assert len(list((tmp_path / "wandb").rglob("media/images/**/*.png"))) == 2

    artifacts = [
        record.request.log_artifact.artifact
        for record in records
        if record.HasField("request") and record.request.HasField("log_artifact")
    ] + [record.artifact for record in records if record.HasField("artifact")]
    (logged,) = (artifact for artifact in artifacts if artifact.type == "recipe-search")
    assert {"matrix.parquet", "recipes.json", "search.json", "recipe.yaml", "search.html"} <= {
        entry.path for entry in logged.manifest.contents
    }
