"""What comparison tasks measure: a user's own benchmark as it says, and several benchmarks as one family."""

from __future__ import annotations

import json

import pytest
from test_harness_runs import config_file, evaluate

from lmms_plam.paths import data_folder

OWN = """
include: {common}
task: own
doc_to_visual: !function lmms_plam.digits.benchmark.show_picture
doc_to_text: !function lmms_plam.digits.benchmark.ask_about_picture
metric_list:
  - {{metric: accuracy, aggregation: !function own.wrong, higher_is_better: false}}
metadata: {metadata}
"""
COMPARISON = "task: own_comparison\nclass: !function lmms_plam.harness.tasks.Comparison\nof: own\n"


@pytest.mark.parametrize(
    ("metadata", "measured"),
    [
        ("{version: 1}", False),
        ("[{version: 1}, {plam: {score: accuracy.score, metric: 'own:share_wrong', cluster: grid}}]", True),
    ],
)
def test_what_is_no_mean_is_measured_only_as_declared(metadata, measured, pairs, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text(
        OWN.format(common=data_folder("tasks") / "_plam_digits_common.yaml", metadata=metadata)
    )
    (tmp_path / "own_comparison.yaml").write_text(COMPARISON)
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "from lmms_plam.stats.metrics import register\n"
        "def wrong(items):\n    return 2 - sum(item['score'] for item in items) / len(items)\n"
        "@register('share_wrong', estimand='two minus the share right')\n"
        "def share_wrong(matrix):\n    return 2 - matrix.scores, np.ones_like(matrix.scores)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 2})
    tasks, output = ["own", "own_comparison"], tmp_path / "runs"
    results = evaluate("plam", f"config={path}", tasks, include=tmp_path, output=output, limit=14)["results"]
    if measured:
        table = (tmp_path / "runs" / "plam" / "own_comparison" / "comparison.md").read_text()
        assert "own_comparison: lower is better" in table
        assert results["own_comparison"]["merged,none"] == pytest.approx(results["own"]["accuracy,none"])
    else:
        assert results["own_comparison"]["merged,none"] is None


def test_comparisons_of_one_run_are_one_family(tmp_path):
    tasks = ["plam_compare_digits", "plam_compare_digits_text"]
    evaluate("plam", "config=digits", tasks, output=tmp_path, limit=140)
    alone = [json.loads((tmp_path / "plam" / task / "comparison.json").read_text())[0] for task in tasks]
    together = sorted(
        json.loads((tmp_path / "plam" / "comparison.json").read_text()), key=lambda record: record["task"]
    )
    assert [record["task"] for record in together] == tasks
    assert [record["p_value"] for record in together] == [record["p_value"] for record in alone]
    assert min(record["holm_p"] for record in together) == min(1, 2 * min(record["p_value"] for record in alone))
    assert "Holm over the 2 differences" in (tmp_path / "plam" / "comparison.md").read_text()
    assert (tmp_path / "plam" / "forest.svg").is_file()
