"""Recipes that form a grid are drawn as one, with intervals and what the blog printed of the same recipes."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from family_folders import of_model
from test_compare_matrices import save
from test_harness_runs import config_file, evaluate

from lmms_plam.cli import main
from lmms_plam.config import MergeRecipe, load_config
from lmms_plam.report.grid import GRID, draw_grid, find_grid
from lmms_plam.scoring.saved import ComparisonRecord, SavedMeasure
from lmms_plam.stats.comparison import Analysis
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.results import Result


def recipes(**changes):
    config = load_config("blog_qwen2_5_vl_7b", changes)
    return {"merged": config.merge, **config.recipes}


VLM = "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.fixture(scope="module")
def results():
    names = ["base", *recipes()]
    right = np.random.default_rng(0).random((60, len(names))) < 0.6
    rows = [
        {"doc_id": doc, "variant": name, "answer": "", "score": float(right[doc, place]), "cluster": doc, "stratum": ""}
        for doc in range(60)
        for place, name in enumerate(names)
    ]
    analysis = Analysis.of(ScoreMatrix.from_rows(rows, "made up"), find_metric("percent"))
    return [Result("t", "accuracy", True, analysis.compare("base", name), 100, None, ()) for name in names[1:]]


def test_the_blogs_recipes_are_its_grid_in_its_order():
    grid = find_grid(recipes(), VLM, "mathvision_test")
    assert [[name.replace("merged", "s2_m3_a4") for name in row] for row in grid.names] == [
        [f"s{setting}_m{method}_a{weight}" for weight in (4, 5, 6)] for setting in (1, 2) for method in (1, 2, 3)
    ]


def test_what_the_blog_claims_of_its_cells_follows_from_those_shown():
    """16 of 18 times Setting 2 is better than Setting 1; the best MATH-V gain is 1.51 points."""
    better = 0
    for task in ("mathvision_test", "mathvista_testmini_format_static"):
        published = find_grid(recipes(), VLM, task).published
        cells = np.array(published.cells)
        better += int((cells[3:] > cells[:3]).sum())
        best = cells.max() - published.baseline
        assert best == pytest.approx(1.51 if task == "mathvision_test" else -1.1)
    assert better == 16


@pytest.mark.parametrize(
    ("vlm", "task", "changes"),
    [
        ("another/model", "mathvision_test", {}),
        (VLM, "mathvision_testmini", {}),
        (VLM, "mmstar", {}),
        (VLM, "mathvision_test", {"merge.start_layer": 3}),
        (VLM, "mathvision_test", {"merge.method": "slerp"}),
    ],
)
def test_the_blogs_numbers_stand_beside_no_other_recipe_model_or_benchmark(vlm, task, changes):
    assert find_grid(recipes(**changes), vlm, task).published is None


def test_what_is_no_whole_grid_isnt_drawn_as_one():
    every = recipes()
    some = dict(list(every.items())[:-1])
    twice = every | {"again": every["merged"]}
    later = every | {"merged": every["merged"].model_copy(update={"start_layer": 3})}
    row = {name: one for name, one in every.items() if name.startswith("s1_m1")}
    assert [find_grid(one, VLM, "mmstar") for one in (some, twice, later, row, {"merged": every["merged"]})] == [
        None
    ] * 5


def test_the_picture_shows_each_cells_score_difference_interval_and_reference(results, tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    grid = find_grid(recipes(), VLM, "mathvision_test")
    draw_grid(results, grid, tmp_path, "a model, today")
    assert (tmp_path / GRID[0]).stat().st_size > 10_000
    words = re.findall(r">([^<>\n]+)</(?:text|tspan)>", (tmp_path / GRID[1]).read_text())
    for result in results:
        found = result.comparison
        low, high = found.difference.ci_low, found.difference.ci_high
        assert f"{found.b:.2f}" in words
        assert f"{found.difference.value:+.2f} ({low:+.2f} to {high:+.2f})" in words
    assert sum(word.startswith("published: ") for word in words) == 18
    assert "published: 25.46" in words
    assert {"0.4 and 0.6: 0.67", "a model, today; 60 documents"} <= set(words)
    alone = [dataclasses.replace(one, comparison=_without_interval(one.comparison)) for one in results]
    draw_grid(alone, dataclasses.replace(grid, published=None), tmp_path)
    words = re.findall(r">([^<>\n]+)</(?:text|tspan)>", (tmp_path / GRID[1]).read_text())
    assert not any(word.startswith("published: ") for word in words)
    assert f"{results[0].comparison.difference.value:+.2f}" in words


def _without_interval(comparison):
    difference = dataclasses.replace(comparison.difference, ci_low=None, ci_high=None)
    return dataclasses.replace(comparison, difference=difference)


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("whole", [True, False])
def test_a_comparison_of_a_grid_draws_it_on_its_page(pairs, tmp_path, whole):
    merge = {"start_layer": 0, "lambda_lm": 0.4, "lambda_vlm": 0.6}
    more = {"b": {"lambda_lm": 0.5, "lambda_vlm": 0.5}, "c": {"schedule": "linear"}}
    if whole:
        more["d"] = {"schedule": "linear", "lambda_lm": 0.5, "lambda_vlm": 0.5}
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=merge, recipes=more)
    task = "plam_compare_mathvista_testmini_format_static"
    evaluate("plam", f"config={path}", [task], output=tmp_path / "runs", limit=6, gen_kwargs="max_new_tokens=2")
    folder = of_model(tmp_path / "runs") / task
    assert {name for name in GRID if (folder / name).exists()} == (set(GRID) if whole else set())
    assert (folder / "comparison.html").read_text().count("<svg") == 1 + whole
    assert main(["compare", str(folder), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "comparison.html").read_text().count("<svg") == 1 + whole
    again = [tmp_path / "again" / name for name in GRID]
    assert [path.exists() for path in again] == [whole] * 2
    if whole:
        assert again[0].read_bytes() == (folder / GRID[0]).read_bytes()


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "fisher"])
def test_a_record_gives_back_the_recipes_that_were_compared(method, tmp_path):
    fields = {"density": 0.5} if method in ("ties", "dare_linear") else {"fisher": "f"} if method == "fisher" else {}
    recipe = MergeRecipe.model_validate({"method": method, "start_layer": 2, "modules": "q+mlp", **fields})
    measures = (SavedMeasure(key="accuracy", metric="mean"),)
    words = dict.fromkeys(("task", "of", "model", "fingerprint", "date", "reference", "data"), "x")
    ComparisonRecord(**words, measures=measures, asked={}, merges={"merged": recipe}).write(tmp_path)
    assert ComparisonRecord.read(tmp_path).merges == {"merged": recipe}


def test_of_several_tasks_each_grid_has_a_folder_and_without_the_untouched_vlm_there_is_none(tmp_path, capsys):
    scores = {name: np.random.default_rng(place).random(30) for place, name in enumerate(["base", *recipes()])}
    known = {"vlm": VLM, "merges": recipes()}
    for task in ("plam_compare_one", "plam_compare_two"):
        save(tmp_path / "m", scores, task=task, **known)
    assert main(["compare", str(tmp_path / "m"), "--out", str(tmp_path / "both")]) == 0
    assert [(tmp_path / "both" / f"plam_compare_{one}" / GRID[0]).exists() for one in ("one", "two")] == [True] * 2
    order = ["compare", str(tmp_path / "m" / "plam_compare_one"), "--reference", "merged", "--out"]
    assert main([*order, str(tmp_path / "other")]) == 0
    assert not list((tmp_path / "other").rglob(GRID[0]))
