"""What a comparison shows of the documents that change: on its page, and in an offline W&B run read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from family_folders import of_model
from PIL import Image
from test_harness_runs import evaluate
from test_plateau_wandb import items, read_back

from lmms_plam.report.changes import changes_to_html
from lmms_plam.report.pictures import picture
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.examples import Example
from lmms_plam.stats.matrix import ScoreMatrix

TASK = "plam_compare_digits"


def matrix_of(**scores):
    return ScoreMatrix.from_rows(
        {"doc_id": doc, "variant": name, "score": score, "answer": f"<{name} {doc}>"}
        for name, column in scores.items()
        for doc, score in enumerate(column)
    )


def shown(doc_ids):
    return [Example(doc_id, "a < b?", "yes & no", Image.new("LA", (900, 30))) for doc_id in doc_ids]


def test_changes_are_found_counted_and_shown_from_both_directions():
    rng = np.random.default_rng(0)
    base, merged = rng.integers(0, 2, (2, 200))
    matrix = matrix_of(base=base, merged=merged, same=base)
    changes = Changes.of("mine", matrix, "base", shown)
    assert {change.doc_id for change in changes.all} == set(np.flatnonzero(base != merged).tolist())
    won, lost = int((merged > base).sum()), int((merged < base).sum())
    assert changes.counts() == [f"merged scores higher on {won} documents and lower on {lost}"]
    ways = [change.way for change in changes.shown]
    assert ways.count("higher") == ways.count("lower") == 8
    page = changes_to_html(changes)
    assert page.count("data:image/jpeg;base64,") == 16
    assert f"16 of these {len(changes.all)} changes are shown" in page
    assert "a &lt; b?" in page
    assert "yes &amp; no" in page
    assert "&lt;merged " in page
    assert "<li>none</li>" in changes_to_html(Changes.of("mine", matrix_of(base=base, same=base), "base", shown))


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "L", "I;16"])
def test_any_image_becomes_one_that_every_format_holds(mode):
    shown = picture(Image.new(mode, (4000, 1000)))
    assert (shown.mode, shown.size) == ("RGB", (800, 200))


@pytest.fixture
def comparison(tmp_path, monkeypatch, request):
    """A comparison of two recipes that do harm, run by the harness inside an offline W&B run."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    model = "config=digits,merge.start_layer=0,recipes.strong.start_layer=0,recipes.strong.lambda_vlm=0.0"
    with wandb.init(mode="offline", dir=str(tmp_path / "wandb"), project="plam"):
        options = getattr(request, "param", {})
        evaluate("plam", model, [TASK], output=tmp_path / "runs", limit=21, **options)
    wandb.teardown()  # the run's file is whole when the service has ended
    return tmp_path


def test_an_offline_run_holds_plot_numbers_changed_documents_and_files(comparison):
    folder = of_model(comparison / "runs") / TASK
    records = read_back(comparison / "wandb")
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    for known in json.loads((folder / "comparison.json").read_text()):
        for name in ("a", "b", "difference", "p_value", "n"):
            assert summary[f"{TASK}/{known['variant']}/{known['metric']}/{name}"] == known[name]
    changes = Changes.of(TASK, ScoreMatrix.read(folder / "matrix.parquet"), "base", shown)
    assert summary[f"{TASK}/changes"] == changes.counts()
    assert list((comparison / "wandb").rglob("forest_*.png"))
    (table_file,) = (comparison / "wandb").rglob("changed_documents_*.table.json")
    table = json.loads(table_file.read_text())
    assert {(row[1], row[2]) for row in table["data"]} >= {("merged", "lower"), ("strong", "lower")}
    assert all(row[4] and row[5] and row[8] != row[9] for row in table["data"])
    logged: dict[str, set[str]] = {}
    for record in records:
        for artifact in (record.artifact, record.request.log_artifact.artifact):
            logged.setdefault(artifact.type, set()).update(entry.path for entry in artifact.manifest.contents)
    assert logged["comparison"] == {path.name for path in folder.iterdir()} >= {"forest.png", "comparison.html"}
    assert any(name.endswith(".png") for name in logged["run_table"]), "no picture in the table"


@pytest.mark.parametrize("comparison", [{"gen_kwargs": "max_new_tokens=1"}], indirect=True)
def test_an_offline_run_holds_the_format_audit_and_warns_of_answers_cut_off(comparison):
    folder = of_model(comparison / "runs") / TASK
    summary, alerts = {}, []
    for record in read_back(comparison / "wandb"):
        if record.HasField("summary"):
            summary |= items(record.summary.update)
        if record.HasField("alert"):
            alerts.append(record.alert.text)
    (headline, *_) = audits = json.loads((folder / "audit.json").read_text())
    assert {one["variant"] for one in audits} == {"merged", "strong"}
    for part in headline["parts"]:
        assert summary[f"{TASK}/merged/accuracy/audit/{part['part']}"] == part["difference"]
    (table_file,) = (comparison / "wandb").rglob("format_audit_*.table.json")
    rows = [row for row in json.loads(table_file.read_text())["data"] if row[3] == "merged"]
    assert len(rows) == sum(len(one["parts"]) for one in audits if one["variant"] == "merged")
    said = {warning for one in audits for warning in one["warnings"]}
    assert set(alerts) == said == set(summary[f"{TASK}/format_audit/warnings"])
    assert any("the answers of strong are cut off at 1 new token:" in warning for warning in said)
