"""What comparison tasks measure: a user's own benchmark as it says, and several benchmarks as one family."""

from __future__ import annotations

import json

import pytest
from family_folders import of_model
from loguru import logger
from test_harness_runs import config_file, evaluate

from lmms_plam.cli import main
from lmms_plam.errors import ConfigError, DataError
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
COMPARISON = "task: own_comparison\nclass: !function lmms_plam.families.Comparison\nof: own\n"


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
        "def wrong(items):\n    return np.float32(2 - sum(item['score'] for item in items) / len(items))\n"
        "@register('share_wrong', estimand='two minus the share right')\n"
        "def share_wrong(matrix):\n    return 2 - matrix.scores, np.ones_like(matrix.scores)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": 2})
    tasks, output = ["own", "own_comparison"], tmp_path / "runs"
    results = evaluate("plam", f"config={path}", tasks, include=tmp_path, output=output, limit=14)["results"]
    if measured:
        table = (of_model(tmp_path / "runs") / "own_comparison" / "comparison.md").read_text()
        assert "own_comparison: lower is better" in table
        assert results["own_comparison"]["merged,none"] == pytest.approx(results["own"]["accuracy,none"])
    else:
        assert results["own_comparison"]["merged,none"] is None


def test_comparisons_of_one_run_are_one_family(tmp_path):
    tasks = ["plam_compare_digits", "plam_compare_digits_text"]
    evaluate("plam", "config=digits", tasks, output=tmp_path, limit=140)
    alone = [json.loads((of_model(tmp_path) / task / "comparison.json").read_text())[0] for task in tasks]
    together = sorted(
        json.loads((of_model(tmp_path) / "comparison.json").read_text()), key=lambda record: record["task"]
    )
    assert [record["task"] for record in together] == tasks
    assert [record["p_value"] for record in together] == [record["p_value"] for record in alone]
    assert min(record["holm_p"] for record in together) == min(1, 2 * min(record["p_value"] for record in alone))
    assert "Holm over the 2 differences" in (of_model(tmp_path) / "comparison.md").read_text()
    assert (of_model(tmp_path) / "forest.svg").is_file()


SCORED = """
include: {common}
task: own
process_results: !function own.score
metric_list:
  - {{metric: mine, aggregation: !function own.mean, higher_is_better: true}}
metadata: {metadata}
"""
FUNCTIONS = """
import numpy as np

def mean(items):
    return float(np.mean(items))

def score(doc, results):
    right, spoiled = float(results[0].strip() == doc['answer']), doc['question_id'] == '1/sum'
    return {{"mine": {mine}}}
"""


@pytest.fixture
def own(tmp_path):
    """Return a function that writes a task which scores as it is told, its comparison and its probe."""

    def write(mine, metadata="{version: 1}"):
        common = data_folder("tasks") / "plam_digits.yaml"
        (tmp_path / "own.yaml").write_text(SCORED.format(common=common, metadata=metadata))
        (tmp_path / "own.py").write_text(FUNCTIONS.format(mine=mine))
        (tmp_path / "own_comparison.yaml").write_text(COMPARISON)
        (tmp_path / "own_probe.yaml").write_text(
            "task: own_probe\nclass: !function lmms_plam.families.MaskingProbe\nof: own\ncuts: every 5\n"
        )
        return tmp_path

    return write


KINDS = """
import numpy as np

def mean(items):
    return np.float32(np.mean(items))

def score(doc, results):
    place = int(doc['question_id'].split('/')[0])
    right = float(results[0].strip() == doc['answer'])
    return {"odd" if place % 2 else "even": right, **({"both": right} if BOTH else {})}
"""


@pytest.mark.parametrize("first", ["odd", "even"])
@pytest.mark.parametrize("both", [True, False])
def test_the_metric_that_most_documents_have_is_measured_whichever_comes_first(own, tmp_path, first, both):
    folder, said = own("right"), []
    metrics = [first, *({"odd", "even"} - {first}), *(["both"] if both else [])]
    listed = "".join(f"  - {{metric: {name}, aggregation: !function own.mean}}\n" for name in metrics)
    task = (folder / "own.yaml").read_text()
    (folder / "own.yaml").write_text(task.partition("metric_list:\n")[0] + "metric_list:\n" + listed)
    (folder / "own.py").write_text(KINDS.replace("BOTH", str(both)))
    sink = logger.add(said.append, level="INFO", format="{message}")
    try:
        results = evaluate("plam", "config=digits", ["own", "own_comparison"], include=folder, limit=35)["results"]
    finally:
        logger.remove(sink)
    measured = "both" if both else "even"  # three of five places
    assert results["own_comparison"]["merged,none"] == pytest.approx(float(results["own"][f"{measured},none"]))
    left_out = "14 documents without 'even' left out" in "".join(said)
    assert left_out == (not both)


@pytest.mark.parametrize("kind", ["float32", "int64", "bool_"])
def test_numpy_numbers_are_numbers(own, kind):
    folder = own(f"np.{kind}(right)")
    results = evaluate("plam", "config=digits", ["own", "own_comparison"], include=folder, limit=21)["results"]
    assert results["own_comparison"]["merged,none"] == pytest.approx(results["own"]["mine,none"])


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ("None if spoiled else right", "no 'mine'"),
        ("{'another' if spoiled else 'score': right}", "no 'mine.score'"),
        ("float('nan') if spoiled else right", "no finite number"),
    ],
)
@pytest.mark.parametrize("task", ["own_probe", "own_comparison"])
def test_documents_that_cant_be_scored_cost_their_task_alone(own, mine, words, task):
    folder = own(mine)
    said = []
    sink = logger.add(said.append, level="ERROR", format="{message}")
    try:
        results = evaluate("plam", "config=digits", [task, "plam_digits"], include=folder, limit=21)["results"]
    finally:
        logger.remove(sink)
    assert results["plam_digits"]["accuracy,none"] > 0.5
    numbers = {name: value for name, value in results[task].items() if name.endswith(",none") and "stderr" not in name}
    assert len(numbers) >= 5
    assert set(numbers.values()) == {None}
    assert words in "".join(said)
    assert "".join(said).count(f"{task}: ") == 1


def test_a_task_that_declares_its_clusters_runs_by_itself_too(own):
    folder = own("right", "[{version: 1}, {plam: {cluster: grid}}]")
    results = evaluate("plam", "config=digits", ["own", "own_comparison"], include=folder, limit=21)["results"]
    assert results["own_comparison"]["merged,none"] == pytest.approx(results["own"]["mine,none"])


def test_answers_outlive_a_report_that_fails(own, tmp_path, generated, monkeypatch):
    folder, output = own("right", "[{version: 1}, {plam: {cluster: grid}}]"), tmp_path / "runs"

    def refuse(*_):
        raise DataError("nothing to compare")

    with monkeypatch.context() as patch:
        patch.setattr("lmms_plam.families.comparison.adjust_results", refuse)
        results = evaluate("plam", "config=digits", ["own_comparison"], include=folder, output=output, limit=21)
    assert results["results"]["own_comparison"]["merged,none"] is None
    results = evaluate("plam", "config=digits", ["own_comparison"], include=folder, output=output, limit=21)
    assert results["results"]["own_comparison"]["merged,none"] > 0.5
    assert generated.prompts == 21


def test_a_recipe_that_cant_be_planned_is_named(tmp_path):
    plateau = tmp_path / "plateau.json"
    plateau.write_text('{"onset": null, "verdict": "no plateau"}')
    for start_layer, words in ((40, "start_layer 40 lies beyond"), (plateau, ".*Set start_layer to a layer")):
        with pytest.raises(ConfigError, match=f"recipes.late: {words}"):
            evaluate("plam", f"config=digits,recipes.late.start_layer={start_layer}", ["plam_compare_digits"], limit=2)


def test_a_comparison_of_all_tasks_never_outlives_its_run(tmp_path):
    tasks, every = ["plam_compare_digits", "plam_compare_digits_text"], tmp_path / "plam" / "digits" / "comparison.md"
    evaluate("plam", "config=digits", tasks, output=tmp_path, limit=21)
    assert all(task in every.read_text() for task in tasks)
    evaluate("plam", "config=digits", tasks[:1], output=tmp_path, limit=21)
    assert (of_model(tmp_path) / tasks[0] / "comparison.md").exists()
    assert not [path for path in every.parent.iterdir() if path.is_file()]


def test_a_perfect_answer_may_score_100(own, tmp_path):
    folder = own("100 * right", "[{version: 1}, {plam: {perfect: 100}}]")
    evaluate("plam", "config=digits", ["own_probe", "own_comparison"], include=folder, output=tmp_path / "a", limit=70)
    own("right")
    evaluate("plam", "config=digits", ["own_probe", "own_comparison"], include=folder, output=tmp_path / "b", limit=70)
    records = [json.loads((of_model(tmp_path / run) / "own_probe" / "plateau.json").read_text()) for run in "ab"]
    assert [record["perfect"] for record in records] == [100, 1]
    for name in ("onset", "interval", "verdict", "cuts"):
        assert records[0][name] == records[1][name]
    forests = [(of_model(tmp_path / run) / "own_comparison" / "forest.png").read_bytes() for run in "ab"]
    assert forests[0] == forests[1]


def test_one_models_comparison_never_replaces_anothers_and_shows_all_recipes(tmp_path, capsys):
    task = "plam_compare_digits_text"
    late = "config=digits,recipes.late.start_layer=10"
    results = [
        evaluate("plam", model, [task], output=tmp_path, limit=42)["results"] for model in (late, "config=digits")
    ]
    folders = sorted(path.name for path in (tmp_path / "plam").iterdir())
    assert len(folders) == 2
    assert folders[0] == "digits"
    two, one = (json.loads((tmp_path / "plam" / name / task / "comparison.json").read_text()) for name in folders[::-1])
    assert [record["variant"] for record in two] == ["merged", "late"]
    assert [record["variant"] for record in one] == ["merged"]
    told = results[0][task]
    for record, prefix in zip(two, ("", "late_"), strict=True):
        for number in ("difference", "ci_low", "ci_high", "p_value"):
            assert told[f"{prefix}{number},none"] == pytest.approx(record[number])
        assert told[f"{record['variant']},none"] == pytest.approx(record["b"])
    assert told["any_better_p,none"] == pytest.approx(min(record["better_p"] for record in two))
    assert "late,none" not in results[1][task]
    assert main(["compare", str(tmp_path), "--json"]) == 0
    joined = json.loads(capsys.readouterr().out)
    assert {(record["variant"], record["difference"]) for record in joined} >= {
        (record["variant"], record["difference"]) for record in two
    }


def test_logged_samples_are_json_to_the_bottom(tmp_path):
    samples = evaluate("plam", "config=digits", ["plam_compare_digits_text"], limit=7, log_samples=True)["samples"]
    for sample in samples["plam_compare_digits_text"]:
        logged = json.loads(json.dumps(sample["base"]))
        assert [one["variant"] for one in logged] == ["base", "merged"]
        assert {one["doc_id"] for one in logged} == {sample["doc_id"]}
        assert all(isinstance(one["values"]["accuracy"], (dict, float)) for one in logged)
