"""A failed run of lmms-eval's command line is seen by a script: a non-zero exit code, and one sentence last."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import CommandLine
from family_folders import of_model
from safetensors.torch import load_file, save_file
from tiny_tasks import write_tasks

from lmms_plam.errors import ConfigError
from lmms_plam.harness.arguments import read_settings

FAILING = """
import os, shutil, signal
from pathlib import Path
from tiny_tasks import ask, one_image, score


def out_of_memory(doc):
    if doc["index"] == 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate\\n 2 GiB")
    return one_image(doc)


def interrupt(doc):
    if doc["index"] == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return one_image(doc)


def placeholder(doc):
    return ask(doc) + (" <|image_pad|>" if doc["index"] == 2 else "")


def one_rank_fails(doc):
    if os.environ.get("RANK") == "1":
        raise ValueError("only here")
    return ask(doc)


def no_score(doc, results):
    if doc["index"] == 4:
        raise KeyError("answer")
    return score(doc, results)


def into_the_way(doc, results):
    folder = Path(os.environ["OUTPUT"])
    if folder.is_dir():
        shutil.rmtree(folder)
        folder.write_text("a file")
    return score(doc, results)
"""
TASKS = {
    "memory": "include: tiny_look.yaml\ndoc_to_visual: !function failing.out_of_memory\n",
    "interrupted": "include: tiny_look.yaml\ndoc_to_visual: !function failing.interrupt\n",
    "pad": "include: tiny_look.yaml\ndoc_to_text: !function failing.placeholder\n",
    "one_rank": "include: tiny_look.yaml\ndoc_to_text: !function failing.one_rank_fails\n",
    "unscored": "include: tiny_look.yaml\nprocess_results: !function failing.no_score\n",
    "unsaved": "include: tiny_look.yaml\nprocess_results: !function failing.into_the_way\n",
    "strata": "include: tiny_look.yaml\nmetadata: {plam: {cluster: question, stratum: colour}}\n",
    "declared": "include: tiny_look.yaml\nmetadata: {plam: {clutser: question}}\n",
    "unlogged": "include: tiny_look.yaml\nmetadata: {plam: {stratum: subject}}\n",
    "nameless": "include: tiny_look.yaml\nmetadata: {plam: {question: question_id}}\n",
    "clusterless": "include: tiny_look.yaml\nmetadata: {plam: {cluster: image_id}}\n",
}
PROBES = {
    "probe_choice": "of: tiny_choice",
    "probe_typo": "of: tiny_lok",
    "probe_option": "of: tiny_look\ncutts: all",
    "probe_cuts": "of: tiny_look\ncuts: [0, 99]",
    "probe_look": "of: tiny_look",
    "probe_text": "of: plam_digits_text",
    **{f"probe_{name}": f"of: {name}" for name in TASKS},
}


@pytest.fixture(scope="module")
def lmms_eval(tmp_path_factory):
    with CommandLine(tmp_path_factory.mktemp("runs")) as command_line:
        yield command_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pairs):
    """Tasks that fail in many ways, and configs of models that do."""
    folder = tmp_path_factory.mktemp("failing")
    write_tasks(folder)
    (folder / "failing.py").write_text(FAILING)
    for name, content in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{content}")
    for name, content in PROBES.items():
        head = f"task: {name}\nclass: !function lmms_plam.families.MaskingProbe\n"
        (folder / f"{name}.yaml").write_text(f"{head}{content}\n")
    comparison = "task: compare_look\nclass: !function lmms_plam.families.Comparison\nof: tiny_look\n"
    (folder / "compare_look.yaml").write_text(comparison)
    pair, other = pairs["qwen2_5_vl"], pairs["llava"]
    config = {"vlm": str(pair.vlm), "base_lm": str(pair.base_lm), "backend_args": pair.backend_args}
    config["merge"] = {"start_layer": 1}
    for name, changes in {
        "well": {},
        "no_vlm": {"vlm": "/no/such/folder"},
        "no_lm": {"base_lm": "/no/such/folder"},
        "misfit": {"base_lm": str(other.base_lm)},
        "llava": {"vlm": str(other.vlm), "base_lm": str(other.base_lm), "backend_args": other.backend_args},
        "short": {"vlm": str(truncated(pair.vlm, folder / "short"))},
        "short_lm": {"base_lm": str(truncated(pair.base_lm, folder / "short_lm"))},
        "nan": {"base_lm": str(with_nan(pair.base_lm, folder / "nan"))},
        "mute": {"vlm": str(without_tokenizer(pair.vlm, folder / "mute"))},
        "deep": {"recipes": {"late": {"start_layer": 40}}},
        "plateau": {"merge": {"start_layer": "runs/plateau.json"}},
        "unmerged": {"merge": "none"},
        "argument": {"backend_args": {"max_pixel": 5}},
    }.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump({**config, **changes}))
    return folder


def truncated(model: Path, copy: Path) -> Path:
    shutil.copytree(model, copy)
    shard = next(copy.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return copy


def with_nan(model: Path, copy: Path) -> Path:
    shutil.copytree(model, copy)
    for shard in copy.glob("*.safetensors"):
        weights = load_file(shard)
        for name in weights:
            if "self_attn.v_proj" in name:
                weights[name][0] = torch.nan
        save_file(weights, shard, metadata={"format": "pt"})
    return copy


def without_tokenizer(model: Path, copy: Path) -> Path:
    shutil.copytree(model, copy)
    for path in (*copy.glob("token*"), *copy.glob("vocab*"), *copy.glob("merges*")):
        path.unlink()
    return copy


def command(folder: Path, config: str, tasks: str, more: str = "") -> str:
    return f"--model plam --model_args config={folder}/{config}.yml --include_path {folder} --tasks {tasks} {more}"


EARLY = [
    ("no_vlm", "tiny_look", "", "'/no/such/folder' is no folder"),
    ("no_lm", "tiny_look", "", "'/no/such/folder' is no folder"),
    ("misfit", "tiny_look", "", "the base LM doesn't fit the VLM's decoder"),
    ("short", "tiny_look", "", "is truncated: "),
    ("short_lm", "tiny_look", "", "is truncated: "),
    ("mute", "tiny_look", "", "mute has no tokenizer"),
    ("deep", "tiny_look", "", "recipes.late: start_layer 40 lies beyond the decoder"),
    ("plateau", "tiny_look", "", "start_layer 'runs/plateau.json' is no file"),
    ("argument", "tiny_look", "", "takes no argument 'max_pixel'. Did you mean 'max_pixels'?"),
    ("unmerged", "compare_look", "", "merge is none, so nothing compares"),
    ("well", "tiny_lok", "", "--tasks: there is no task 'tiny_lok'. Did you mean 'tiny_look'?"),
    ("well", "plam_prob_mme", "", "there is no task 'plam_prob_mme'. Did you mean 'plam_probe_mme'?"),
    ("well", "tiny_x*", "", "there is no task 'tiny_x*'"),
    ("well", "probe_choice", "", "probe_choice: only generate-until tasks can be asked in variants"),
    ("well", "probe_typo", "", "probe_typo: no task 'tiny_lok'. Did you mean 'tiny_look'?"),
    ("well", "probe_option", "", "no option 'cutts'. Did you mean 'cuts'?"),
    ("well", "probe_cuts", "", "cuts lie between 0 and the model's"),
    ("well", "tiny_look", "--batch_size 0", "--batch_size must be a whole number from 1 on, not '0'"),
    ("well", "tiny_look", "--output_path {folder}/well.yml/runs", "well.yml/runs can't be written"),
    ("well", "tiny_look", "--log_samples", "Specify --output_path"),
]  # fmt: skip
LATE = [
    ("nan", "tiny_look", "", "holds NaN or Inf"),
    ("well", "memory", "", "memory, document 2: the backend failed while answering"),
    ("well", "probe_memory", "", "probe_memory, document 2: the backend failed while answering"),
    ("well", "tiny_look", "--gen_kwargs max_new_tokens=-3", ": the backend failed while answering"),
    ("llava", "tiny_look", "--gen_kwargs max_new_tokens=-3", ": the backend failed while answering"),
    ("well", "pad", "", "pad, document 2: "),
    ("well", "probe_pad", "", "probe_pad, document 2: "),
    ("well", "probe_strata", "", "question 'What is the colour of the circle?' lies in two strata of colour"),
    ("well", "probe_declared", "", "metadata.plam.clutser: Extra inputs are not permitted. Did you mean 'cluster'?"),
    ("well", "probe_unlogged", "", "probe_unlogged: document 2: 'subject' is not among what is logged"),
    ("well", "probe_clusterless", "", "documents have no 'image_id' to cluster them by"),
    ("well", "probe_nameless", "", "no 'question_id' to tell its question by"),
    ("well", "unscored", "", "KeyError: 'answer'"),
    ("well", "pad", "--batch_size 2", "pad, documents 5, 2: "),
    ("well", "probe_pad", "--batch_size 2", "probe_pad, documents 5, 2: "),
]


@pytest.mark.parametrize(("config", "tasks", "more", "words"), EARLY)
def test_what_is_wrong_from_the_start_is_said_before_weights_are_loaded(lmms_eval, folder, config, tasks, more, words):
    run = lmms_eval(command(folder, config, tasks, more.format(folder=folder)))
    assert run.code == 1
    assert run.last_line.startswith("lmms-plam: ")
    assert words.format(folder=folder) in run.last_line
    assert "Traceback" not in run.errors + run.output
    assert "Loading weights" not in run.errors


@pytest.mark.parametrize(("config", "tasks", "more", "words"), LATE)
def test_a_failure_is_an_exit_code_and_a_sentence(lmms_eval, folder, tmp_path, config, tasks, more, words):
    run = lmms_eval(command(folder, config, tasks, f"{more} --output_path {tmp_path}"))
    assert run.code == 1
    assert run.last_line.startswith("lmms-plam: ")
    assert words in run.last_line
    assert "Traceback" not in run.errors + run.output
    assert not list(tmp_path.rglob("*_results.json"))


def test_a_run_that_ends_well_exits_with_0(lmms_eval, folder, tmp_path):
    run = lmms_eval(command(folder, "well", "tiny_look,probe_look", f"--output_path {tmp_path} --log_samples"))
    assert run.code == 0
    assert "lmms-plam:" not in run.errors
    (results,) = tmp_path.rglob("*_results.json")
    assert "plam_failures" not in json.loads(results.read_text())


def test_a_traceback_is_there_for_the_asking(lmms_eval, folder):
    run = lmms_eval(command(folder, "well", "memory", "--verbosity DEBUG"))
    assert run.code == 1
    assert "Traceback" in run.errors
    assert "memory, document 2: the backend failed" in run.last_line + run.errors


def test_answers_given_before_a_failure_are_kept(lmms_eval, folder, tmp_path):
    lmms_eval(command(folder, "well", "probe_pad", f"--output_path {tmp_path}"))
    lines = (of_model(tmp_path) / "probe_pad" / "answers.0.jsonl").read_text().split("\n")
    kept = {json.loads(line)["doc_id"] for line in lines if line}
    assert kept
    assert 2 not in kept


@pytest.mark.parametrize("failing", ["probe_unscored", "probe_look"])
def test_a_failed_report_leaves_the_other_tasks_results_and_is_told(lmms_eval, folder, tmp_path, failing):
    limit = "--limit 1" if failing == "probe_look" else ""
    run = lmms_eval(command(folder, "well", f"{failing},tiny_look", f"--output_path {tmp_path} {limit}"))
    (results,) = (json.loads(path.read_text()) for path in tmp_path.rglob("*_results.json"))
    assert run.code == 1
    assert run.last_line.startswith(f"lmms-plam: {failing}: ")
    assert list(results["plam_failures"]) == [failing]
    assert results["plam_failures"][failing] in run.last_line
    assert isinstance(results["results"]["tiny_look"]["luck,none"], float)
    assert "Traceback" not in run.errors + run.output
    if failing == "probe_unscored":
        assert "document 4: unscored's process_results fails on" in run.last_line


def test_results_that_cant_be_written_at_the_end_fail_the_run(lmms_eval, folder, tmp_path):
    output = tmp_path / "out"
    run = lmms_eval(command(folder, "well", "unsaved", f"--output_path {output}"), variables={"OUTPUT": str(output)})
    assert run.code == 1
    assert f"lmms-eval couldn't write {output}" in run.last_line


def test_of_several_evaluations_one_fails_and_the_others_run(lmms_eval, folder, tmp_path):
    each = {"model": "plam", "include_path": str(folder), "model_args": f"config={folder}/well.yml"}
    well = {**each, "tasks": "tiny_look", "output_path": str(tmp_path / "out")}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump([{**each, "tasks": "memory"}, well]))
    run = lmms_eval(f"--config {tmp_path}/all.yaml")
    assert run.code == 1
    assert "memory, document 2: the backend failed" in run.last_line
    assert list(tmp_path.rglob("*_results.json"))


@pytest.mark.parametrize(
    ("tasks", "output", "words"),
    [
        ("probe_interrupted", True, "kept in {tmp_path}/plam/well/probe_interrupted, and the same command goes on"),
        ("probe_interrupted", False, "interrupted; without --output_path no answers are kept"),
        ("interrupted", True, "interrupted"),
    ],
)
def test_ctrl_c_says_what_is_kept(lmms_eval, folder, tmp_path, tasks, output, words):
    run = lmms_eval(command(folder, "well", tasks, f"--output_path {tmp_path}" if output else ""))
    assert run.code == 130
    assert words.format(tmp_path=tmp_path) in run.last_line
    assert "Traceback" not in run.errors
    assert bool(list(tmp_path.rglob("answers.0.jsonl"))) == (output and tasks != "interrupted")


def test_a_reader_that_goes_away_gets_no_traceback(lmms_eval, folder):
    run = lmms_eval(command(folder, "well", "tiny_look"), head=1)
    assert run.code == 141
    assert "Traceback" not in run.errors
    assert "rror" not in run.errors


@pytest.mark.parametrize(
    ("task", "words"),
    [("probe_look", "without --output_path neither"), ("probe_text", "no document shows an image")],
)
def test_what_a_probe_cant_keep_or_hide_is_said_before_it_answers(lmms_eval, folder, task, words):
    run = lmms_eval(command(folder, "well", task, "--limit 4"))
    assert run.output.index(words) < run.output.index("Running generate_until requests")


def test_a_wandb_run_needs_no_name_where_the_arguments_have_commas(lmms_eval, folder, tmp_path):
    more = f"--wandb_args project=plam,mode=offline,dir={tmp_path}"
    arguments = command(folder, "well", "tiny_look", more).replace("well.yml", "well.yml,merge.start_layer=2")
    run = lmms_eval(arguments)
    assert run.code == 0, run.errors
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("command", ["['--help']", "['doctor']"])
def test_a_reader_of_plams_own_commands_may_go_away(command):
    code = "import sys; from lmms_plam import cli; cli.doctor.run = lambda _: len([print('x') for _ in range(9999)]);"
    code += f"sys.exit(cli.main({command}))"
    done = subprocess.run(f'{sys.executable} -c "{code}" | true', shell=True, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", ["config", "config=digits,merge"])
def test_arguments_without_a_value_are_explained(arguments):
    with pytest.raises(ConfigError, match="--model_args takes NAME=VALUE"):
        read_settings(arguments)
