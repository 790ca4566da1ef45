"""Spaces of recipes: what each name lists, with the controls beside it, and what can't be meant."""

from __future__ import annotations

import json

import pytest
import yaml

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import ConfigError
from lmms_plam.families.search import SearchOptions, _plan
from lmms_plam.harness.arguments import read_settings
from lmms_plam.search.space import expand

DEPTH = 28
RECIPE = MergeRecipe(start_layer=18)


def coefficients(candidates):
    return [(one.recipe.lambda_lm, one.recipe.lambda_vlm) for one in candidates]


def options(**more):
    return SearchOptions(task="t", of="o", **more)


def test_a_line_holds_every_share_and_no_untouched_vlm():
    found = expand("line", RECIPE, [18], DEPTH)
    assert coefficients(found) == [(step / 10, round(1 - step / 10, 1)) for step in range(1, 11)]
    assert all(one.recipe.start_layer == 18 for one in found)
    assert len(expand("line", RECIPE, [17, 18, 19], DEPTH)) == 30


def test_the_papers_grid_has_its_256_cells_but_nothing_and_the_untouched():
    found = expand("grid", RECIPE, [18], DEPTH)
    paper = {(one / 10, two / 10) for one in range(16) for two in range(16)} - {(0.0, 0.0), (0.0, 1.0)}
    assert paper <= set(coefficients(found))
    sums = {round(sum(pair), 6) for pair in paper}
    scaled = {one.recipe.lambda_vlm for one in found if one.kind == "scaled"}
    assert scaled == sums - {1.0}, "every sum of coefficients has its control"
    assert len(found) == len(set(coefficients(found)))


def test_scaled_has_nothing_of_the_base_lm():
    assert {one.kind for one in expand("scaled", RECIPE, [18], DEPTH)} == {"scaled"}


def test_regions_are_thirds_and_all_layers_and_modules_go_from_attention_to_norms():
    regions = expand("regions", RECIPE, [18], DEPTH)
    assert [(one.recipe.start_layer, one.recipe.end_layer) for one in regions] == [(0, 9), (9, 19), (19, 28), (0, 28)]
    modules = expand("modules", RECIPE, [18], DEPTH)
    assert [one.recipe.modules for one in modules] == [
        ("q", "k", "v", "o"),
        ("mlp",),
        ("q", "k", "v", "o", "mlp"),
        ("q", "k", "v", "o", "mlp", "layer_norms"),
    ]
    assert len({one.name for one in modules}) == 4


def test_stages_are_those_that_a_probe_found_and_all_layers():
    stages = {"separation": (0, 5), "alignment": (5, 20), "degradation": (20, 28)}
    found = expand("stages", RECIPE, [18], DEPTH, stages)
    layers = [(one.recipe.start_layer, one.recipe.end_layer) for one in found]
    assert layers == [(0, 5), (5, 20), (20, 28), (0, 28)]
    assert len(expand("stages", RECIPE, [18], DEPTH, {"alignment": (0, 28)})) == 1, "one stage is all layers"


def test_stages_are_read_from_the_plateau_that_the_recipe_starts_at(tmp_path):
    probe = {"onset": 20, "interval": [19, 21], "stages": {"alignment": [0, 20], "degradation": [20, 28]}}
    (tmp_path / "plateau.json").write_text(json.dumps({**probe, "verdict": "plateau", "reason": ""}))
    rounds = _plan(options(space="stages"), MergeRecipe(start_layer=str(tmp_path / "plateau.json")), DEPTH)
    assert [one.name.split(":")[0] for one in rounds[0]] == ["0-19", "20-27", "0-27"]
    assert list(rounds) == [0], "stages say themselves where they start"


@pytest.mark.parametrize(("stages", "message"), [(None, "takes the stages that a masking probe"), ({}, "no stages")])
def test_stages_that_no_probe_found_are_one_clear_sentence(stages, message):
    with pytest.raises(ConfigError, match=message):
        expand("stages", RECIPE, [18], DEPTH, stages)


def test_lists_and_products_say_only_what_differs():
    listed = expand([{"lambda_lm": 0.3, "lambda_vlm": 0.9}, {"start_layer": 3}], RECIPE, [18], DEPTH)
    assert [one.name for one in listed] == ["18: .3 LM + .9 VLM", "18: 0 LM + 1.2 VLM", "3: .5 LM + .5 VLM"]
    product = expand({"start_layer": [3, 4], "lambda_lm": [0.2, 0.4]}, RECIPE, [18], DEPTH)
    assert [one.name for one in product if one.kind == "merge"] == [
        "3: .2 LM + .5 VLM",
        "3: .4 LM + .5 VLM",
        "4: .2 LM + .5 VLM",
        "4: .4 LM + .5 VLM",
    ]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("lines", r"search.space is one of line, .*not 'lines'. Did you mean 'line'\?"),
        ([], "empty space"),
        ({"lambda": [1]}, r"no field 'lambda'. Did you mean 'lambda_\w+'\?"),
        ([{"lambda_lm": -1}], "search.space: lambda_lm: Input should be greater"),
        ([{"start_layer": 28}], "layers 28 to 27 are not all within the decoder's 0 to 27"),
        ([{"end_layer": 10}], "layers 18 to 9 are not all within"),
        (7, "not 7"),
    ],
)
def test_what_is_no_space_is_one_clear_sentence(space, message):
    with pytest.raises(ConfigError, match=message):
        expand(space, RECIPE, [18], DEPTH)


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("around", [16, 17, 18, 19, 20]),
        ("all", list(range(28))),
        ("every 9", [0, 9, 18, 27]),
        ("19 17", [17, 19]),
        ([3, 1], [1, 3]),
        (8, [8]),
        ("8", [8]),
    ],
)
def test_start_layers(words, layers):
    assert options(start_layers=words).layers(18, DEPTH) == layers


@pytest.mark.parametrize("words", ["28", "-1", "around it", "", []])
def test_start_layers_that_cannot_be_meant(words):
    with pytest.raises(ConfigError, match="start_layers are 'around', 'all', 'every N' or layers from 0 to 27"):
        options(start_layers=words).layers(18, DEPTH)


def test_one_start_layer_and_no_race_are_read_as_the_command_line_and_yaml_give_them():
    given = read_settings("config=digits,search.start_layers=8,search.racing=off").search
    assert options(**given).layers(8, 12) == [8]
    assert options(**given).z is None
    assert options(**yaml.safe_load("racing: off")).z is None, "a bare off is false in YAML"


def test_a_search_that_would_cost_too_much_is_refused_with_the_estimate():
    with pytest.raises(
        ConfigError, match=r"would cost about \d+ ordinary runs without racing, and search.most allows 40"
    ):
        _plan(options(space="grid", start_layers="18"), RECIPE, DEPTH)
    assert _plan(options(space="grid", start_layers="18", most=1000), RECIPE, DEPTH)


def test_the_layers_around_go_on_by_three_to_either_side_and_end_with_the_decoder():
    rounds = _plan(options(most=1000), RECIPE, DEPTH)
    assert {edge: {one.recipe.start_layer for one in found} for edge, found in rounds.items() if edge} == {
        -1: {15}, -2: {14}, -3: {13}, 1: {21}, 2: {22}, 3: {23}
    }  # fmt: skip
    late = _plan(options(), MergeRecipe(start_layer=26), DEPTH)
    assert sorted(late) == [-3, -2, -1, 0]
    assert {one.recipe.start_layer for one in late[0]} == {24, 25, 26, 27}
