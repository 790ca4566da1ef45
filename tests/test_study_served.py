"""`report_with: vllm`: exported, asked by lmms-eval's own model type, and shown beside the same recipe in process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from test_page import Page

from lmms_plam.cli import main
from lmms_plam.site.found import find_study
from lmms_plam.site.served import read_served
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.study.plan import Plan
from lmms_plam.study.state import FAILURE

TESTS = Path(__file__).parent
STAND_IN = TESTS / "stand_ins"
DOCUMENTS = 24
HEAVY = {"merge.start_layer": 0, "merge.lambda_lm": 0.9, "merge.lambda_vlm": 0.1}
"""A recipe with which many answers are others than the untouched VLM's."""


def serve(folder: Path, *paths: Path, **vllm_args) -> int:
    """Run a study of digits whose recipe is served, packages before others found in some folders."""
    study = {
        **{"models": ["digits"], "benchmarks": ["digits"], "steps": ["compare"], "limit": DOCUMENTS},
        **{"model_args": HEAVY, "report_with": "vllm", "vllm_args": {"max_model_len": 256, **vllm_args}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [*paths, TESTS.parent])))
        for path in paths:
            patch.syspath_prepend(str(path))
        return main(["study", str(folder / "study.yaml"), "--output", str(folder / "runs")])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that the stand-in answered."""
    folder = tmp_path_factory.mktemp("served")
    assert serve(folder, STAND_IN, batch_size=4) == 0
    return folder / "runs"


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of it, which lies elsewhere."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


def samples(runs: Path) -> Path:
    (path,) = runs.glob("cells/serve-*/*/*_samples_plam_digits.jsonl")
    return path


def edit(path: Path, change) -> None:
    """Change logged answers, each given with its place, and the accuracy that the harness tells of them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for place, line in enumerate(lines):
        change(place, line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (file,) = path.parent.glob("*_results.json")
    told = json.loads(file.read_text())
    told["results"]["plam_digits"]["accuracy,none"] = sum(line["accuracy"]["score"] for line in lines) / len(lines)
    file.write_text(json.dumps(told))


def report(runs: Path, out: Path) -> Page:
    assert main(["report", str(runs), "--out", str(out), "--draws", "1000"]) == 0
    return Page(out / "index.html")


def test_what_is_served_is_the_recipe_and_not_the_untouched_vlm(finished):
    (compared,) = finished.glob("cells/compare-*/plam/digits/plam_compare_digits/matrix.parquet")
    matrix = ScoreMatrix.read(compared)
    base, merged = (matrix.answers[:, matrix.column(name)].tolist() for name in ("base", "merged"))
    told = [json.loads(line) for line in samples(finished).read_text().splitlines()]
    answers = [line["filtered_resps"] for line in sorted(told, key=lambda line: line["doc_id"])]
    assert answers == merged
    assert sum(map(str.__ne__, answers, base)) > DOCUMENTS / 8


def test_an_answer_may_be_as_long_as_the_task_says_and_not_as_the_model_type_does(finished):
    (path,) = finished.glob("cells/export-*/checkpoint/asked.jsonl")
    asked = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["max_tokens"], one["temperature"]) for one in asked] == [(4, 0)] * DOCUMENTS


def test_the_page_shows_served_scores_beside_those_in_process(runs, tmp_path):
    page = report(runs, tmp_path / "site")
    (one,), trouble = read_served(find_study(runs))
    assert not trouble
    assert (one.beside.same_answers, one.beside.better, one.beside.worse) == (DOCUMENTS, 0, 0)
    assert one.beside.asked_alike == one.documents == DOCUMENTS
    assert one.score == one.beside.merged < one.beside.untouched
    row = f"digits plam_digits accuracy {one.beside.untouched:.4f} {one.score:.4f} {one.score:.4f} 24 0, 0 24"
    assert row in page.text
    assert "served in other words" not in page.text
    assert (tmp_path / "site/tables/served.md").is_file()


def test_what_is_served_is_no_further_model(runs, tmp_path):
    page = report(runs, tmp_path / "site")
    assert "1 model; 1 benchmark; 2 runs" in page.text
    assert "Leaderboard of runs" not in page.text
    assert not (tmp_path / "site/leaderboard.json").exists()
    study = find_study(runs)
    assert {run.model for run in study.runs} == {"digits"}
    (served,) = study.served
    assert served.cell.startswith("serve-digits-digits-")
    assert served.command.split()[2:5] == ["lmms_eval", "--model", "vllm"]
    assert "plam_digits, served: accuracy" in page.text


def test_answers_and_prompts_that_differ_are_counted(runs, tmp_path):
    def change(place, line):
        if place < 3:
            line["filtered_resps"] = f" {line['filtered_resps']} "  # no difference
        elif place < 8:
            line["filtered_resps"] = "nothing"
            line["accuracy"]["score"] = 1.0 - line["accuracy"]["score"]
        elif place < 10:
            line["input"] += " In one word."

    before = [json.loads(line)["accuracy"]["score"] for line in samples(runs).read_text().splitlines()]
    edit(samples(runs), change)
    page = report(runs, tmp_path / "site")
    (one,), _ = read_served(find_study(runs))
    right = int(sum(before[3:8]))
    assert one.beside.same_answers == DOCUMENTS - 5
    assert (one.beside.better, one.beside.worse) == (5 - right, right)
    assert "plam_digits: 2 of 24 documents of digits were served in other words" in page.text


def test_answers_that_are_gone_are_named_and_cost_nothing_else(runs, tmp_path, capsys):
    path = samples(runs)
    path.unlink()
    page = report(runs, tmp_path / "site")
    said = f"left out: plam_digits, served of digits: {path}, its answers, isn't there: run the cell again"
    assert said in page.text
    assert said in capsys.readouterr().err
    assert "What does merging gain?" in page.text


def test_without_a_comparison_the_served_score_stands_alone(runs, tmp_path):
    for path in runs.glob("cells/compare-*"):
        shutil.rmtree(path)
    page = report(runs, tmp_path / "site")
    (one,), _ = read_served(find_study(runs))
    assert one.beside is None
    assert f"digits plam_digits accuracy {one.score:.4f} 24" in page.text


def test_an_engine_that_doesnt_start_is_told_in_its_own_words_and_costs_nothing_else(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "runs")
    assert serve(tmp_path, STAND_IN, max_model_len=8) == 1
    told = capsys.readouterr().err
    (cell,) = [one.name for one in Plan.read(tmp_path / "runs").cells if one.step == "serve"]
    reason = json.loads((tmp_path / "runs/cells" / cell / FAILURE).read_text())["reason"]
    assert reason == "it wrote no results, and ended with exit code 0: ValueError: max_model_len=8 holds no prompt"
    log = tmp_path / "runs/cells" / cell / "log.txt"
    assert f"plam: {cell}, failed: {reason} ({log})" in told.splitlines()
    assert f"the cell {cell} failed: {reason}" in Page(tmp_path / "runs/site/index.html").text


def test_vllm_itself_answers_as_the_process_does(finished, tmp_path):
    """The real engine, where it is installed; of near ties one may fall otherwise."""
    pytest.importorskip("vllm")
    shutil.copytree(finished, tmp_path / "runs")
    assert serve(tmp_path, enforce_eager=True, gpu_memory_utilization=0.3) == 0
    (one,), _ = read_served(find_study(tmp_path / "runs"))
    assert one.beside.same_answers >= DOCUMENTS - 1
    assert one.beside.asked_alike == DOCUMENTS
