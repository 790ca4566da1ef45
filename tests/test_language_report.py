"""Language lost and given back, on one picture after one command: which rows stand on it, and which way they point."""

from __future__ import annotations

import json

import pytest
from family_folders import of_model
from test_harness_runs import evaluate

from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.report.language import GROUPS, LANGUAGE, is_base_lm, language_rows
from lmms_plam.runs.differences import differences
from lmms_plam.runs.join import Joined
from lmms_plam.scoring.saved import ComparisonRecord, SavedMeasure
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import ScoreMatrix

BASE_LM = MergeRecipe(start_layer=0, lambda_lm=1, lambda_vlm=0, modules="all")


@pytest.mark.parametrize(
    ("recipe", "is_it"),
    [
        (BASE_LM, True),
        (BASE_LM.model_copy(update={"start_layer": 1}), False),
        (BASE_LM.model_copy(update={"end_layer": 3}), False),
        (BASE_LM.model_copy(update={"lambda_lm": 0.9, "lambda_vlm": 0.1}), False),
        (MergeRecipe(start_layer=0, lambda_lm=1, lambda_vlm=0), False),  # attention alone
    ],
)
def test_the_base_lm_is_known_by_its_recipe(recipe, is_it):
    assert is_base_lm(recipe_in_words(recipe)) == is_it
    assert not is_base_lm("a/VLM, untouched")


def compared(task, pictures, **right):
    """A comparison of 40 documents of which so many are right under each variant."""
    matrix = ScoreMatrix.from_rows(
        {"doc_id": doc, "variant": name, "score": float(doc < count)}
        for name, count in right.items()
        for doc in range(40)
    )
    record = ComparisonRecord(
        task=f"plam_compare_{task}",
        of=task,
        model="m",
        fingerprint="f",
        date="2026-11-26",
        reference="base",
        recipes={"base_lm": recipe_in_words(BASE_LM), "merged": "start_layer=2, lambda_lm=0.5, lambda_vlm=0.5"},
        measures=(SavedMeasure(key="accuracy", metric="mean"),),
        data="d",
        asked={},
        pictures=pictures,
    )
    joined = Joined(record.task, record.benchmark, matrix, {}, 0, ())
    return differences(joined, "base", Settings(draws=1000), record.points_up), record


def test_what_was_lost_is_the_vlms_and_what_came_back_is_the_merges():
    text = compared("blimp", False, base=20, merged=24, base_lm=30)
    seen = compared("mmstar", True, base=20, merged=18, base_lm=0)
    rows = language_rows([text, seen])
    assert [(row.group, row.label, row.value) for row in rows] == [
        (GROUPS["lost"], "blimp", pytest.approx(-25)),
        (GROUPS["back"], "blimp", pytest.approx(10)),
        (GROUPS["pictures"], "mmstar", pytest.approx(-5)),
    ]
    assert all(row.low < row.value < row.high for row in rows)


def test_without_text_there_is_no_such_picture():
    assert language_rows([compared("mmstar", True, base=20, merged=18)]) == []


def test_one_command_draws_it_and_the_page_of_all_comparisons_shows_it(tmp_path):
    base_lm = ",".join(
        f"recipes.base_lm.{field}" for field in ("start_layer=0", "lambda_lm=1", "lambda_vlm=0", "modules=all")
    )
    tasks = ["plam_compare_digits", "plam_compare_digits_text"]
    evaluate("plam", f"config=digits,{base_lm}", tasks, output=tmp_path, limit=21)
    folder = of_model(tmp_path)
    drawn = (folder / LANGUAGE[1]).read_text()
    for words in (*GROUPS.values(), "plam_digits_text", "plam_digits"):
        assert f"<!-- {words} -->" in drawn
    assert "<!-- text: the VLM against its base LM -->" in (folder / "comparison.html").read_text()
    for task, pictures in zip(tasks, (True, False), strict=True):
        assert json.loads((folder / task / "record.json").read_text())["pictures"] is pictures
    kept = json.loads((folder / tasks[0] / "examples.json").read_text())
    assert kept
    assert all(one["question"] and one["image"] for one in kept)


def test_a_record_of_an_earlier_version_is_taken_for_one_with_pictures(tmp_path):
    _, record = compared("mmstar", False, base=20, merged=18)
    record.write(tmp_path)
    told = json.loads((tmp_path / "record.json").read_text())
    del told["pictures"]
    (tmp_path / "record.json").write_text(json.dumps(told))
    assert ComparisonRecord.read(tmp_path).pictures
