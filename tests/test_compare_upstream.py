"""End to end: upstream's unmodified tasks run, upstream writes its files, and `plam compare` reads them."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_tables import Document
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker
from test_harness_runs import task_manager
from upstream_mathvista import upstream_mathvista

from benchmarks import BENCHMARKS, ScriptedModel, benchmarks_at_hand
from lmms_plam.cli import main
from lmms_plam.harness import host
from lmms_plam.runs.join import Joined, join
from lmms_plam.runs.samples import find_runs
from lmms_plam.scoring.benchmarks import _SCORED_ALIKE
from lmms_plam.scoring.benchmarks import BENCHMARKS as UNITS
from lmms_plam.stats.comparison import Settings

ROUNDED = {"mmmu_acc": 6e-6, "mathvision_standard_eval": 6e-3, "aAcc": 6e-5, "qAcc": 6e-5, "fAcc": 6e-5}
"""What upstream rounds, and by how much it can then differ."""


def evaluate(folder: Path, skill: float, seed: int) -> dict[str, dict[str, float]]:
    """Run every benchmark and write results as lmms-eval's command line does; return its own numbers."""
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args("scripted", "model=scripted", "", "", False)
    arguments = Namespace(output_path=str(folder), process_with_media=False)
    manager = task_manager(None)
    manager.model_name = None
    results = simple_evaluate(
        ScriptedModel(skill, seed), tasks=list(BENCHMARKS), cli_args=arguments, task_manager=manager
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20261122_120000")
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return {
        task: {name.partition(",")[0]: value for name, value in found.items() if "_stderr" not in name}
        for task, found in results["results"].items()
    }


@pytest.fixture(scope="module")
def logged(benchmark_folder, tmp_path_factory) -> tuple[Path, dict[str, dict[str, dict[str, float]]]]:
    """A folder with runs of a fair, a good and a perfect model, and what upstream printed of each."""
    folder = tmp_path_factory.mktemp("logged")
    with benchmarks_at_hand(benchmark_folder):
        return folder, {
            name: evaluate(folder / name, skill, seed)
            for name, skill, seed in (("fair", 0.6, 0), ("good", 0.8, 1), ("perfect", 1.0, 0))
        }


@pytest.mark.usefixtures("benchmark_fixtures")
def test_every_benchmark_is_read_as_upstream_scores_it(logged, capsys):
    folder, printed_upstream = logged
    assert main(["compare", str(folder / "fair"), str(folder / "good"), "--json", "--draws", "1000"]) == 0
    printed = capsys.readouterr()
    records = {(record["task"], record["metric"]): record for record in json.loads(printed.out)}
    assert set(records) == {(task, measure.key) for task in BENCHMARKS for measure in UNITS[task].measures}
    for (task, metric), record in records.items():
        for side, name in (("a", "fair"), ("b", "good")):
            theirs = printed_upstream[name][task]
            if metric == "mme_total_score":  # which upstream doesn't print
                theirs = {metric: theirs["mme_perception_score"] + theirs["mme_cognition_score"]}
            assert record[side] == pytest.approx(theirs[metric], abs=ROUNDED.get(metric, 1e-9)), (task, metric)
    assert "the harness printed" not in printed.err


def joined(folder: Path, task: str) -> Joined:
    run = next(run for run in find_runs(folder).runs if run.task == task)
    return join({"model": run})[0]


@pytest.mark.parametrize("task", BENCHMARKS)
def test_a_model_that_is_always_right_reaches_what_counts_as_perfect(logged, task):
    """Points in forest plots, digits in tables and a curve's tolerance are parts of it."""
    found = joined(logged[0] / "perfect", task)
    for measure, part in found.measures():
        analysis = found.analyse(measure, part, Settings(draws=1000))
        perfect = analysis.perfect(found.benchmark.perfect_answer)
        if task == "textvqa_val":  # whose annotators agree on no answer to some questions
            assert perfect == found.matrix.scores.max()
            continue
        assert perfect == analysis.units.estimate()[0]
        if measure.key != "mme_total_score":
            assert perfect == pytest.approx(logged[1]["perfect"][task][measure.key])


def alone(document: Document) -> None:
    """No document depends on another."""


DEPENDS: dict[str, Callable[[Document], Any]] = {
    "mmstar": alone,
    "mme": lambda doc: (doc["category"], doc["question_id"]),
    "mmmu_val": alone,
    **dict.fromkeys((task for task in BENCHMARKS if task.startswith("mmbench")), lambda doc: doc["index"] % 1_000_000),
    "seedbench_2_plus": lambda doc: doc["image"].tobytes(),
    "realworldqa": lambda doc: doc["image"].tobytes(),
    **dict.fromkeys((task for task in BENCHMARKS if task.startswith("pope")), lambda doc: doc["image_source"]),
    "gqa": lambda doc: doc["imageId"],
    "textvqa_val": lambda doc: doc["image_id"],
    "scienceqa_img": lambda doc: doc["image"].tobytes(),
    "hallusion_bench_image": lambda doc: (doc["category"], doc["subcategory"], doc["set_id"]),
    "ai2d": lambda doc: doc["image"].tobytes(),
    **dict.fromkeys(
        (task for task in BENCHMARKS if task.startswith("math")), lambda doc: doc["decoded_image"].tobytes()
    ),
}
"""What documents that depend on each other share, from the documents themselves."""
POPE = [task for task in BENCHMARKS if task.startswith("pope")]
MATH = [task for task in BENCHMARKS if task.startswith("math")]
MATHVISTA = [task for task in MATH if task.startswith("mathvista")]
UNNAMED = {
    **dict.fromkeys(POPE, "each 6 consecutive question ids are taken for one image"),
    "gqa": "no interval",
    **dict.fromkeys(
        ("realworldqa", "textvqa_val", "scienceqa_img", "ai2d", "seedbench_2_plus", *MATH),
        "questions about one image are taken as independent",
    ),
}
"""Tasks whose logs don't say it, and what is said where their dataset isn't at hand."""


def dependent(task: str) -> set[frozenset[int]]:
    groups: dict[Any, set[int]] = {}
    for doc_id, document in enumerate(BENCHMARKS[task].table.documents()):
        shared = DEPENDS[task](document)
        groups.setdefault(doc_id if shared is None else ("shared", shared), set()).add(doc_id)
    return set(map(frozenset, groups.values()))


def clusters(found: Joined) -> set[frozenset[int]]:
    matrix = found.matrix
    return {frozenset(matrix.doc_ids[matrix.clusters == name].tolist()) for name in set(matrix.clusters)}


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("task", BENCHMARKS)
def test_documents_that_depend_on_each_other_are_one_cluster(logged, task):
    found = joined(logged[0] / "fair", task)
    assert clusters(found) == dependent(task)
    assert all("answers are scored by" in note or "without a judge" in note for note in found.notes)
    assert bool(found.notes) == (task in MATHVISTA), "nothing had to be assumed"


@pytest.mark.usefixtures("benchmark_fixtures")
@pytest.mark.parametrize("task", MATHVISTA)
def test_how_many_answers_each_rule_scored_is_said(logged, task):
    found = joined(logged[0] / "perfect", task)
    kinds = Counter(doc["answer_type"] for doc in BENCHMARKS[task].table.documents())
    assert set(found.notes) == {
        f"model: {kinds['text']} answers are scored by the option's letter that they state",
        f"model: {kinds['integer'] + kinds['float']} answers are scored by the number that they state",
        f"model: {kinds['list']} answers are scored by the list that they state",
    }


@pytest.mark.parametrize("task", BENCHMARKS)
def test_a_cluster_that_no_log_names_is_never_passed_over(logged, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the datasets don't lie
    found = joined(logged[0] / "fair", task)
    assert any(UNNAMED[task] in note for note in found.notes) if task in UNNAMED else not found.notes
    if task == "gqa":
        assert len(clusters(found)) == 1
    elif task in UNNAMED and task not in POPE:
        assert clusters(found) == {frozenset([doc_id]) for doc_id in found.matrix.doc_ids.tolist()}
    else:
        assert clusters(found) == dependent(task)


ALIKE = [(task, other) for task, others in _SCORED_ALIKE.items() for other in others]


@pytest.mark.parametrize(("task", "other"), ALIKE)
def test_a_task_that_is_read_like_another_scores_like_it(task, other, monkeypatch):
    """By the same functions and metrics upstream, as far as its YAML says."""
    monkeypatch.setattr(host, "_manager", task_manager(None))
    with upstream_mathvista():
        one, another = map(host.task_config, (task, other))
    keys = {measure.key for measure in UNITS[task].measures}
    for config in (one, another):
        assert keys - {"mme_total_score"} <= {entry["metric"] for entry in config["metric_list"]}
    assert one.get("output_type") == another.get("output_type")
    functions = [config.get("process_results") for config in (one, another)]
    names = {None if function is None else function.__qualname__ for function in functions}
    assert len(names) == 1
