"""A study's YAML becomes the cells that are meant, named by what they do; what can't be meant is said in a sentence."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from study_cells import cell

from lmms_plam.config import load_config
from lmms_plam.errors import ConfigError, DataError
from lmms_plam.study.cell import Cell, command
from lmms_plam.study.expand import plan_study
from lmms_plam.study.plan import PLAN, Plan
from lmms_plam.study.schema import Study, read_asked

DIGITS = {
    "models": ["digits"],
    "benchmarks": ["plam_digits", "plam_digits_text"],
    "tune_on": ["plam_digits_text"],
    "steps": ["probe", "search", "compare", "attention"],
    "limit": 500,
}


def planned(**fields) -> Plan:
    return plan_study(Study.model_validate({**DIGITS, **fields}))


def by_step(plan: Plan) -> dict[str, list]:
    found: dict[str, list] = {}
    for one in plan.cells:
        found.setdefault(one.step, []).append(one)
    return found


def test_each_model_step_and_benchmark_is_a_cell_and_recipes_are_compared_where_they_were_not_tuned():
    cells = by_step(planned())
    assert {step: [one.tasks for one in own] for step, own in cells.items()} == {
        "probe": [("plam_probe_digits",)],
        "search": [("plam_search_digits_text",)],
        "compare": [("plam_compare_digits",)],
        "attention": [("plam_attention_digits",)],
    }
    assert planned().notes == ("no probe of digits_text: there is no task plam_probe_digits_text",)


def test_a_comparison_takes_its_searchs_recipe_and_comes_after_it(tmp_path):
    cells = by_step(planned())
    (search,), (compare,) = cells["search"], cells["compare"]
    assert compare.after == (search.name,)
    (model_args,) = [word for word in command(compare, tmp_path, ()) if word.startswith("config=")]
    recipe = f"{tmp_path}/cells/{search.name}/plam/digits/plam_search_digits_text/recipe.yaml"
    assert f"merge={recipe}" in model_args.split(",")


def test_of_several_searches_each_recipe_is_asked_in_the_same_comparison(tmp_path):
    plan = planned(
        models=["microworld"], benchmarks=["microworld", "digits", "digits_text"], tune_on=["digits", "digits_text"]
    )
    (compare,) = by_step(plan)["compare"]
    given = next(word for word in compare.arguments if word.startswith("config="))
    assert len(compare.after) == 2
    assert given.count("recipe.yaml") == 2
    assert "recipes.tuned_on_digits_text=" in given


@pytest.mark.parametrize(
    ("found", "given"),
    [({"onset": 3, "depth": 12}, True), ({"onset": None, "depth": 12}, False), ({"onset": 12, "depth": 12}, False)],
)
def test_a_search_starts_at_its_probes_plateau_where_there_is_one(tmp_path, found, given):
    cells = by_step(planned(benchmarks=["digits"], tune_on=[]))
    (probe,), (search,) = cells["probe"], cells["search"]
    assert search.after == (probe.name,)
    path = tmp_path / search.plateau
    assert f"merge.start_layer={path}," in " ".join(command(search, tmp_path, ())), (
        "taken for granted until it is there"
    )
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found))
    assert (f"merge.start_layer={path}," in " ".join(command(search, tmp_path, ()))) == given


def test_without_tune_on_recipes_are_cross_fitted_and_the_configs_own_is_compared():
    cells = by_step(planned(benchmarks=["digits"], tune_on=[]))
    assert cells["compare"][0].after == ()
    assert "merge=" not in " ".join(cells["compare"][0].arguments)


def test_a_groups_benchmarks_are_cells_of_their_own():
    plan = planned(models=["qwen2_5_vl_7b"], benchmarks=["nine"], tune_on=[], steps=["probe"])
    assert len(plan.cells) == 9
    assert plan.cells[0].tasks == ("plam_probe_mmstar",)


def names(**fields) -> dict[str, str]:
    return {one.step: one.name for one in planned(**fields).cells}


def test_an_edit_renames_what_it_changes_and_what_follows_from_it():
    before = names()
    assert names() == before
    edited = {
        "limit": ({"limit": 400}, {"probe", "search", "compare", "attention"}),
        "search": ({"model_args": {"search.start_layers": 8}}, {"search", "compare", "attention"}),
        "probe": ({"model_args": {"probe.cuts": "every 4"}}, {"probe"}),
        "attention": ({"model_args": {"attention.pictures": 3}}, {"attention"}),
    }
    for words, (fields, changed) in edited.items():
        after = names(**fields)
        assert {step for step in before if before[step] != after[step]} == changed, words


def test_a_further_benchmark_adds_cells_and_changes_none():
    before = {one.name for one in planned().cells}
    assert before < {one.name for one in planned(benchmarks=["digits", "digits_text", "microworld"]).cells}


def test_an_edited_model_config_is_another_model(tmp_path):
    content = load_config("digits").model_dump(mode="json", exclude={"recipes"}, exclude_none=True)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, "name": "mine"}))
    before = names(models=[str(path)])
    content["merge"] = {"start_layer": 9}
    path.write_text(yaml.safe_dump({**content, "name": "mine"}))
    assert names(models=[str(path)])["compare"] != before["compare"]


def test_a_study_means_the_same_in_another_folder(tmp_path):
    (probe, *_) = planned().cells
    assert str(tmp_path) not in json.dumps(probe.to_dict())
    assert str(tmp_path / "here") in " ".join(command(probe, tmp_path / "here", ()))


def test_an_export_is_served_by_vllm_on_what_was_not_tuned_on():
    cells = by_step(planned(report_with="vllm", vllm_args={"max_model_len": 256}))
    (export,), (serve,) = cells["export"], cells["serve"]
    assert export.program == "plam"
    assert export.arguments[0] == "merge"
    assert any(word.startswith("merge={study}/cells/search-") for word in export.arguments)
    assert serve.after == (export.name,)
    assert serve.tasks == ("plam_digits",)
    given = serve.arguments[serve.arguments.index("--model_args") + 1]
    assert given == f"model={{study}}/cells/{export.name}/checkpoint,max_new_tokens=1,max_model_len=256"
    assert serve.needs == export.needs == ("vllm",)


def served(benchmarks: list[str], **fields) -> list[Cell]:
    """Return the cells that serve benchmarks with their configs' own recipe."""
    plan = planned(benchmarks=benchmarks, tune_on=[], steps=["compare"], report_with="vllm", **fields)
    return by_step(plan).get("serve", [])


def word_behind(option: str, cell: Cell) -> str | None:
    return cell.arguments[cell.arguments.index(option) + 1] if option in cell.arguments else None


@pytest.mark.parametrize(
    ("benchmark", "fields", "own"),
    [
        ("gqa", {}, True),  # in its own YAML
        ("mmbench_en_dev", {}, True),  # in one that this includes
        ("mmstar", {}, False),
        ("mmstar", {"gen_kwargs": "max_new_tokens=16"}, True),
    ],
)
def test_only_where_nobody_limits_answers_the_model_type_does(benchmark, fields, own):
    (cell,) = served([benchmark], models=["qwen2_5_vl_7b"], **fields)
    assert ("max_new_tokens=1" in word_behind("--model_args", cell).split(",")) == own
    (cell,) = served([benchmark], models=["qwen2_5_vl_7b"], vllm_args={"max_new_tokens": 64}, **fields)
    assert [word for word in word_behind("--model_args", cell).split(",") if "tokens" in word] == ["max_new_tokens=64"]


def test_vllm_finds_its_device_and_gets_as_many_prompts_at_once_as_its_own_arguments_say():
    (cell,) = served(["digits"], device="cpu", batch_size=2)
    assert (word_behind("--device", cell), word_behind("--batch_size", cell)) == (None, "2")
    (cell,) = served(["digits"], device="cpu", batch_size=2, vllm_args={"batch_size": 64})
    assert word_behind("--batch_size", cell) == "64"
    assert "batch_size" not in word_behind("--model_args", cell)


def test_texts_that_are_ranked_arent_served():
    fields = {"models": ["babyllava"], "tune_on": [], "steps": ["compare"], "report_with": "vllm"}
    plan = planned(benchmarks=["babyllava_pairs"], **fields)
    assert set(by_step(plan)) == {"compare"}
    assert "babyllava_pairs isn't served: it ranks given texts, and vLLM is asked for answers alone" in plan.notes
    mixed = planned(benchmarks=["babyllava_pairs", "digits"], **fields)
    assert [cell.tasks for cell in by_step(mixed)["serve"]] == [("plam_digits",)]


def test_five_models_on_nine_benchmarks_are_planned_in_two_seconds():
    models = ["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_4b", "qwen3_vl_8b", "llava_1_5_7b"]
    steps = ["probe", "search", "compare", "attention"]
    began = time.perf_counter()
    plan = planned(models=models, benchmarks=["nine"], tune_on=[], steps=steps, report_with="vllm")
    assert time.perf_counter() - began < 2
    assert len(plan.cells) == 5 * (9 * 5 + 1)


def test_cells_stand_after_those_that_they_need():
    late, early = cell("late", "early"), cell("early")
    assert [one.name for one in Plan.of([late, early]).cells] == ["early", "late"]


def test_a_circle_is_named():
    with pytest.raises(ConfigError, match="in a circle: a -> b -> a"):
        Plan.of([cell("a", "b"), cell("b", "a")])


def test_a_missing_step_is_named():
    with pytest.raises(ConfigError, match="b needs a, which is no cell of this study: a step is missing"):
        Plan.of([cell("b", "a")])


def test_two_cells_of_one_folder_are_refused():
    with pytest.raises(ConfigError, match="two cells would write one folder, a:"):
        Plan.of([cell("a"), cell("a")])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"models": ["digitz"]}, r"models: no model config 'digitz'.* Did you mean 'digits'"),
        ({"benchmarks": ["digit"], "tune_on": []}, r"no benchmark 'digit' for .* Did you mean 'digits'"),
        ({"steps": ["probe", "serch"]}, r"unknown step 'serch'\. Did you mean 'search'"),
        ({"benchmark": ["digits"]}, r"unknown field 'benchmark'\. Did you mean 'benchmarks'"),
        ({"steps": ["probe", "compare"]}, r"tune_on says where recipes are searched, and the step 'search' is missing"),
        ({"benchmarks": ["digits_text"]}, r"every benchmark is in tune_on"),
        ({"models": "digits"}, r"'models' takes a list, as in `models: \[digits\]`"),
        ({"models": []}, r"'models' is an empty list: it takes one or more"),
        (
            {"benchmarks": ["digits_text"], "tune_on": [], "steps": ["attention"]},
            r"'digits_text' for attention: there is no task plam_attention_digits_text\. Did you mean 'digits'\?",
        ),
        (
            {"benchmarks": ["digits_text"], "tune_on": ["digits"], "steps": ["probe", "search", "attention"]},
            r"for probe, attention: there is no task plam_probe_digits_text\. Did you mean 'digits'\?",
        ),
        ({"models": ["digits", "digits"]}, r"models has 'digits' twice, and two cells would write one folder"),
        ({"limit": 0}, r"'limit' = 0"),
        ({"model_args": {"merge.lamda_lm": 1}}, r"unknown field 'merge.lamda_lm'"),
        ({"include_path": "nowhere"}, r"include_path: no folder nowhere"),
        ({"vllm_args": {"a": 1}}, r"vllm_args are of no use"),
        ({"report_with": "vllm", "vllm_args": {"model": "b"}}, r"vllm_args can't name a model: what is served is the"),
        ({"report_with": "vllm", "vllm_args": {"a": "b,c"}}, r"vllm_args: 'a' has a comma, which ends a field"),
    ],
)
def test_what_cant_be_meant_is_said_in_a_sentence(tmp_path, fields, words):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**DIGITS, **fields}))
    with pytest.raises(ConfigError, match=words) as raised:
        plan_study(read_asked(path, Study)[0])
    assert "\n" not in str(raised.value)


def test_two_models_of_one_name_are_refused(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pair.yaml").write_text("vlm: a/b\nbase_lm: c/d\nmerge: {start_layer: 0.5}\n")
    with pytest.raises(ConfigError, match="both called pair, so that two cells would write one folder"):
        planned(models=[str(tmp_path / folder / "pair.yaml") for folder in ("one", "other")])


@pytest.mark.parametrize("text", ["models: [", "- a", "\xff"])
def test_what_is_no_yaml_of_a_study_is_said(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        read_asked(path, Study)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = planned()
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan
    assert Plan.read(tmp_path / "elsewhere") is None


def test_a_folder_of_another_version_is_refused(tmp_path):
    planned().write(tmp_path)
    path = tmp_path / PLAN
    path.write_text(path.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(DataError, match="folder of version 7, and this lmms-plam writes version 1"):
        Plan.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "cells": [{"name": "a"}]}'])
def test_a_damaged_plan_is_said(tmp_path, text):
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(DataError):
        Plan.read(tmp_path)


def test_a_recipe_from_a_file_gives_further_recipes_what_they_leave_out(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("start_layer: 7\nlambda_lm: 0.4\nlambda_vlm: 0.6\n")
    found = load_config("microworld", {"merge": str(path), "recipes.other": str(path)})
    assert found.merge == found.recipes["other"]
    assert found.recipes["scaled"] == found.merge.model_copy(update={"lambda_lm": 0.0, "lambda_vlm": 0.9})


def test_files_of_a_cell_lie_where_the_harness_puts_them():
    assert replace(cell("a"), model="m").file("task", "plateau.json") == str(Path("cells/a/plam/m/task/plateau.json"))
