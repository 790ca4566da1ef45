"""The model config refuses what it doesn't know, and says what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lmms_plam.config import ALL_MODULES, ATTENTION, MergeRecipe, folder_name, load_config, shipped_configs
from lmms_plam.errors import ConfigError
from lmms_plam.paths import data_folder


def write(folder: Path, **content: object) -> str:
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({"vlm": "org/vlm", "base_lm": "org/lm", **content}))
    return str(path)


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_with_a_base_lm_and_a_recipe(name):
    config = load_config(name)
    assert config.name == name
    assert config.base_lm is not None
    assert config.merge is not None


AUTHORS = {
    "qwen2_5_vl_3b": (23, 0.4, 0.6),
    "qwen2_5_vl_7b": (21, 0.4, 0.8),
    "qwen3_vl_4b": (21, 0.3, 0.9),
    "qwen3_vl_8b": (24, 0.3, 0.9),
}
"""Start layer and coefficients of the recipes in the PlaM authors' own scripts (github wzj1718)."""


@pytest.mark.parametrize("name", shipped_configs())
def test_a_config_with_the_authors_recipe_has_its_source_and_its_control(name):
    recipes = load_config(name).recipes
    if name not in AUTHORS:
        assert "authors" not in recipes
        return
    start, lm, vlm = AUTHORS[name]
    assert recipes["authors"] == MergeRecipe(start_layer=start, lambda_lm=lm, lambda_vlm=vlm), "attention, to the end"
    control = recipes.get("authors_scaled")
    scaled = MergeRecipe(start_layer=start, lambda_lm=0, lambda_vlm=round(lm + vlm, 9))
    assert control == (None if lm + vlm == 1 else scaled), "at a sum of 1 it is the untouched VLM"
    assert "github" in (data_folder("model_configs") / f"{name}.yaml").read_text()


@pytest.mark.parametrize("form", ["ratio", "share"])
def test_the_blogs_grid_has_its_18_recipes_in_both_readings(form):
    grid = load_config("blog_qwen2_5_vl_7b", {} if form == "ratio" else {"merge.schedule_form": form})
    recipes = {**grid.recipes, "s2_m3_a4": grid.merge}
    settings, methods = {"1": "all", "2": "attention"}, {"1": "constant", "2": "linear", "3": "loglinear"}
    assert recipes == {
        f"s{one}_m{two}_a{alpha}": MergeRecipe(
            modules=modules,
            start_layer=0,
            schedule=schedule,
            schedule_form=form,
            lambda_lm=alpha / 10,
            lambda_vlm=round(1 - alpha / 10, 1),
        )
        for one, modules in settings.items()
        for two, schedule in methods.items()
        for alpha in (4, 5, 6)
    }


def test_dotted_overrides_win_over_the_file(tmp_path):
    path = write(tmp_path, merge={"start_layer": 3, "lambda_lm": 0.2})
    config = load_config(path, {"merge.start_layer": 20, "merge.modules": "q+k", "backend_args.max_pixels": 9})
    assert config.merge == MergeRecipe(start_layer=20, lambda_lm=0.2, modules=("q", "k"))
    assert config.backend_args == {"max_pixels": 9}


def test_none_turns_the_merge_off_and_a_later_field_on_again(tmp_path):
    path = write(tmp_path, merge={"lambda_lm": 0.2})
    assert load_config(path, {"merge": "none"}).merge is None
    assert load_config(path, {"merge": "none", "merge.lambda_lm": 0.3}).merge == MergeRecipe(lambda_lm=0.3)


def test_a_recipe_leaves_out_what_is_as_in_merge(tmp_path):
    path = write(tmp_path, merge={"start_layer": 3, "lambda_lm": 0.2}, recipes={"late": {"start_layer": 5}})
    config = load_config(path, {"merge.modules": "q+k", "recipes.strong.lambda_lm": 0.9})
    assert config.recipes == {
        "late": MergeRecipe(start_layer=5, lambda_lm=0.2, modules=("q", "k")),
        "strong": MergeRecipe(start_layer=3, lambda_lm=0.9, modules=("q", "k")),
    }
    alone = load_config(path, {"merge": "none"})
    assert alone.recipes == {"late": MergeRecipe(start_layer=5)}


def test_module_sets_expand_and_repeats_collapse():
    assert MergeRecipe(modules="attention").modules == ATTENTION
    assert MergeRecipe(modules="all").modules == ALL_MODULES
    assert MergeRecipe(modules=["q", "attention", "mlp"]).modules == (*ATTENTION, "mlp")


def test_local_references_are_resolved_beside_the_file(tmp_path):
    config = load_config(write(tmp_path, vlm="./vlm", base_lm="plam:digits/base_lm"))
    assert config.vlm == str(tmp_path / "vlm")
    assert config.base_lm is not None
    assert config.base_lm.endswith("lmms_plam/digits/base_lm")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"merge.lamda_lm": 1}, ["merge.lamda_lm", "Did you mean 'lambda_lm'?"]),
        ({"bakend": "llava_hf"}, ["bakend", "Did you mean 'backend'?"]),
        ({"family_memory": 0}, ["family_memory", "greater than 0"]),
        ({"family_memory": 1e300}, ["family_memory", "1e+300", "less than"]),
        ({"merge.lambda_lm": -0.1}, ["merge.lambda_lm", "-0.1", "greater than or equal to 0"]),
        ({"merge.lambda_lm": float("nan")}, ["merge.lambda_lm", "finite"]),
        ({"merge.lambda_lm": "much"}, ["merge.lambda_lm", "much", "number"]),
        ({"merge.lambda_lm": 0, "merge.lambda_vlm": 0}, ["both 0"]),
        ({"merge.modules": "q+w"}, ["merge.modules", "'w'"]),
        ({"merge.start_layer": -1}, ["start_layer", "-1"]),
        ({"merge.start_layer": True}, ["start_layer", "True"]),
        ({"merge.start_layer": ""}, ["start_layer", "''"]),
        ({"merge.start_layer": 1.5}, ["start_layer", "1.5"]),
        ({"merge.start_layer": [3]}, ["merge.start_layer", "[3]"]),
        ({"merge.schedule": "cosine"}, ["merge.schedule", "cosine"]),
        ({"merge": {}, "base_lm": None}, ["base_lm is missing"]),
        ({"vlm": 3}, ["'vlm'", "string"]),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy_in_one_line(tmp_path, overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path), overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("my.yaml: ")
    for word in words:
        assert word in message


def test_an_unknown_config_names_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no model config 'qwen2_5_vl_7'.*Did you mean 'qwen2_5_vl_7b'\?"):
        load_config("qwen2_5_vl_7")


def test_a_config_in_another_folder_is_told_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/my.yaml").vlm == "org/vlm"
    with pytest.raises(ConfigError, match=rf"'my\.yaml': neither a file in {tmp_path} nor a shipped name"):
        load_config("my.yaml")
    with pytest.raises(ConfigError, match=rf"'{tmp_path}/my\.yaml': neither a file nor a shipped name"):
        load_config(f"{tmp_path}/my.yaml")


def test_broken_yaml_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("vlm: [unclosed")
    with pytest.raises(ConfigError, match=r"broken\.yaml is no valid YAML"):
        load_config(str(path))


def test_a_models_folder_is_called_as_its_config_and_another_recipes_otherwise():
    def name(**overrides):
        return folder_name(load_config("digits", overrides), overrides)

    assert name() == "digits"
    assert name(**{"probe.cuts": "all", "engine_check": False}) == "digits"
    assert name(**{"merge.start_layer": 3}) == name(**{"merge.start_layer": 3, "probe.cuts": "all"})
    assert re.fullmatch("digits-[0-9a-f]{6}", name(**{"merge.start_layer": 3}))
    assert len({name(), name(merge="none"), *(name(**{"merge.start_layer": k}) for k in range(4))}) == 6
    assert name(**{"merge.start_layer": 3, "name": "../ a / b"}) == "_a_b"
