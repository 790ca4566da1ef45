"""The nine benchmarks become probes and comparisons: upstream's unmodified tasks, offline in their real schemas."""

from __future__ import annotations

import pytest
import yaml
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
    for task in tasks:
        matrix = ScoreMatrix.read(tmp_path / "runs" / "plam" / task / "matrix.parquet")
        assert len(matrix.doc_ids) == min(8, results["n-samples"][task]["original"])
