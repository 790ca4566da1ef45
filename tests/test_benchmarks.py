"""Upstream's unmodified tasks load the small benchmarks, ask their documents, and score a scripted model."""

from __future__ import annotations

from argparse import Namespace

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from benchmarks import BENCHMARKS, ScriptedModel, benchmarks_at_hand

HEADLINES = {
    "mmstar": "average",
    "mme": "mme_perception_score",
    "mmmu_val": "mmmu_acc",
    **dict.fromkeys((task for task in BENCHMARKS if task.startswith("mmbench")), "gpt_eval_score"),
    **dict.fromkeys((task for task in BENCHMARKS if task.startswith("pope")), "pope_f1_score"),
    "seedbench_2_plus": "seedbench_2_plus_all",
    "hallusion_bench_image": "qAcc",
    "mathvision_testmini": "mathvision_standard_eval",
    **dict.fromkeys((task for task in BENCHMARKS if task.startswith("mathvista")), "accuracy"),
}
"""The metric that papers quote; `exact_match` where none is named."""


@pytest.fixture(scope="module")
def results(benchmark_folder, tmp_path_factory):
    """Results of all tasks by the model's skill."""
    by_skill = {}
    with benchmarks_at_hand(benchmark_folder):
        manager = TaskManager()
        for skill in (0.6, 1.0):
            by_skill[skill] = simple_evaluate(
                ScriptedModel(skill),
                tasks=list(BENCHMARKS),
                task_manager=manager,
                bootstrap_iters=0,
                cli_args=Namespace(output_path=str(tmp_path_factory.mktemp("results")), process_with_media=False),
            )
    return by_skill


@pytest.mark.parametrize("task", BENCHMARKS)
def test_upstream_scores_a_scripted_model_between_nothing_and_everything(results, task):
    metric = f"{HEADLINES.get(task, 'exact_match')},"
    part, full = (
        next(value for name, value in results[skill]["results"][task].items() if name.startswith(metric))
        for skill in (0.6, 1.0)
    )
    assert 0 < part < full


@pytest.mark.parametrize("task", BENCHMARKS)
def test_every_document_is_answered(results, task):
    samples = results[0.6]["samples"][task]
    assert [sample["doc_id"] for sample in samples] == list(range(len(list(BENCHMARKS[task].table.documents()))))
    assert all(sample["filtered_resps"] for sample in samples)
