"""Recipe searches on disk: records, results, pictures, the usable recipe, and `plam search` reading them again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from search_worlds import BASE, PROBE, RACING, grid, line, recipe, save, scores_of

from lmms_plam import cli
from lmms_plam.config import MergeRecipe, load_config
from lmms_plam.errors import DataError
from lmms_plam.files import digest
from lmms_plam.report.heatmap import panels
from lmms_plam.report.search import FILES, numbers, recipe_yaml, recipes_table, sentences, table, transfer_table, write
from lmms_plam.search.analyse import analyse
from lmms_plam.search.crossfit import Plan
from lmms_plam.search.record import RECIPES, SearchRecord
from lmms_plam.search.result import SEARCH, TUNED_HERE, SearchSettings
from lmms_plam.search.surface import MATRIX, Surface
from lmms_plam.stats.matrix import ScoreMatrix

QUICK = SearchSettings(plan=Plan(repeats=3, halvings=20), draws=300)
FAST = ("--halvings", "20", "--draws", "300")
LINE = [BASE, recipe(18, 0, 1.2), *line((17, 18), steps=5), recipe(18, 0.3, 0.9, dropped_after=200)]


@pytest.fixture
def folder(tmp_path):
    scores = scores_of(LINE, 300, lambda one: 0.03)
    return save(tmp_path / "plam" / "plam_search_task", LINE, scores, racing=RACING, probe=PROBE, depth=28)


def plam_search(*arguments):
    return cli.main(["search", *map(str, arguments)])


def test_a_record_comes_back_as_it_was_written(folder):
    record = SearchRecord.read(folder)
    assert record.recipes == tuple(LINE)
    assert (record.racing, record.probe, record.matrix) == (RACING, PROBE, digest(folder / MATRIX))
    record.write(folder)
    assert SearchRecord.read(folder) == record


def test_cells_that_were_not_asked_are_known_and_hold_the_base(folder):
    matrix, asked = ScoreMatrix.read_partial(folder / MATRIX, "base")
    column = matrix.column("18: 0.3 0.9")
    assert asked.sum(axis=0).tolist() == [300] * 12 + [200]
    assert not asked[200:, column].any()
    assert (matrix.scores[200:, column] == matrix.scores[200:, 0]).all()
    assert (matrix.answers[200:, column] == matrix.answers[200:, 0]).all()
    rows = pq.read_table(folder / MATRIX).to_pylist()
    same, same_asked = ScoreMatrix.from_partial_rows(rows[::-1], "base")
    order = [same.column(name) for name in matrix.variants]
    np.testing.assert_array_equal(same.scores[:, order], matrix.scores)
    np.testing.assert_array_equal(same_asked[:, order], asked)
    with pytest.raises(DataError, match=r"document 200 has variant '18: 0\.3 0\.9' not at all"):
        ScoreMatrix.read(folder / MATRIX)
    with pytest.raises(DataError, match=r"'18: 0\.3 0\.9' not at all"):
        ScoreMatrix.read_partial(folder / MATRIX, "18: 0.3 0.9")  # it wasn't asked on all documents itself


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "is no record of a recipe search"),
        ({"recipes": []}, "a search has one base, the untouched VLM, not 0"),
        ({"task": 5}, "'task' = 5: "),
        ({"flavour": "mild"}, "'flavour' = 'mild': Extra inputs"),
        ({"perfect_answer": 0}, "'perfect_answer' = 0: "),
        ({"depth": 18}, "'18: 0 1.2' starts at layer 18 of 18"),
        ("twice", "the recipe '17: 0.2 0.8' is there twice"),
        ("fraction", "its start layer is resolved, a layer, not 0.5"),
        ("kind", "'scaled' are the recipes whose lambda_lm is 0"),
        ("all dropped", "no merge was asked on all documents"),
    ],
)
def test_a_damaged_record_is_named(folder, change, said):
    record = json.loads((folder / RECIPES).read_text())
    recipes = record["recipes"]
    if change == "twice":
        recipes.append(recipes[2])
    elif change == "fraction":
        recipes[2]["fields"]["start_layer"] = 0.5
    elif change == "kind":
        recipes[2]["kind"] = "scaled"
    elif change == "all dropped":
        for one in recipes[2:]:
            one["dropped_after"] = 100
    elif isinstance(change, dict):
        record |= change
    (folder / RECIPES).write_text(change if change == "{" else json.dumps(record))
    with pytest.raises(DataError, match=re.escape(said)):
        SearchRecord.read(folder)


def test_a_matrix_of_another_run_is_refused(folder):
    rows = pq.read_table(folder / MATRIX)
    pq.write_table(rows.slice(13), folder / MATRIX)
    with pytest.raises(DataError, match=r"recipes\.json is of another matrix"):
        Surface.read(folder)


def test_a_recipe_that_lacks_documents_without_having_been_dropped_is_refused(folder):
    rows = pq.read_table(folder / MATRIX).to_pylist()
    lost = [row for row in rows if not (row["doc_id"] == 7 and row["variant"] == "17: 0.2 0.8")]
    pq.write_table(pa.Table.from_pylist(lost), folder / MATRIX)
    record = SearchRecord.read(folder).model_copy(update={"matrix": None})
    with pytest.raises(DataError, match=r"'17: 0\.2 0\.8' was asked on 299 of 300 documents"):
        Surface.read(folder, record)
    recipes = [one if one.dropped_after is None else one.model_copy(update={"dropped_after": 100}) for one in LINE]
    save(folder, LINE, scores_of(LINE, 300))
    record = SearchRecord.read(folder).model_copy(update={"recipes": tuple(recipes)})
    with pytest.raises(DataError, match=r"was dropped after 100 documents, and was asked on 200"):
        Surface.read(folder, record)


def test_search_json_holds_what_a_program_needs_and_marks_what_is_in_sample(folder):
    search = analyse(Surface.read(folder), QUICK)
    search.write(folder)
    record = json.loads((folder / SEARCH).read_text())
    assert record["pick"]["name"] == search.pick
    assert record["pick"]["score_is"] == record["in_sample"]["gain_is"] == record["recipes_are"] == TUNED_HERE
    assert set(record["unseen"]) == {"gain", "standard_error", "ci_low", "ci_high"}
    assert record["in_sample"]["ci_low"] < record["in_sample"]["gain"] < record["in_sample"]["ci_high"]
    assert record["at_border"] == bool(record["borders"])
    assert search.pick in record["near_best"]
    assert 0 <= record["better_than_scaled_p"] <= 1
    assert 0 <= record["any_better_p"] <= 1
    assert [row["name"] for row in record["recipes"]] == [one.name for one in LINE]
    dropped = record["recipes"][-1]
    assert (dropped["documents"], dropped["dropped_after"], dropped["ci_low"]) == (200, 200, None)
    assert dropped["dropped_why"].startswith("0.05 behind")
    assert record["settings"]["plan"] == {"folds": 5, "repeats": 3, "halvings": 20}
    assert record["probe"] == {"onset": 18, "interval": [17, 19], "stages": {}}
    assert record["fingerprint"]["data"] == digest(folder / MATRIX)
    assert (record["config"], record["model"], record["date"]) == ("digits", "abc", "2026-11-25")


def test_the_recipe_is_a_models_merge_as_it_is(folder, tmp_path):
    search = analyse(Surface.read(folder), QUICK)
    text = recipe_yaml(search)
    merge = yaml.safe_load(text)
    assert MergeRecipe.model_validate(merge) == search.in_sample.recipe.fields
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"vlm": "a", "base_lm": "b", "merge": merge}))
    assert load_config(str(tmp_path / "model.yaml")).merge == search.in_sample.recipe.fields
    assert TUNED_HERE in text
    assert f"{search.unseen.gain:+.4f}" in text
    assert "digits (abc); 2026-11-25" in text


def test_the_harness_gets_numbers_and_no_searched_maximum_as_a_gain(folder):
    search = analyse(Surface.read(folder), QUICK)
    found = numbers(search)
    assert set(found) == {
        "base",
        "pick_tuned_here",
        "gain_unseen",
        "gain_unseen_low",
        "gain_unseen_high",
        "recipes_asked",
        "within_noise",
    }
    assert search.in_sample.gain not in found.values()
    assert (found["recipes_asked"], found["within_noise"]) == (13, len(search.near_best))


def test_wherever_the_tuned_gain_stands_it_is_called_tuned(folder):
    search = analyse(Surface.read(folder), QUICK)
    gain = f"{search.in_sample.gain:+.4f}"
    for line_ in sentences(search):
        if gain in line_:
            assert "uned on this benchmark's own documents" in line_
    assert all(gain not in row for row in table([search]).rows)
    found = recipes_table(search)
    for row in found.rows:
        for heading, cell in zip(found.columns, row, strict=True):
            assert cell != gain or "tuned" in heading
    assert TUNED_HERE in " ".join(found.notes)


def test_writing_leaves_pictures_a_page_and_a_recipe(folder):
    search = analyse(Surface.read(folder), QUICK)
    (folder / "ablation.png").write_text("an earlier search's")
    write(search, folder)
    there = {path.name for path in folder.iterdir()}
    assert there == {MATRIX, RECIPES, *FILES} - {"ablation.png", "ablation.svg"}
    page = (folder / "search.html").read_text()
    assert page.count("<svg") == 2
    assert TUNED_HERE in page
    assert "src=" not in page
    assert "0.05 behind, 2.3 standard errors" in page


def test_an_ablation_is_a_forest_plot_and_needs_no_surface(tmp_path):
    recipes = [BASE, *(recipe(18, 0.3, 0.7, name=name, modules=name) for name in ("attention", "mlp", "q+k"))]
    recipes.append(recipe(0, 0.3, 0.7, name="early", end_layer=9))
    folder = save(tmp_path / "plam_search_modules", recipes, scores_of(recipes, 200))
    write(analyse(Surface.read(folder), QUICK), folder)
    assert {path.stem for path in folder.glob("*.svg")} == {path.stem for path in folder.glob("*.png")} == {"ablation"}


def test_a_surface_has_a_panel_for_each_layer_or_a_row_where_all_sums_are_alike(tmp_path):
    folder = save(tmp_path / "line", LINE[:-1], scores_of(LINE[:-1], 100))
    (panel,), _, up = panels(analyse(Surface.read(folder), QUICK))
    assert (up, panel.rows, panel.columns) == ("start layer", ["17", "18"], ["0.2", "0.4", "0.6", "0.8", "1"])
    assert panel.cells[1][2].recipe.name == "18: 0.6 0.4"
    recipes = [BASE, *grid((17, 18))]
    folder = save(tmp_path / "grid", recipes, scores_of(recipes, 100))
    found, _, _ = panels(analyse(Surface.read(folder), QUICK))
    assert [one.title for one in found] == ["from layer 17 on", "from layer 18 on"]
    assert found[0].columns[0] == "0: VLM\nonly"
    assert found[0].cells[2][0].recipe.kind == "base"
    assert found[0].cells[3][0].recipe.name == "17: 0 1.5"
    assert found[0].cells[0][0] is None  # nothing would be left of the weights


def test_a_search_where_nothing_can_be_said_is_written_too(tmp_path):
    recipes = [BASE, *line((18,), steps=4)]
    folder = save(tmp_path / "plam_search_task", recipes, scores_of(recipes, 40), clusters=np.zeros(40))
    write(analyse(Surface.read(folder), QUICK), folder)
    record = json.loads((folder / SEARCH).read_text())
    assert (record["unseen"], record["any_better_p"], record["in_sample"]["ci_low"]) == (None, None, None)
    assert "Too few clusters" in (folder / "search.html").read_text()


def test_the_command_prints_and_changes_nothing(folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert plam_search(folder, *FAST) == 0
    said = capsys.readouterr().out
    assert "plam_search_task" in said
    assert "On documents that the choice did not see" in " ".join(said.split())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_command_writes_when_asked_and_prints_json_for_programs(folder, capsys):
    assert plam_search(folder.parent, "--json", "--write", "--seed", 3, "--folds", 4, *FAST) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["settings"]["seed"] == 3
    assert record["settings"]["plan"]["folds"] == 4
    assert json.loads((folder / SEARCH).read_text()) == record


def test_the_command_searches_a_space_within_the_space(folder, capsys):
    assert plam_search(folder, "--json", "--start-layers", "17", *FAST) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert {row["fields"].get("start_layer") for row in record["recipes"]} == {None, 17}
    assert record["space"] == "line; of it start layers 17"
    assert plam_search(folder, "--json", "--sums", "1", "--criterion", "label-free", *FAST) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in record["recipes"]} == {"base", "merge"}
    assert record["pick"]["name"] == record["label_free"]["name"]
    assert record["pick"]["criterion"] == "label-free"


def test_several_searches_of_a_run_make_a_table_of_transfer(folder, capsys):
    save(folder.parent / "plam_search_other", LINE[:-1], scores_of(LINE[:-1], 200, seed=5))
    assert plam_search(folder.parent, "--write", *FAST) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the recipe tuned on the row, scored on the column" in out
    record = json.loads((folder / SEARCH).read_text())
    assert [cell["scored_on"] for cell in record["transfer"]] == ["plam_search_other", "plam_search_task"]
    assert "<h2>Transfer</h2>" in (folder / "search.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start-layers", "9"), "no merge that was asked on all documents is left; start layers asked: 17, 18"),
        (("--sums", "1.2"), "sums of coefficients: 1, 1.2"),
        (("--folds", "1"), "at least 2 folds, not 1"),
        (("--draws", "5"), "5 bootstrap draws are too few"),
        (("--level", "95"), "between 0 and 1, such as 0.95, not 95"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folder, capsys, arguments, said):
    assert plam_search(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_without_a_search_is_named(tmp_path, capsys):
    assert plam_search(tmp_path / "nowhere") == 2
    assert "no folder" in capsys.readouterr().err
    assert plam_search(tmp_path) == 2
    assert "holds no recipes.json of a recipe search" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plam_search(tmp_path, "--start-layers", "late")
    assert "takes layers separated by commas" in capsys.readouterr().err


def test_a_table_of_transfer_says_where_there_is_none(folder):
    search = analyse(Surface.read(folder), QUICK)
    from lmms_plam.search.result import Transfer

    cell = Transfer("plam_search_task", "plam_search_task", None, None, None, None, "too few clusters")
    found = transfer_table([replace(search, transfer=(cell,))])
    assert found.rows == [("plam_search_task", "none")]
    assert "plam_search_task on plam_search_task: too few clusters" in found.notes
