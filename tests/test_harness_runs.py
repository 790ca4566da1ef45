"""Whole evaluations through the unmodified harness: prompts by model name, caches, records, interruptions, tables."""

from __future__ import annotations

import argparse
import json
import re
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from family_folders import of_model
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker
from lmms_eval.tasks import TaskManager
from loguru import logger

from lmms_plam.errors import ConfigError, UnsupportedError
from lmms_plam.harness import host
from lmms_plam.harness.backends import build_backend
from lmms_plam.harness.model import Plam, PlamSimple
from lmms_plam.paths import data_folder
from lmms_plam.stats.matrix import ScoreMatrix

TASK = """
include: {common}
task: {name}
doc_to_visual: !function lmms_plam.digits.benchmark.show_picture
doc_to_text: !function by_name.question
lmms_eval_specific_kwargs:
  default: {{words: "default words"}}
  qwen2_5_vl: {{words: "words for the backend"}}
  plam: {{words: "words for nobody"}}
"""


@pytest.fixture
def tasks(tmp_path):
    """A folder of the user's own, with a task whose prompt depends on the model's name."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    common = data_folder("tasks") / "_plam_digits_common.yaml"
    (folder / "by_name.yaml").write_text(TASK.format(common=common, name="by_name"))
    (folder / "by_name.py").write_text(
        "def question(doc, lmms_eval_specific_kwargs=None):\n"
        "    return doc['question'] + ' ' + lmms_eval_specific_kwargs['words']\n"
    )
    return folder


def config_file(pair, folder: Path, **content) -> Path:
    path = folder / "pair.yaml"
    path.write_text(
        yaml.safe_dump(
            {"vlm": str(pair.vlm), "base_lm": str(pair.base_lm), "backend_args": pair.backend_args, **content}
        )
    )
    return path


@cache
def task_manager(include: str | None) -> TaskManager:
    """Index the harness's thousands of YAML files once."""
    return TaskManager(include_path=include)


def exact(path: Path, simple: bool = False, **options) -> Plam:
    """A model in float32, where answers don't hang on the rounding of a near-tie."""

    def load(*arguments, **settings):
        backend = build_backend(*arguments, **settings)
        backend.model.float()
        return backend

    with patch("lmms_plam.harness.model.build_backend", load):
        return (PlamSimple if simple else Plam)(config=str(path), **options)


def evaluate(model, model_args, tasks, *, limit=4, include=None, output=None, **options):
    """Run the harness as its command line does, and save results if a folder is given."""
    arguments = argparse.Namespace(output_path=str(output) if output else None, process_with_media=False)
    tracker = EvaluationTracker(output_path=str(output)) if output else None
    manager = task_manager(include and str(include))
    manager.model_name = model if isinstance(model, str) else "plam"
    results = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=tasks,
        task_manager=manager,
        limit=limit,
        cli_args=arguments,
        evaluation_tracker=tracker,
        datetime_str="now",
        **options,
    )
    if tracker:
        tracker.save_results_aggregated(results=results, samples=None, datetime_str="now")
    return results


def test_a_prompt_that_depends_on_the_models_name_is_the_backends(pairs, tmp_path, tasks):
    pair = pairs["qwen2_5_vl"]
    small = ",".join(f"{name}={value}" for name, value in pair.backend_args.items())
    own = evaluate(
        "qwen2_5_vl", f"pretrained={pair.vlm},device_map=cpu,{small}", ["by_name"], include=tasks, device="cpu"
    )
    ours = evaluate("plam", f"config={config_file(pair, tmp_path)}", ["by_name"], include=tasks)
    told = [[(s["arguments"][0], s["filtered_resps"]) for s in run["samples"]["by_name"]] for run in (own, ours)]
    assert "words for the backend" in told[0][0][0]
    assert told[0] == told[1]


def test_cached_answers_serve_the_same_recipe_and_no_other(pairs, tmp_path, generated):
    pair = pairs["qwen2_5_vl"]
    cache = str(tmp_path / "cache")

    def asked(**recipe):
        path = config_file(pair, tmp_path, merge={"start_layer": 1, **recipe})
        before = generated.prompts
        evaluate("plam", f"config={path}", ["plam_digits"], use_cache=cache)
        return generated.prompts - before

    assert asked() == 4
    assert asked() == 0
    assert asked(lambda_lm=0.9) == 4, "the file's content changed under the same --model_args"
    assert asked() == 0


def test_changed_weights_are_not_served_from_the_cache(pairs, tmp_path, generated):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    pair = pairs["qwen2_5_vl"]
    vlm = copytree(pair.vlm, tmp_path / "vlm")
    path = config_file(pair, tmp_path, vlm=str(vlm))
    for expected in (4, 8):
        evaluate("plam", f"config={path}", ["plam_digits"], use_cache=str(tmp_path / "cache"))
        assert generated.prompts == expected
        weights = load_file(vlm / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * torch.tensor(1.5, dtype=torch.bfloat16)
        save_file(weights, vlm / "model.safetensors", metadata={"format": "pt"})


def test_the_results_folder_says_what_answered(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 1})
    evaluate("plam", f"config={path}", ["plam_digits", "plam_probe_digits"], output=tmp_path / "runs")
    record = json.loads((tmp_path / "runs" / "now_plam.json").read_text())
    assert (tmp_path / "runs" / "now_results.json").is_file()
    assert record["config"]["merge"]["start_layer"] == 1
    proof = record["engine"]["plam_probe_digits"]
    assert (proof["way"], proof["why"]) == ("engine", "")
    assert proof["largest"] <= proof["allowed"] < proof["seen"]
    assert record["merge"]["merged"][0]["name"].endswith("layers.1.self_attn.q_proj.weight")


def test_a_probe_writes_its_curve_and_ends_where_the_plain_run_does(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    results = evaluate(exact(path), "", ["plam_probe_digits", "plam_digits"], output=tmp_path / "runs", limit=8)
    folder = of_model(tmp_path / "runs") / "plam_probe_digits"
    assert {p.name for p in folder.iterdir()} == {
        "matrix.parquet", "curve.json", "plateau.json", "curve.png", "curve.svg"
    }  # fmt: skip
    matrix = ScoreMatrix.read(folder / "matrix.parquet")
    plain = [sample["filtered_resps"][0] for sample in results["samples"]["plam_digits"]]
    depth = len(matrix.variants) - 1
    assert matrix.answers[:, matrix.column(str(depth))].tolist() == plain
    assert (matrix.answers[:, 0] != matrix.answers[:, depth]).any(), "hiding the image changed nothing"
    assert matrix.clusters.tolist() == ["0"] * 7 + ["1"], "seven questions about a grid"
    assert results["results"]["plam_probe_digits"]["full,none"] == results["results"]["plam_digits"]["accuracy,none"]


def test_a_probe_that_the_engine_cannot_share_runs_plainly_and_says_so_once(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    told = []
    sink = logger.add(told.append, level="WARNING")
    tasks = ["plam_probe_digits", "plam_digits"]
    results = evaluate(exact(path), "", tasks, output=tmp_path / "runs", gen_kwargs="num_beams=2")
    logger.remove(sink)
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "plam_probe_digits" / "matrix.parquet")
    plain = [sample["filtered_resps"][0] for sample in results["samples"]["plam_digits"]]
    assert matrix.answers[:, -1].tolist() == plain
    assert sum("can't apply beam_search" in message and "runs by itself" in message for message in told) == 1


def test_what_an_interrupted_probe_answered_is_not_asked_again(pairs, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    run = {"model": "plam", "model_args": f"config={path}", "tasks": ["plam_probe_digits"]}
    run |= {"output": tmp_path / "runs", "limit": 8}
    generated.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(**run)
    assert generated.prompts == 3
    generated.stop_after = None
    evaluate(**run)
    assert generated.prompts == 8
    assert not list((tmp_path / "runs").rglob("answers.*.jsonl"))


def test_a_comparison_answers_as_two_separate_runs_do(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    recipe = {"start_layer": 2, "lambda_lm": 1.0, "lambda_vlm": 0.0}
    path = config_file(pair, tmp_path, merge=recipe)
    evaluate(exact(path), "", ["plam_compare_digits"], output=tmp_path / "runs", limit=8)
    folder = of_model(tmp_path / "runs") / "plam_compare_digits"
    matrix = ScoreMatrix.read(folder / "matrix.parquet")
    assert {"comparison.json", "comparison.html", "forest.svg"} <= {p.name for p in folder.iterdir()}
    for variant, merge in (("base", "none"), ("merged", recipe)):
        alone = evaluate(exact(config_file(pair, tmp_path, merge=merge)), "", ["plam_digits"], limit=8)
        expected = [sample["filtered_resps"][0] for sample in alone["samples"]["plam_digits"]]
        assert matrix.answers[:, matrix.column(variant)].tolist() == expected
    assert (matrix.answers[:, 0] != matrix.answers[:, 1]).any()


def test_further_recipes_stand_beside_the_merge_in_a_comparison(pairs, tmp_path):
    recipes = {"strong": {"start_layer": 1, "lambda_lm": 1.0}}
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 2}, recipes=recipes)
    evaluate("plam", f"config={path}", ["plam_compare_digits"], output=tmp_path / "runs", limit=14)
    folder = of_model(tmp_path / "runs") / "plam_compare_digits"
    assert ScoreMatrix.read(folder / "matrix.parquet").variants == ("base", "merged", "strong")
    assert all(0 <= record["better_p"] <= 1 for record in json.loads((folder / "comparison.json").read_text()))
    assert "is any of the 2 recipes better? p " in (folder / "comparison.md").read_text()


def test_a_family_task_needs_the_plam_model(pairs, monkeypatch):
    monkeypatch.setattr(host, "_running", None)
    pair = pairs["qwen2_5_vl"]
    with pytest.raises(ConfigError, match="run it with --model plam"):
        evaluate("qwen2_5_vl", f"pretrained={pair.vlm},device_map=cpu", ["plam_probe_digits"], device="cpu")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("of: plam_digit", ConfigError, "no task 'plam_digit'. Did you mean 'plam_digits'?"),
        ("of: plam_digits\ncutts: all", ConfigError, "Did you mean 'cuts'?"),
        ("of: plam_digits\ncuts: some", ConfigError, "cuts are 'all', 'every N' or a list"),
        ("of: plam_digits\ncuts: 5", ConfigError, "'cuts' = 5: cuts are 'all', 'every N' or a list"),
        ("of: plam_digits\ncuts: [true, 4, 5, 6]", ConfigError, "cuts are 'all', 'every N' or a list"),
        ("of: plam_digits\nqueries: some", ConfigError, "'queries' = 'some'"),
        ("cuts: all", ConfigError, "'of': Field required"),
        ("of: plam_digits\ncuts: [0, 99]", ConfigError, "cuts lie between 0 and the model's"),
        ("of: plam_digits\ncuts: [1, 2]", ConfigError, "a curve of 4 cuts (0, 1, 2, 5) shows no plateau"),
        ("of: plam_probe_nine", ConfigError, "is a group of tasks"),
        ("of: plam_probe_mme", UnsupportedError, "is a Python class"),
    ],
)
def test_a_family_task_that_cant_be_meant_says_so(pairs, tmp_path, content, error, words):
    folder = tmp_path / "own"
    folder.mkdir()
    head = "task: own_probe\nclass: !function lmms_plam.families.MaskingProbe\n"
    (folder / "own.yaml").write_text(head + content + "\n")
    with pytest.raises(error, match=re.escape(words)):
        evaluate("plam", f"config={config_file(pairs['qwen2_5_vl'], tmp_path)}", ["own_probe"], include=folder)


def test_every_family_answers_a_probe(pair, tmp_path):
    path = config_file(pair, tmp_path)
    evaluate("plam", f"config={path}", ["plam_probe_digits"], output=tmp_path / "runs", limit=2)
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "plam_probe_digits" / "matrix.parquet")
    assert matrix.scores.shape[0] == 2


def test_batches_of_family_requests_reach_their_documents(pairs, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    answers = []
    for batch_size in (1, 4):
        output = tmp_path / f"runs{batch_size}"
        evaluate(exact(path, batch_size=batch_size), "", ["plam_probe_digits"], output=output, limit=6)
        answers.append(ScoreMatrix.read(of_model(output) / "plam_probe_digits" / "matrix.parquet").answers.tolist())
    assert answers[0] == answers[1]
