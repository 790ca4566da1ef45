"""Family tasks are tasks like any other: the harness's options work on them, and a kill costs what was not answered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from family_folders import of_model
from lmms_eval.api.task import ConfigurableTask
from test_harness_runs import config_file, evaluate

from lmms_plam.errors import DataError, UnsupportedError
from lmms_plam.harness import engine as answering
from lmms_plam.stats.matrix import ScoreMatrix

PROBE, COMPARE = "plam_probe_digits", "plam_compare_digits"
MERGE = {"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0}
FAMILY = "task: {name}\nclass: !function lmms_plam.families.{kind}\nof: {of}\n"
HALF = """\
include: tiny_look.yaml
task: half
process_docs: !function half.even
fewshot_split: test
fewshot_config: {sampler: first_n}
num_fewshot: 1
repeats: 3
generation_kwargs: {max_new_tokens: 6, temperature: 0, do_sample: false, until: [s, w, "\\n\\n"]}
filter_list:
  - {name: loud, filter: [{function: uppercase}, {function: take_first}]}
  - {name: quiet, filter: [{function: lowercase}, {function: take_first}]}
"""
SHARED = """\
include: tiny_look.yaml
task: shared
process_docs: !function half.with_repeated_images
metadata: {plam: {cluster: image}}
"""


@pytest.fixture
def own(task_folder, tmp_path):
    """A folder of the user's own: a task with half the documents of tiny_look, wrapped twice, and what can't be."""
    folder = shutil.copytree(task_folder, tmp_path / "own")
    (folder / "half.yaml").write_text(HALF)
    (folder / "shared.yaml").write_text(SHARED)
    (folder / "unsaid.yaml").write_text(SHARED.split("metadata")[0].replace("task: shared", "task: unsaid"))
    (folder / "half.py").write_text(
        "def even(docs):\n    return docs.filter(lambda doc: doc['index'] % 2 == 0)\n"
        "def with_repeated_images(docs):\n    return docs.select([0, 1, 0, 2, 1])\n"
    )
    wrapped = {"half_probe": ("MaskingProbe", "half"), "half_compare": ("Comparison", "half")}
    wrapped |= {f"{name}_compare": ("Comparison", name) for name in ("shared", "unsaid")}
    wrapped |= {"messages": ("Comparison", "tiny_compare"), "choice": ("MaskingProbe", "tiny_choice")}
    for name, (kind, of) in wrapped.items():
        (folder / f"{name}.yaml").write_text(FAMILY.format(name=name, kind=kind, of=of))
    return folder


def matrix(folder, task) -> ScoreMatrix:
    return ScoreMatrix.read(of_model(folder) / task / "matrix.parquet")


def column(found: ScoreMatrix, variant: str) -> list[str]:
    return found.answers[:, found.column(variant)].tolist()


def told(results, task) -> list[str]:
    return [sample["filtered_resps"][0] for sample in results["samples"][task]]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("simple", [False, True])
def test_a_users_task_keeps_its_documents_prompts_stops_and_filters(pairs, own, tmp_path, family, simple):
    path = config_file(pairs[family], tmp_path, merge=MERGE)
    tasks = ["half", "half_probe", "half_compare"]
    results = evaluate(
        "plam", f"config={path}", tasks, limit=None, include=own, output=tmp_path / "runs", force_simple=simple
    )
    probed, compared = matrix(tmp_path / "runs", "half_probe"), matrix(tmp_path / "runs", "half_compare")
    plain = told(results, "half")[:3]
    assert column(compared, "merged") == plain
    assert any(plain), "all answers are cut to nothing"
    assert column(probed, probed.variants[-1]) == column(compared, "base")
    assert compared.doc_ids.tolist() == [0, 1, 2]
    assert all(answer == answer.upper() for answer in plain)
    assert "base,loud" in results["results"]["half_compare"]
    assert "base,quiet" not in results["results"]["half_compare"]


def test_a_task_with_messages_of_its_own_is_compared(pairs, own, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    tasks = ["tiny_compare", "messages"]
    results = evaluate("plam", f"config={path}", tasks, include=own, output=tmp_path / "runs")
    assert column(matrix(tmp_path / "runs", "messages"), "merged") == told(results, "tiny_compare")


def test_documents_that_show_the_same_image_are_one_cluster(pairs, own, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    evaluate("plam", f"config={path}", ["shared_compare"], limit=None, include=own, output=tmp_path / "runs")
    first, second, third, fourth, fifth = matrix(tmp_path / "runs", "shared_compare").clusters
    assert first == third != second == fifth
    assert fourth not in (first, second)


def test_documents_that_show_the_same_image_undeclared_are_said(pairs, own, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    tasks = ["unsaid_compare", "half_compare"]
    evaluate("plam", f"config={path}", tasks, limit=None, include=own, output=tmp_path / "runs")
    said = (of_model(tmp_path / "runs") / "comparison.md").read_text()
    assert "unsaid_compare: 4 of 5 questions share their image with another ('image')" in said
    assert said.count("share their image") == 1


def test_a_multiple_choice_task_is_refused(pairs, own, tmp_path):
    path = config_file(pairs["qwen2_5_vl"], tmp_path)
    with pytest.raises(UnsupportedError, match=r"only generate-until tasks .* tiny_choice is of type multiple_choice"):
        evaluate("plam", f"config={path}", ["choice"], include=own)


def test_a_probe_logs_its_rows_once(tmp_path):
    results = evaluate("plam", "config=digits", [PROBE], limit=2)
    sample = results["samples"][PROBE][0]
    assert len(sample["filtered_resps"]) == len(sample["full"]) == 13
    assert {sample[name] for name in ("onset", "onset_low", "onset_high", "rise")} == {None}


def test_repeats_ask_each_variant_once(pairs, tmp_path, generated):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    evaluate("plam", f"config={path}", [COMPARE], output=tmp_path / "runs", repeats=2)  # as many as variants
    assert generated.prompts == 4
    assert len(matrix(tmp_path / "runs", COMPARE).doc_ids) == 4


def test_predict_only_logs_the_answers_of_all_variants_and_leaves_them_to_be_scored(tmp_path, generated):
    model = "config=digits,probe.cuts=every 4"
    results = evaluate("plam", model, [PROBE], output=tmp_path / "runs", predict_only=True)
    asked = generated.prompts
    assert [len(sample["filtered_resps"]) for sample in results["samples"][PROBE]] == [13] * 4
    assert results["results"][PROBE]["bypass,none"] == 999
    generated.prompts = 0
    evaluate("plam", model, [PROBE], output=tmp_path / "runs", limit=8)
    assert generated.prompts == 2 * 8 - asked
    assert not list(tmp_path.rglob("answers.*"))


def test_limit_and_offset_choose_documents(tmp_path):
    evaluate("plam", "config=digits", [COMPARE], output=tmp_path, limit=0.01, offset=14)
    assert matrix(tmp_path, COMPARE).doc_ids.tolist() == list(range(14, 25))


@pytest.mark.parametrize("limit", [1, 7])
def test_documents_that_show_no_curve_leave_matrix_and_answers_for_a_larger_run(tmp_path, limit):
    results = evaluate("plam", "config=digits", [PROBE, "plam_digits"], output=tmp_path, limit=limit)
    assert results["results"][PROBE]["onset,none"] is None
    assert results["results"]["plam_digits"]["accuracy,none"] > 0
    assert {path.name for path in (of_model(tmp_path) / PROBE).iterdir()} == {"answers.0.jsonl", "matrix.parquet"}


def test_the_cache_asks_again_only_what_was_answered_with_nothing(pairs, tmp_path, generated, monkeypatch):
    """lmms-eval doesn't store empty answers."""
    asked: list[list[str]] = []
    engine = answering.generate_family

    def silent_first(model, variants, inputs, **options):
        asked.append([variant.name for variant in variants])
        result = engine(model, variants, inputs, **options)
        if variants[0].name == "0":
            result.tokens[0] = [[] for _ in result.tokens[0]]
        return result

    monkeypatch.setattr(answering, "generate_family", silent_first)

    def run(folder, **content):
        asked.clear()
        path = config_file(pairs["qwen2_5_vl"], tmp_path, **content)
        evaluate("plam", f"config={path}", [PROBE], output=folder, use_cache=str(tmp_path / "cache"))
        return matrix(folder, PROBE).answers.tolist()

    first = run(tmp_path / "first")
    assert [len(names) for names in asked] == [len(first[0])] * 4
    assert run(tmp_path / "second") == first
    assert asked == [["0"]] * 4
    probed = len(first[0]) - 1
    run(tmp_path / "cuts", probe={"queries": "last"})
    assert [len(names) for names in asked] == [probed + 1] * 4, "another scope is another question"
    run(tmp_path / "recipe", merge=MERGE, probe={"weights": "merged"})
    assert [len(names) for names in asked] == [probed + 1] * 4, "another recipe answers otherwise"


def test_answers_of_another_recipe_are_not_taken_up(pairs, tmp_path, generated):
    def run(recipe, stop_after=None):
        generated.prompts, generated.stop_after = 0, stop_after
        path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=recipe)
        evaluate("plam", f"config={path}", [COMPARE], output=tmp_path / "runs")

    with pytest.raises(KeyboardInterrupt):
        run(MERGE, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run({**MERGE, "start_layer": 2}, stop_after=2)
    run(MERGE)
    assert generated.prompts == 1


def test_answers_are_kept_until_the_results_are_saved(tmp_path, generated, monkeypatch):
    from lmms_eval import evaluator

    def fail(*_):
        raise AssertionError("another task's aggregation, say")

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "consolidate_results", fail)
        with pytest.raises(AssertionError):
            evaluate("plam", "config=digits", [COMPARE], output=tmp_path)
    assert generated.prompts == 4
    evaluate("plam", "config=digits", [COMPARE], output=tmp_path)
    assert generated.prompts == 4
    assert not list(tmp_path.rglob("answers.*"))


def test_what_a_killed_run_answered_is_not_computed_again(tmp_path, generated):
    limit, output = 60, tmp_path / "runs"
    arguments = f"--model plam --model_args config=digits --tasks {PROBE} --limit {limit} --output_path {output}"
    command = [sys.executable, "-m", "lmms_eval", *arguments.split()]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = output / "plam" / "digits" / PROBE / "answers.0.jsonl"
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20 * 13):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    lines = journal.read_bytes().splitlines(keepends=True)
    documents = {json.loads(line)["doc_id"] for line in lines if line.endswith(b"}\n")}
    assert 20 <= len(documents) < limit
    journal.write_bytes(b"".join(lines) + b'{"doc_id": 59, "variant": "half a li')
    for stop in (2, None):  # killed once more, after the half line
        generated.stop_after = stop
        try:
            evaluate("plam", "config=digits", [PROBE], limit=limit, output=output)
        except KeyboardInterrupt:
            assert stop
    assert generated.prompts == limit - len(documents)
    evaluate("plam", "config=digits", [PROBE], limit=limit, output=tmp_path / "whole")
    resumed, whole = matrix(output, PROBE), matrix(tmp_path / "whole", PROBE)
    assert resumed.answers.tolist() == whole.answers.tolist()
    assert resumed.scores.tolist() == whole.scores.tolist()
    assert {path.name for path in output.rglob("*") if path.is_file()} == {
        path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()
    }


COUNTED = """
from itertools import count
from pathlib import Path
from tiny_tasks import score


def counted(failures, error):
    numbers = count()  # lmms-eval scores in four threads

    def process_results(doc, results):
        with Path(__file__).with_name("calls").open("a") as calls:
            calls.write("x")
        if next(numbers) < failures:
            raise error
        return score(doc, results)

    return process_results


judge_out_of_reach = counted(3, ConnectionError("no route"))
mistaken = counted(99, KeyError("answer"))
"""


@pytest.mark.parametrize("how", ["judge_out_of_reach", "mistaken"])
def test_scoring_that_fails_is_tried_again_only_where_that_may_help(own, pairs, tmp_path, monkeypatch, how):
    monkeypatch.setattr(ConfigurableTask.process_results.retry, "sleep", lambda seconds: None)
    (own / "counted.py").write_text(COUNTED)
    (own / "judged.yaml").write_text(
        f"include: tiny_look.yaml\ntask: judged\nprocess_results: !function counted.{how}\n"
    )
    (own / "judged_compare.yaml").write_text(FAMILY.format(name="judged_compare", kind="Comparison", of="judged"))
    run = {"model": "plam", "model_args": f"config={config_file(pairs['qwen2_5_vl'], tmp_path, merge=MERGE)}"}
    run |= {"tasks": ["judged_compare"], "include": own, "output": tmp_path / "runs"}
    if how == "mistaken":
        with pytest.raises(DataError, match=r"document \d: judged's process_results fails on .* KeyError: 'answer'"):
            evaluate(**run)
        assert (own / "calls").read_text() == "x"
    else:
        assert isinstance(evaluate(**run)["results"]["judged_compare"]["base,none"], float)
