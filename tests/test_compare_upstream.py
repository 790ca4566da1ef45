"""End to end: upstream's unmodified tasks run, upstream writes its files, and `plam compare` reads them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker

from benchmarks import BENCHMARKS, ScriptedModel
from lmms_plam.cli import main
from lmms_plam.scoring.benchmarks import BENCHMARKS as UNITS

ROUNDED = {"mmmu_acc": 6e-6, "mathvision_standard_eval": 6e-3, "aAcc": 6e-5, "qAcc": 6e-5, "fAcc": 6e-5}
"""What upstream rounds, and by how much it can then differ."""


def evaluate(folder: Path, skill: float, seed: int) -> dict[str, dict[str, float]]:
    """Run every benchmark and write results as lmms-eval's command line does; return its own numbers."""
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args("scripted", "model=scripted", "", "", False)
    arguments = Namespace(output_path=str(folder), process_with_media=False)
    results = simple_evaluate(ScriptedModel(skill, seed), tasks=list(BENCHMARKS), cli_args=arguments)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20261122_120000")
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return {
        task: {name.partition(",")[0]: value for name, value in found.items() if "_stderr" not in name}
        for task, found in results["results"].items()
    }


def test_every_benchmark_is_read_as_upstream_scores_it(benchmark_fixtures, tmp_path, capsys):
    a = evaluate(tmp_path / "a", 0.6, 0)
    b = evaluate(tmp_path / "b", 0.8, 1)
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", "--draws", "1000"]) == 0
    printed = capsys.readouterr()
    records = {(record["task"], record["metric"]): record for record in json.loads(printed.out)}
    assert set(records) == {(task, measure.key) for task in BENCHMARKS for measure in UNITS[task].measures}
    for (task, metric), record in records.items():
        if metric == "mme_total_score":
            continue
        for side, theirs in (("a", a), ("b", b)):
            tolerance = ROUNDED.get(metric, 1e-9)
            assert record[side] == pytest.approx(theirs[task][metric], abs=tolerance), (task, metric)
    assert "the harness printed" not in printed.err
    for task in ("gqa", "pope", "textvqa_val"):  # whose images come from the dataset, since no log names them
        record = records[task, UNITS[task].measures[0].key]
        assert 1 < record["clusters"] < record["n"]
        assert record["ci_low"] is not None
