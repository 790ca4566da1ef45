"""Benchmarks become probes, comparisons and searches: upstream's unmodified tasks, offline in their real schemas."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from family_folders import of_model
from test_compare_upstream import dependent
from test_harness_runs import config_file, evaluate, task_manager

from lmms_plam.attention.record import AttentionRecord
from lmms_plam.attention.shown import read_shown
from lmms_plam.harness import host
from lmms_plam.paths import data_folder
from lmms_plam.stats.matrix import ScoreMatrix

KINDS = ("probe", "compare", "search", "attention")


def members(kind: str, group: str) -> list[str]:
    """Return the benchmarks of one of our groups."""
    content = yaml.safe_load((data_folder("tasks") / f"plam_{kind}_{group}.yaml").read_text())
    return [name.removeprefix(f"plam_{kind}_") for name in content["task"]]


OF_UPSTREAM = ("mmmu", "mmbench", "mmbench_en", "mmbench_cn", "pope_full")
OF_THE_BLOG = ("mathvision_testmini", *members("probe", "mathvista_testmini"))
EVERY = dict.fromkeys([*(name for group in ("all", *OF_UPSTREAM) for name in members("probe", group)), *OF_THE_BLOG])


def test_the_nine_are_the_papers():
    theirs = "mmstar mmbench_en_dev_static mmbench_cn_dev_static mme mmmu_val gqa pope realworldqa seedbench_2_plus"
    for kind in KINDS:
        assert members(kind, "nine") == theirs.split()
        assert members(kind, "all") == [*theirs.split(), "textvqa_val", "scienceqa_img"]


@pytest.mark.parametrize("group", OF_UPSTREAM)
def test_a_group_of_upstreams_holds_here_what_can_be_scored_of_it(group):
    """All but test splits, for which upstream writes a submission and no score."""
    manager = task_manager(None)
    theirs = host.find_tasks([group], manager)
    scored = [name for name in theirs if not name.endswith("_test")]
    for kind in KINDS:
        assert members(kind, group) == scored
        assert host.find_tasks([f"plam_{kind}_{group}"], manager) == [f"plam_{kind}_{name}" for name in scored]
    for name in set(theirs) - set(scored):
        assert [entry["metric"] for entry in host.task_config(name)["metric_list"]] == ["submission"]


def test_mathvista_is_asked_without_a_judge_in_upstreams_three_formats():
    manager = task_manager(None)
    static = [f"{name}_static" for name in host.find_tasks(["mathvista_testmini"], manager)]
    for kind in KINDS:
        assert members(kind, "mathvista_testmini") == static
        names = [f"mathvision_{split}" for split in ("testmini", "test")]
        assert host.find_tasks([f"plam_{kind}_{name}" for name in names], manager)


def test_mmbench_cn_without_a_judge_is_upstreams_task_but_for_how_answers_are_read():
    task_manager(None)
    ours, theirs = map(host.task_config, ("mmbench_cn_dev_static", "mmbench_cn_dev"))
    for config in (ours, theirs):
        config.pop("task")
        for name, value in config.items():
            config[name] = value.__qualname__ if callable(value) else value
    ours.pop("metadata")
    scores = ours.pop("metric_list"), theirs.pop("metric_list")
    assert ours == theirs
    assert [entry["metric"] for entry in scores[0]] == ["gpt_eval_score"]
    assert scores[0][0]["higher_is_better"] == scores[1][0]["higher_is_better"]


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("benchmark", EVERY)
def test_a_benchmark_is_probed_compared_searched_and_looked_at_in_one_run(pairs, tmp_path, benchmark):
    merge = {"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0}
    search = {"space": {"lambda_lm": [0.5, 1.0]}, "start_layers": "1"}
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge=merge, search=search)
    tasks = [f"plam_{kind}_{benchmark}" for kind in KINDS]
    results = evaluate(
        "plam", f"config={path}", tasks, output=tmp_path / "runs", limit=8, gen_kwargs="max_new_tokens=4"
    )
    probe, comparison, search, attention = (of_model(tmp_path / "runs") / task for task in tasks)
    for folder in (probe, comparison):
        matrix = ScoreMatrix.read(folder / "matrix.parquet")
        assert len(matrix.doc_ids) == min(8, results["n-samples"][folder.name]["original"])
        asked = frozenset(matrix.doc_ids.tolist())
        found = {frozenset(matrix.doc_ids[matrix.clusters == name].tolist()) for name in matrix.clusters}
        assert found == {group & asked for group in dependent(benchmark) if group & asked}
    record, compared = (
        AttentionRecord.read(attention / "attention.parquet"),
        ScoreMatrix.read(comparison / "matrix.parquet"),
    )
    assert (record.score[:, :2] == compared.scores).all()
    pictures = np.isfinite(record.mass[:, :, 0]).all(axis=(1, 2))
    assert pictures.any()
    assert np.isnan(record.mass[~pictures]).all(), "without a picture nothing is known"
    assert all(one.maps["base"].places is not None for one in read_shown(attention))
    numbers = results["results"]
    headline = json.loads((comparison / "comparison.json").read_text())[0]
    assert [headline["a"], headline["b"]] == [numbers[tasks[1]][f"{name},none"] for name in ("base", "merged")]
    for folder in (comparison, search):
        audit = json.loads((folder / "audit.json").read_text())[0]
        assert sum(part["difference"] for part in audit["parts"]) == pytest.approx(audit["difference"], abs=1e-9)
        assert sum(part["documents"] for part in audit["parts"]) == len(matrix.doc_ids)
        assert audit["missing"] is None
        assert all(0 < side["length"] <= 4 for side in audit["sides"])
    found = json.loads((search / "search.json").read_text())
    assert numbers[tasks[2]]["base,none"] == pytest.approx(headline["a"])
    assert {recipe["name"] for recipe in found["recipes"]} > {"base"}
    if benchmark.startswith("pope"):  # these answers hold no yes and no no, so that nothing counts in F1
        assert numbers[tasks[0]]["full,none"] is None
    else:
        plateau = json.loads((probe / "plateau.json").read_text())
        assert plateau["full"] == numbers[tasks[0]]["full,none"] == headline["a"]


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("benchmark", ["mme", "mmbench_en_dev_static"])
def test_half_a_unit_under_limit_is_left_out_and_counted(pairs, tmp_path, benchmark):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 1})
    task = f"plam_compare_{benchmark}"
    evaluate("plam", f"config={path}", [task], output=tmp_path / "runs", limit=7, gen_kwargs="max_new_tokens=2")
    folder = of_model(tmp_path / "runs") / task
    assert len(ScoreMatrix.read(folder / "matrix.parquet").doc_ids) < 7
    record = json.loads((folder / "comparison.json").read_text())[0]
    assert "incomplete units" in record["notes"][0]
