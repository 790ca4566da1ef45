"""Recipe searches through the harness: answers are those of separate runs, and races leave out what they say."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import yaml
from checkpoints import FAMILIES
from family_folders import of_model
from test_harness_runs import config_file, evaluate, exact
from transformers import AutoModelForImageTextToText

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import ConfigError
from lmms_plam.families import search as searching
from lmms_plam.harness import model as harness_model
from lmms_plam.merge import Checkpoint, Donors, Kept, lazy_layers, merge_into
from lmms_plam.scoring.scorer import Scorer
from lmms_plam.search.record import SearchRecord
from lmms_plam.search.space import NAMES
from lmms_plam.stats.matrix import ScoreMatrix

SEARCH = "plam_search_digits"
RECIPES = [
    {"start_layer": 3, "lambda_lm": 0.9, "lambda_vlm": 0.1},
    {"start_layer": 4, "lambda_lm": 1.0, "lambda_vlm": 0.4},
    {"start_layer": 3, "end_layer": 4, "lambda_lm": 0.9, "lambda_vlm": 0.1, "modules": ["q", "k", "v", "o", "mlp"]},
]
MERGE = {"start_layer": 4, "lambda_lm": 0.5, "lambda_vlm": 0.5}
SPACE = {"space": RECIPES, "start_layers": "3", "racing": "off"}


def search(model, output, limit=14, **options):
    """Run the search of digits; return its matrix, which cells were asked, and its record."""
    what = ("plam", model) if isinstance(model, str) else (model, "")
    evaluate(*what, [SEARCH], output=output, limit=limit, **options)
    folder = of_model(output) / SEARCH
    matrix, asked = ScoreMatrix.read_partial(folder / "matrix.parquet", "base")
    return matrix, asked, SearchRecord.read(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_answers_as_a_run_of_its_own(pairs, tmp_path, family):
    pair = pairs[family]
    path = config_file(pair, tmp_path, merge=MERGE, search=SPACE)
    matrix, asked, record = search(exact(path), tmp_path / "runs")
    assert asked.all()
    assert [recipe.kind for recipe in record.recipes] == ["base", "merge", "merge", "scaled", "merge"]
    for recipe in record.recipes:
        own = "none" if recipe.fields is None else recipe.fields.model_dump(mode="json")
        apart = config_file(pair, tmp_path, merge=own)
        samples = evaluate(exact(apart), "", ["plam_digits"], limit=14)["samples"]["plam_digits"]
        expected = [sample["filtered_resps"][0] for sample in samples]
        assert matrix.answers[:, matrix.column(recipe.name)].tolist() == expected, recipe.name
    assert len({tuple(column) for column in matrix.answers.T}) > 2, "these recipes make no difference"


def test_a_search_starts_from_the_untouched_vlm_whatever_is_merged(pairs, tmp_path):
    found = [
        search(exact(config_file(pairs["qwen2_5_vl"], tmp_path, merge=merge, search=SPACE)), tmp_path / str(place))
        for place, merge in enumerate([MERGE, "none"])
    ]
    assert found[0][0].answers.tolist() == found[1][0].answers.tolist()
    assert found[0][2].model == found[1][2].model


def test_what_a_race_drops_is_asked_no_more_and_said(pairs, tmp_path, monkeypatch):
    path = config_file(
        pairs["qwen2_5_vl"], tmp_path, merge=MERGE, search={**SPACE, "racing": 2, "block": 7, "start_layers": "3"}
    )
    asked_of = []

    def behind(matrix, metric, recipes, z, upwards):
        asked_of.append((len(matrix.doc_ids), sorted(matrix.variants)))
        return {recipes[1].name: "plainly"} if len(matrix.doc_ids) == 7 else {}

    monkeypatch.setattr(searching, "plainly_behind", behind)
    matrix, asked, record = search(exact(path), tmp_path / "runs", limit=21)
    (dropped,) = (recipe for recipe in record.recipes if recipe.dropped_after)
    assert (dropped.dropped_after, dropped.dropped_why) == (7, "plainly")
    assert asked[:, matrix.column(dropped.name)].sum() == 7
    assert asked.sum() == asked.size - 14
    assert [count for count, _ in asked_of] == [7, 14, 21]
    assert dropped.name in asked_of[0][1]
    assert dropped.name not in asked_of[1][1]
    assert record.racing.block == 7
    assert len(set(matrix.clusters[asked[:, matrix.column(dropped.name)]])) == 1, "a block holds whole clusters"


@pytest.mark.parametrize("space", NAMES)
def test_every_named_space_runs_from_the_command_line(pairs, tmp_path, space):
    plateau = {"onset": 3, "interval": [3, 3], "verdict": "plateau", "reason": "", "stages": {"alignment": [0, 3]}}
    (tmp_path / "plateau.json").write_text(json.dumps(plateau))
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    said = {"merge.start_layer": str(tmp_path / "plateau.json")} if space == "stages" else {}
    more = {"search.space": space, "search.start_layers": 4, "search.most": 1000, "search.block": 7, **said}
    _, asked, record = search(exact(path, **more), tmp_path / "runs", limit=7)
    assert asked.all()
    assert record.sought == ("scaled" if space == "scaled" else "merge")
    expected = {"line": 11, "grid": 254, "scaled": 11, "regions": 5, "stages": 3, "modules": 5}
    assert len(record.recipes) >= expected[space]
    found = json.loads((of_model(tmp_path / "runs") / SEARCH / "search.json").read_text())
    assert found["pick"]["name"] in {one["name"] for one in found["recipes"] if one["kind"] == record.sought}


def test_scaled_vlms_alone_are_searched_around_the_start_layer_and_go_on_at_the_edge(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    _, _, record = search(exact(path, **{"search.space": "scaled"}), tmp_path / "runs")
    assert {recipe.kind for recipe in record.recipes} == {"base", "scaled"}


def test_several_searches_keep_weights_and_branches_within_one_budget(pairs, tmp_path, monkeypatch):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE, search=SPACE, family_memory=0.01)
    kept = []
    monkeypatch.setattr(harness_model, "Kept", lambda budget: kept.append(Kept(budget)) or kept[-1])
    model = exact(path)
    evaluate(model, "", [SEARCH, "plam_search_digits_text"], output=tmp_path / "runs", limit=7)
    (own,) = kept
    assert own.budget + model.engine.memory_budget == int(0.01 * 2**30)


def test_a_space_and_its_layers_may_stand_in_a_tasks_yaml(pairs, tmp_path):
    task = {"task": "plam_search_mine", "of": "plam_digits", "space": "modules", "start_layers": [3], "racing": False}
    text = yaml.safe_dump(task) + "class: !function lmms_plam.families.RecipeSearch\n"
    (tmp_path / "plam_search_mine.yaml").write_text(text)
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    evaluate(exact(path), "", ["plam_search_mine"], output=tmp_path / "runs", limit=7, include=tmp_path)
    record = SearchRecord.read(of_model(tmp_path / "runs") / "plam_search_mine")
    assert (record.space, record.racing, len(record.recipes)) == ("modules", None, 5)
    assert {recipe.start_layer for recipe in record.recipes if recipe.fields} == {3}


def test_looks_between_blocks_read_each_answer_once(pairs, tmp_path, monkeypatch):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE, search={**SPACE, "racing": 2, "block": 7})
    read = []
    join = Scorer.join

    def counted(self, answers, *args, **options):
        read.append(len(answers))
        return join(self, answers, *args, **options)

    monkeypatch.setattr(Scorer, "join", counted)
    search(exact(path), tmp_path / "runs", limit=28)
    dealing, *blocks, report = read
    assert (dealing, report) == (28, sum(blocks))
    assert blocks == [7 * 5] * 4


def test_a_killed_search_goes_on_where_it_stopped(pairs, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE, search=SPACE)
    whole, *_ = search(f"config={path}", tmp_path / "whole")
    generated.prompts, generated.stop_after = 0, 5
    with pytest.raises(BaseException, match="interrupted"):
        search(f"config={path}", tmp_path / "killed")
    generated.prompts, generated.stop_after = 0, None
    again, *_ = search(f"config={path}", tmp_path / "killed")
    assert generated.prompts == 14 - 5
    assert again.answers.tolist() == whole.answers.tolist()


def test_the_recipe_found_is_a_configs_merge(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE, search=SPACE)
    search(exact(path), tmp_path / "runs")
    folder = of_model(tmp_path / "runs") / SEARCH
    names = {file.name for file in folder.iterdir()}
    assert {"matrix.parquet", "recipes.json", "search.json", "recipe.yaml", "search.html"} <= names
    fields = yaml.safe_load((folder / "recipe.yaml").read_text())
    found = json.loads((folder / "search.json").read_text())
    (picked,) = (one for one in found["recipes"] if one["name"] == found["pick"]["name"])
    assert fields == {name: value for name, value in picked["fields"].items() if value is not None}
    used = exact(config_file(pairs["qwen2_5_vl"], tmp_path), merge=str(folder / "recipe.yaml"))
    assert used.provenance.config.merge == MergeRecipe.model_validate(fields)


@pytest.mark.parametrize("merge", ["nowhere.yaml", "list.yaml", "words"])
def test_a_merge_that_is_no_recipe_file_is_one_clear_sentence(pairs, tmp_path, merge):
    (tmp_path / "list.yaml").write_text("- 1")
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    with pytest.raises(ConfigError, match=r"merge takes a recipe's fields, .* 'none' or a recipe\.yaml"):
        exact(path, merge=str(tmp_path / merge) if merge.endswith("yaml") else merge)


@pytest.mark.parametrize("budget", [0, 2**30])
def test_lazy_weights_are_those_that_a_merge_writes(pairs, budget):
    pair = pairs["qwen2_5_vl"]
    model = AutoModelForImageTextToText.from_pretrained(pair.vlm)
    recipes = {str(place): MergeRecipe.model_validate(fields) for place, fields in enumerate(RECIPES)}
    base_lm = Checkpoint(str(pair.base_lm))
    with base_lm:
        lazy = lazy_layers(model, base_lm, Donors(base_lm, torch.device("cpu")), recipes, {}, Kept(budget))
        for name, recipe in recipes.items():
            merged = copy.deepcopy(model)
            merge_into(merged, base_lm, recipe)
            layers = merged.get_decoder().layers
            for index in lazy[name]:
                for key, tensor in lazy[name][index].items():
                    assert torch.equal(tensor, layers[index].get_parameter(key)), (name, index, key)
                kept = dict(layers[index].named_parameters()).keys() - lazy[name][index].keys()
                before = model.get_decoder().layers[index]
                assert all(torch.equal(layers[index].get_parameter(key), before.get_parameter(key)) for key in kept)
    assert lazy["0"].keys_by_layer[4] != lazy["1"].keys_by_layer[4]
