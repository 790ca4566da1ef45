"""A study in W&B, read back from the offline files: a group with a run for each cell, native tables; and its views."""

from __future__ import annotations

import json

import pytest
from test_plateau_wandb import items, read_back

from lmms_plam.cli import main
from lmms_plam.errors import UnsupportedError
from lmms_plam.runs.paired import Options
from lmms_plam.site.boards import find_boards
from lmms_plam.site.found import find_study
from lmms_plam.site.wandb_views import build_report, build_workspace, save_views
from lmms_plam.stats.comparison import Settings


@pytest.fixture(scope="module")
def logged(study_folder, tmp_path_factory):
    """The folders of the offline runs, by their names."""
    import wandb

    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_SILENT", "true")
        patch.delenv("WANDB_MODE", raising=False)
        arguments = ["--out", "site", "--draws", "1000", "--wandb", "lab/plam", "--title", "my study"]
        assert main(["report", str(study_folder), *arguments]) == 0
        wandb.teardown()  # the runs' files are whole when the service has ended
    found = {}
    for place in (folder / "wandb").glob("offline-run-*"):
        records = read_back(place)
        (run,) = (record.run for record in records if record.HasField("run"))
        found[run.display_name] = place, run, records
    return found


def summary_of(records):
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    return summary


def table_of(place, name):
    (file,) = place.rglob(f"{name}_*.table.json")
    return json.loads(file.read_text())


def test_a_study_is_a_group_with_a_run_for_each_cell_and_one_of_the_whole(logged):
    steps = ("probe", "search", "compare", "attention")
    cells = {f"{model}-{step}" for model in ("alpha", "beta") for step in steps}
    assert set(logged) == {"my study", *cells}
    assert {run.run_group for _, run, _ in logged.values()} == {"my study"}
    assert {(run.entity, run.project) for _, run, _ in logged.values()} == {("lab", "plam")}
    assert {name: run.job_type for name, (_, run, _) in logged.items()} == {
        "my study": "study",
        **{cell: cell.rpartition("-")[2] for cell in cells},
    }


def test_a_cells_run_holds_what_its_records_hold(logged, study_folder):
    place, _, records = logged["alpha-probe"]
    history = [items(record.history.item) for record in records if record.HasField("history")]
    curve = [row for row in history if "plam_probe_mmstar/curve/layer" in row]
    folder = study_folder / "cells/alpha-probe/plam/alpha/plam_probe_mmstar"
    points = json.loads((folder / "curve.json").read_text())
    assert [row["plam_probe_mmstar/curve/score"] for row in curve] == [point["score"] for point in points]
    assert summary_of(records)["plam_probe_mmstar/onset"] == json.loads((folder / "plateau.json").read_text())["onset"]
    assert list(place.rglob("picture_*.png"))


@pytest.mark.parametrize(
    ("cell", "table", "file", "rows"),
    [
        ("beta-compare", "metrics", "plam_compare_pope/comparison.json", lambda told: len(told)),
        ("beta-search", "surface", "plam_search_pope/search.json", lambda told: len(told["recipes"])),
        ("beta-attention", "layers", "plam_attention_pope/attention.json", lambda told: 28 * len(told["growth"])),
    ],
)
def test_comparison_search_and_attention_are_native_tables(logged, study_folder, cell, table, file, rows):
    place, _, _ = logged[cell]
    task, _, _ = file.partition("/")
    found = json.loads(next((place / "files/media/table" / task).glob(f"{table}_*.table.json")).read_text())
    told = json.loads((study_folder / "cells" / cell / "plam/beta" / file).read_text())
    assert len(found["data"]) == rows(told)
    if table == "metrics":
        assert {row[found["columns"].index("difference")] for row in found["data"]} == {
            row["difference"] for row in told
        }


def test_the_run_of_the_whole_holds_leaderboard_gains_and_page(logged):
    place, _, records = logged["my study"]
    board = table_of(place, "leaderboard_recipes")
    models = {row[board["columns"].index("model")] for row in board["data"]}
    assert {"alpha/merged", "beta/base"} <= models
    assert len(table_of(place, "gains")["data"]) == 6
    kept = [record.artifact for record in records if record.HasField("artifact")]
    kept += [
        record.request.log_artifact.artifact
        for record in records
        if record.HasField("request") and record.request.HasField("log_artifact")
    ]
    assert ["index.html"] in [[entry.path for entry in one.manifest.contents] for one in kept if one.type == "study"]


@pytest.fixture(scope="module")
def views(study_folder):
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces isn't installed: pip install '.[workspaces]'")
    study = find_study(study_folder)
    boards, _ = find_boards(study, None, Options(Settings(draws=1000), {}, False), lambda items, _: items)
    given = (study, boards, "lab/plam", "my study")
    return [
        view._to_model().model_dump(mode="json", by_alias=True)
        for view in (build_report(*given), build_workspace(*given))
    ]


def test_report_and_workspace_have_curves_forests_and_leaderboards_of_the_group(views):
    for view in views:
        assert (view.get("entity", "lab"), view["displayName"]) == ("lab", "my study")
        told = json.dumps(view["spec"])
        for key in (
            "plam_probe_mmstar/curve/score",
            "plam_search_pope/sweep/gain_unseen",
            "plam_compare_blimp/forest",
            "plam_compare_blimp/metrics",
            "plam_attention_pope/layers",
            "study/leaderboard_recipes",
        ):
            assert key in told, key
        assert '"value": "my study"' in told  # the filter by group


def test_the_report_says_what_the_page_says(views):
    assert "Merging from layer 20 on" in json.dumps(views[0]["spec"])


def test_without_a_login_one_sentence_says_so(study_folder, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(
        "wandb_workspaces.reports.v2.Report.save", lambda *_: (_ for _ in ()).throw(OSError("no route"))
    )
    with pytest.raises(UnsupportedError, match="W&B doesn't take the report of lab/plam: no route"):
        save_views(find_study(study_folder), [], "lab/plam", "my study")


def test_without_wandb_workspaces_one_sentence_says_what_to_install(study_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'lmms-plam\[workspaces\]'"):
        build_report(find_study(study_folder), [], "lab/plam", "my study")
