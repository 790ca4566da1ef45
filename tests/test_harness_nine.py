"""The nine benchmarks become probes and comparisons: upstream's unmodified tasks, offline in their real schemas."""

from __future__ import annotations

import json

import pytest
import yaml
from family_folders import of_model
from test_compare_upstream import dependent
from test_harness_runs import config_file, evaluate

from lmms_plam.paths import data_folder
from lmms_plam.stats.matrix import ScoreMatrix

GROUP = yaml.safe_load((data_folder("tasks") / "plam_probe_nine.yaml").read_text())
NINE = [name.removeprefix("plam_probe_") for name in GROUP["task"]]


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("benchmark", NINE)
def test_a_benchmark_is_probed_and_compared_in_one_run(pairs, tmp_path, benchmark):
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0})
    tasks = [f"plam_probe_{benchmark}", f"plam_compare_{benchmark}"]
    results = evaluate(
        "plam", f"config={path}", tasks, output=tmp_path / "runs", limit=8, gen_kwargs="max_new_tokens=4"
    )
    probe, comparison = (of_model(tmp_path / "runs") / task for task in tasks)
    for folder in (probe, comparison):
        matrix = ScoreMatrix.read(folder / "matrix.parquet")
        assert len(matrix.doc_ids) == min(8, results["n-samples"][folder.name]["original"])
        asked = frozenset(matrix.doc_ids.tolist())
        found = {frozenset(matrix.doc_ids[matrix.clusters == name].tolist()) for name in matrix.clusters}
        assert found == {group & asked for group in dependent(benchmark) if group & asked}
    numbers = results["results"]
    headline = json.loads((comparison / "comparison.json").read_text())[0]
    assert [headline["a"], headline["b"]] == [numbers[tasks[1]][f"{name},none"] for name in ("base", "merged")]
    if benchmark == "pope":  # these answers hold no yes and no no, so that nothing counts in F1
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
