"""`plam compare` and `plam leaderboard` on result folders as lmms-eval writes them, good and bad."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest

from lmms_plam.cli import main
from lmms_plam.stats.metrics import register

FIELDS = [
    "task",
    "metric",
    "a",
    "b",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "n",
    "clusters",
    "method",
    "level",
    "draws",
    "seed",
]


def write_run(
    folder: Path,
    tasks: dict[str, list[dict[str, Any]]],
    *,
    scores: dict[str, dict[str, float]] | None = None,
    configs: dict[str, dict[str, Any]] | None = None,
    date: str = "20261122_120000",
    model: str = "model",
    arguments: str = "",
    asked: int | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a results file and logged samples; a task's metrics default to its samples' `exact_match`."""
    place = folder / model
    place.mkdir(parents=True, exist_ok=True)
    results = {
        "results": {
            task: {"alias": task, **{f"{key},none": value for key, value in (scores or {}).get(task, {}).items()}}
            for task in tasks
        },
        "configs": {
            task: {
                "task": task,
                "metric_list": [{"metric": "exact_match"}],
                "metadata": [{"version": 0.0}],
                **(configs or {}).get(task, {}),
            }
            for task in tasks
        },
        "versions": dict.fromkeys(tasks, "Yaml"),
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "config": {"model": "plam", "model_args": arguments, **(config or {})},
        "n-samples": {task: {"original": asked, "effective": asked} for task in tasks},
    }
    (place / f"{date}_results.json").write_text(json.dumps(results))
    for task, samples in tasks.items():
        lines = [json.dumps(sample) for sample in samples]
        (place / f"{date}_samples_{task}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def plain(n: int = 200, accuracy: float = 0.6, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Samples of a task that scores exact_match; the same seed asks the same questions."""
    rng = random.Random(f"{seed} {accuracy}")
    return [
        {"doc_id": i, "target": "x", "input": f"question {i}?", "filtered_resps": "x"}
        | {"exact_match": float(rng.random() < accuracy), "doc_hash": "always the same", **more}
        for i in range(n)
    ]


def mme(accuracy: float, pairs: int = 12) -> list[dict[str, Any]]:
    rng = random.Random(f"mme {accuracy}")
    samples = []
    for category, key in (("OCR", "perception"), ("count", "perception"), ("code_reasoning", "cognition")):
        for pair in range(pairs):
            for target in ("Yes", "No"):
                row = {"question_id": f"{pair}.png", "category": category, "score": float(rng.random() < accuracy)}
                samples.append({"doc_id": len(samples), "target": target, "input": "?", "filtered_resps": "y"})
                samples[-1][f"mme_{key}_score"] = row
    return samples


@pytest.fixture
def runs(tmp_path) -> tuple[str, str]:
    """Two runs of a user's own task, MME and a task that only one has."""
    base = write_run(tmp_path / "base", {"mine": plain(), "mme": mme(0.7)})
    merged = write_run(tmp_path / "merged", {"mine": plain(accuracy=0.75), "mme": mme(0.8), "only": plain(3)})
    return str(base), str(merged)


def compare(capsys, *arguments: str) -> list[dict[str, Any]]:
    assert main(["compare", *arguments, "--json", "--draws", "2000"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments: str) -> str:
    """Run a command that must refuse; return its one sentence."""
    assert main([*arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("plam: ")
    return error


def test_json_has_exactly_the_promised_fields(runs, capsys):
    records = compare(capsys, *runs)
    assert [list(record) for record in records] == [FIELDS] * 4
    assert [(record["task"], record["metric"]) for record in records] == [
        ("mine", "exact_match"),
        ("mme", "mme_total_score"),
        ("mme", "mme_perception_score"),
        ("mme", "mme_cognition_score"),
    ]
    mine, total, perception, cognition = records
    assert (mine["n"], mine["clusters"], mine["level"], mine["draws"], mine["seed"]) == (200, 200, 0.95, 2000, 0)
    assert mine["a"] == np.mean([sample["exact_match"] for sample in plain()])
    assert mine["difference"] == pytest.approx(mine["b"] - mine["a"])
    assert mine["ci_low"] < mine["difference"] < mine["ci_high"]
    assert (total["n"], total["clusters"]) == (72, 36)
    assert total["difference"] == pytest.approx(perception["difference"] + cognition["difference"])


def test_the_table_and_the_folder_say_the_same(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["compare", *runs, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    records = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for record in records:
        assert any(
            f"{record['difference']:+.4f}" in line or f"{record['difference']:+.1f}" in line
            for line in printed.out.splitlines()
            if record["metric"] in line
        )
    assert "merged against base" in printed.out
    assert "only is only in" in printed.err
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["metric"] for row in rows if not row["stratum"]] == [record["metric"] for record in records]
    by_stratum = [(record["metric"], one) for record in records for one in record["by_stratum"]]
    assert [(row["metric"], row["stratum"]) for row in rows if row["stratum"]] == [
        (metric, one["stratum"]) for metric, one in by_stratum
    ]
    assert by_stratum
    assert all(one["exploratory"] for _, one in by_stratum)
    assert "by stratum: merged against base (exploratory)" in (tmp_path / "out" / "comparison.html").read_text()
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "| mme | mme_total_score |" in (tmp_path / "out" / "comparison.md").read_text()


def test_the_page_shows_documents_that_change_with_what_was_asked_and_both_answers(tmp_path):
    samples = plain(n=40, accuracy=0.5)
    changed = [dict(sample) for sample in samples]
    changed[7] |= {"exact_match": 1.0 - samples[7]["exact_match"], "filtered_resps": "<b>another</b>"}
    base, merged = (write_run(tmp_path / name, {"mine": each}) for name, each in (("a", samples), ("b", changed)))
    assert main(["compare", str(base), str(merged), "--out", str(tmp_path / "out"), "--draws", "1000"]) == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    (row,) = re.findall(r"<tr>(<td class=.text.>7</td>.*?)</tr>", page)
    assert all(words in row for words in ("question 7?", ">x <small>", "&lt;b&gt;another&lt;/b&gt;"))
    assert page.count('<td class="text">') == row.count('<td class="text">')


def test_a_narrow_screen_gets_the_table_in_parts(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", *runs, "--draws", "2000"]) == 0
    lines = capsys.readouterr().out.split("- interval")[0].splitlines()
    assert sum(line.startswith("task") for line in lines) > 1
    assert max(map(len, lines)) <= 80


def test_half_a_pair_is_left_out_and_counted(tmp_path, capsys):
    for name, accuracy in (("base", 0.7), ("merged", 0.8)):
        write_run(tmp_path / name, {"mme": mme(accuracy)[:-1]})
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["clusters"] == 35
    assert "mme: 1 incomplete units (1 documents) left out" in printed.err


@pytest.mark.parametrize("task", ["realworldqa", "mine"])
def test_another_number_than_the_harness_printed_is_said_or_refused(task, tmp_path, capsys):
    """The table's own benchmarks are known; an unknown task whose score is no mean can't be guessed at."""
    right = float(np.mean([sample["exact_match"] for sample in plain()]))
    base = write_run(tmp_path / "base", {task: plain()}, scores={task: {"exact_match": right}})
    merged = write_run(tmp_path / "merged", {task: plain(accuracy=0.7)}, scores={task: {"exact_match": 0.123}})
    if task == "mine":
        assert "prints another number than the mean" in refusal(capsys, "compare", str(base), str(merged))
        return
    assert main(["compare", str(base), str(merged), "--json"]) == 0
    said = capsys.readouterr().err
    assert "merged: the harness printed 0.123 as exact_match" in said
    assert "base: the harness printed" not in said


def test_the_newest_of_two_runs_counts(tmp_path, capsys):
    write_run(tmp_path / "base", {"mine": plain(accuracy=0.1)}, date="20261121_120000")
    write_run(tmp_path / "base", {"mine": plain()}, date="20261122_120000")
    write_run(tmp_path / "merged", {"mine": plain(accuracy=0.75)})
    records = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))
    assert records[0]["a"] == np.mean([sample["exact_match"] for sample in plain()])


def test_models_in_one_folder_are_told_apart_by_their_arguments(tmp_path, capsys):
    """lmms-eval names a run's folder after `pretrained=` alone, so runs of `plam` lie in one."""
    for turn, (arguments, accuracy) in enumerate([("config=a", 0.1), ("config=a", 0.6), ("config=b", 0.9)]):
        tasks = {"mine": plain(accuracy=accuracy)}
        write_run(tmp_path / "runs", tasks, model="", arguments=arguments, date=f"20261122_12000{turn}")
    folder = tmp_path / "runs"
    assert "holds mine twice, of 'plam config=a' and 'plam config=b'" in refusal(
        capsys, "compare", str(folder), str(write_run(tmp_path / "other", {"mine": plain()}))
    )
    a, b = (str(folder / f"20261122_12000{turn}_results.json") for turn in (1, 2))
    (record,) = compare(capsys, a, b)
    assert record["a"] == np.mean([sample["exact_match"] for sample in plain()])
    assert main(["leaderboard", str(folder), "--json", "--draws", "1000"]) == 0
    standings = {standing["model"]: standing["score"] for standing in json.loads(capsys.readouterr().out)}
    assert standings == {"plam config=a": record["a"], "plam config=b": record["b"]}


def test_an_older_runs_answers_do_not_stand_in_for_the_newest(tmp_path, capsys):
    base = write_run(tmp_path / "base", {"mine": plain(), "other": plain()}, date="20261121_120000")
    write_run(base, {"mine": plain(), "other": plain()})
    next(base.rglob("20261122*_mine.jsonl")).unlink()
    merged = write_run(tmp_path / "merged", {"mine": plain(), "other": plain()})
    assert [record["task"] for record in compare(capsys, str(base), str(merged))] == ["other"]


def test_metrics_of_a_category_are_measured_on_its_documents(tmp_path, capsys):
    """Most documents lack a category's metric, and so may the first."""
    config = {"metric_list": [{"metric": name} for name in ("exact_match", "even", "late")]}
    for name, accuracy in (("base", 0.5), ("merged", 0.8)):
        samples = plain(accuracy=accuracy)
        for sample in samples:
            score = {"score": sample["exact_match"]}
            sample |= {"even": score} if sample["doc_id"] % 2 == 0 else {}
            sample |= {"late": score} if sample["doc_id"] >= 150 else {}
        write_run(tmp_path / name, {"mine": samples}, configs={"mine": config})
    records = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))
    assert [(record["metric"], record["n"]) for record in records] == [
        ("exact_match", 200),
        ("even", 100),
        ("late", 50),
    ]
    samples = plain(accuracy=0.5)
    assert records[2]["a"] == np.mean([sample["exact_match"] for sample in samples[150:]])


def test_a_metric_without_documents_is_said_and_hides_no_other(tmp_path, capsys):
    """POPE's precision and F1 of models that never say yes are 0, as upstream has it."""
    row = {"question_id": "1", "score": 0.0, "prediction": "no", "ground_truth": "yes"}
    right = [row, row | {"score": 1.0, "ground_truth": "no"}]
    base, merged = (
        write_run(tmp_path / name, {"pope": [s | {"pope_accuracy": right[s["doc_id"] % 2]} for s in plain(24)]})
        for name in ("base", "merged")
    )
    assert main(["compare", str(base), str(merged), "--json", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert [record["a"] for record in json.loads(printed.out)] == [0, 0.5, 0, 0]
    assert "pope (pope_precision): no document counts in this metric" in printed.err


def test_a_metric_that_is_0_where_all_is_right_is_drawn(tmp_path, capsys):
    register("share_wrong", estimand="share wrong")(lambda matrix: (1 - matrix.scores, np.ones_like(matrix.scores)))
    config = {"metadata": {"plam": {"metric": "share_wrong"}}}
    base, merged = (write_run(tmp_path / name, {"mine": plain()}, configs={"mine": config}) for name in "ab")
    assert main(["compare", str(base), str(merged), "--out", str(tmp_path / "out"), "--draws", "1000"]) == 0
    assert main(["leaderboard", str(tmp_path), "--draws", "1000"]) == 0


@pytest.mark.parametrize(("accuracy", "colour"), [(0.3, "#1f4e79"), (0.9, "#c0392b")])
def test_lower_is_better_is_said_and_drawn(tmp_path, accuracy, colour):
    for name, reached in (("base", 0.6), ("merged", accuracy)):
        folder = write_run(tmp_path / name, {"mine": plain(accuracy=reached)})
        file = next(folder.rglob("*_results.json"))
        file.write_text(file.read_text().replace('"exact_match": true', '"exact_match": false'))
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--out", str(out)]) == 0
    assert json.loads((out / "comparison.json").read_text())[0]["higher_is_better"] is False
    assert re.findall("#1f4e79|#c0392b", (out / "forest.svg").read_text())[0] == colour


def test_lower_is_better_is_said(tmp_path, capsys):
    for name, accuracy in (("base", 0.5), ("merged", 0.8)):
        folder = write_run(tmp_path / name, {"mine": plain(accuracy=accuracy)})
        file = next(folder.rglob("*_results.json"))
        file.write_text(file.read_text().replace('"exact_match": true', '"exact_match": false'))
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--json"]) == 0
    assert "mine: lower is better" in capsys.readouterr().err
    assert main(["leaderboard", str(tmp_path), "--reference", "base", "--json", "--draws", "1000"]) == 0
    printed = capsys.readouterr()
    assert "mine: lower is better" in printed.err
    merged = next(record for record in json.loads(printed.out) if record["model"] == "merged")
    assert (merged["best_rank"], merged["better_p"]) == (2, 1)


def test_family_tasks_are_not_compared_again(tmp_path, capsys):
    for name in ("base", "merged"):
        family = {"plam_compare_mine": {"plam": {"of": "mine"}}}
        write_run(tmp_path / name, {"mine": plain(), "plam_compare_mine": plain()}, configs=family)
    assert [record["task"] for record in compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))] == ["mine"]


# A benchmark of the user's own


def test_cluster_stratum_and_metric_are_a_line_of_yaml(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(
        "from lmms_plam.stats.metrics import mean, register\n"
        "register('doubled', estimand='twice the mean', scale=2)(mean)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {
        "metadata": {
            "version": 1,
            "plam": {"cluster": "info.image", "stratum": "info.part", "metric": "my_metrics:doubled"},
        }
    }
    for name, accuracy in (("base", 0.5), ("merged", 0.8)):
        samples = plain(accuracy=accuracy)
        for sample in samples:
            sample["info"] = {"image": f"{sample['doc_id'] // 5}", "part": sample["doc_id"] // 100}
        write_run(tmp_path / name, {"mine": samples}, configs={"mine": config})
    record = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))[0]
    assert record["clusters"] == 40
    assert record["a"] == pytest.approx(2 * np.mean([sample["exact_match"] for sample in plain(accuracy=0.5)]))


def test_lmms_evals_own_cluster_key_is_heeded(tmp_path, capsys):
    for name, accuracy in (("base", 0.5), ("merged", 0.8)):
        samples = plain(accuracy=accuracy)
        for sample in samples:
            sample["exact_match"] = {"videoID": sample["doc_id"] // 4, "right": sample["exact_match"]}
        config = {"cluster_key": "videoID", "score_key": "right"}
        write_run(tmp_path / name, {"mine": samples}, configs={"mine": config})
    record = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))[0]
    assert (record["metric"], record["n"], record["clusters"]) == ("exact_match", 200, 50)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"clusters": "x"}, "mine: metadata.plam.clusters: Extra inputs are not permitted. Did you mean 'cluster'?"),
        ("x", "mine: metadata.plam: Input should be a valid dictionary"),
        ({"metric": "meen"}, "mine: metadata.plam.metric: no metric 'meen'. Did you mean 'mean'?"),
        ({"metric": "broken:x"}, "the module 'broken' can't be imported (SyntaxError: '(' was never closed"),
        ([], "mine: metadata.plam: Input should be a valid dictionary"),
        ({"metric": "nowhere:x"}, "mine: metadata.plam.metric: the module 'nowhere' can't be imported"),
        ({"stratum": "x"}, "document 0: 'x' is not among what is logged"),
        ({"score": "x.y"}, "mine: no document has 'x', which its YAML names as the score"),
        ({"metric": "question_right"}, "mine: the metric 'question_right' reads a column 'question'"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(entry, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.py").write_text("def half(")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("base", "merged"):
        write_run(tmp_path / name, {"mine": plain()}, configs={"mine": {"metadata": {"plam": entry}}})
    assert message in refusal(capsys, "compare", str(tmp_path / "base"), str(tmp_path / "merged"))


def test_an_empty_declaration_declares_nothing(tmp_path, capsys):
    """So that a benchmark of the table is read as stated there."""
    for name in ("base", "merged"):
        write_run(tmp_path / name, {"gqa": plain(8)}, configs={"gqa": {"metadata": {"plam": None}}})
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--json"]) == 0
    assert "'imageId'" in capsys.readouterr().err


def test_shared_images_without_names_get_no_interval_until_they_are_given(tmp_path, capsys):
    for name, accuracy in (("base", 0.6), ("merged", 0.7)):
        write_run(tmp_path / name, {"gqa": plain(accuracy=accuracy)})
    arguments = [str(tmp_path / "base"), str(tmp_path / "merged")]
    assert main(["compare", *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)[0]
    assert (record["ci_low"], record["ci_high"], record["p_value"], record["clusters"]) == (None, None, None, 1)
    assert "give them with --clusters gqa=FILE" in printed.err
    file = tmp_path / "images.csv"
    file.write_text("doc_id,cluster\n" + "".join(f"{i},image{i // 4}\n" for i in range(200)))
    record = compare(capsys, *arguments, "--clusters", f"gqa={file}")[0]
    assert record["clusters"] == 50
    assert record["ci_low"] is not None
    file.write_text("doc_id,cluster\n0,a\n")
    assert "lack 199 documents" in refusal(capsys, "compare", *arguments, "--clusters", f"gqa={file}")
    assert "Did you mean 'gqa'?" in refusal(capsys, "compare", *arguments, "--clusters", f"gqaa={file}")
    file.write_text("doc_id,cluster\n0,a\n1\n")
    assert "document 1 has no cluster" in refusal(capsys, "compare", *arguments, "--clusters", f"gqa={file}")
    file.write_text("doc_id,cluster\n0,a\n0,b\n")
    assert "document 0 is in two clusters" in refusal(capsys, "compare", *arguments, "--clusters", f"gqa={file}")
    file.write_text("doc_id,cluster\n\0,a\n,b\n")
    assert "no CSV file with columns doc_id and cluster" in refusal(
        capsys, "compare", *arguments, "--clusters", f"gqa={file}"
    )


@pytest.mark.parametrize(("task", "column"), [("gqa", "imageId"), ("ai2d", "image")])
def test_shared_images_are_found_in_a_dataset_on_this_machine(task, column, tmp_path, capsys):
    """GQA's documents name their image; AI2D's only hold it, so that equal pictures are told by their contents."""
    names = [f"image {i // 4}" for i in range(200)]
    pictures = [PIL.Image.new("RGB", (8, 8), (i // 4, 0, 0)) for i in range(200)]
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    values = names if column == "imageId" else pictures
    datasets.Dataset.from_dict({column: values}).to_parquet(dataset / "test-00000-of-00001.parquet")
    config = {"dataset_path": str(dataset), "test_split": "test"}
    for name, accuracy in (("base", 0.6), ("merged", 0.7)):
        write_run(tmp_path / name, {task: plain(accuracy=accuracy)}, configs={task: config})
    record = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))[0]
    assert (record["n"], record["clusters"]) == (200, 50)


# Bad input


@pytest.mark.parametrize(
    ("process_docs", "asked", "clusters"), [(None, 200, 50), (None, 190, 1), ("<function drop_some>", 200, 1)]
)
def test_a_users_clusters_are_read_from_his_own_files(process_docs, asked, clusters, tmp_path, capsys, monkeypatch):
    """Through `data_files`, whatever lies in the working directory; not where rows may not be the documents."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"image_id": i // 4}) + "\n" for i in range(200)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("no JSON")
    config = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "process_docs": process_docs,
        "metadata": {"plam": {"cluster": "image_id"}},
    }
    for name, accuracy in (("base", 0.6), ("merged", 0.7)):
        write_run(tmp_path / name, {"mine": plain(accuracy=accuracy)}, configs={"mine": config}, asked=asked)
    (record,) = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))
    assert record["clusters"] == clusters


def change(samples: list[dict[str, Any]], place: int, **entries: Any) -> list[dict[str, Any]]:
    return [sample | entries if sample["doc_id"] == place else sample for sample in samples]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (plain(199), "answered different documents (base: 200, merged: 199; 199 in common)"),
        (change(plain(), 7, input="another question?"), "were asked with different prompts for document 7"),
        (change(plain(), 7, target="y"), "have different targets for document 7"),
        (change(plain(), 7, exact_match="right"), "document 7, variant 'merged': the score 'right' is not a number"),
        ([*plain(), plain()[7]], "line 201 repeats document 7"),
        (change(plain(), 7, exact_match=float("nan")), "document 7, variant 'merged': the score is no finite number"),
        (change(plain(), 7, exact_match=None), "document 7: no 'exact_match'"),
        (change(plain(), 7, exact_match=10**400), "document 7, variant 'merged': the score is no finite number"),
        *((change(plain(), 7, doc_id=odd), "line 8 is cut off or no logged") for odd in (None, -1, 0.5, 2**70)),
        ([], "line 1 is cut off"),
    ],
)
def test_what_cannot_be_paired_is_refused_in_one_sentence(samples, message, tmp_path, capsys):
    base = write_run(tmp_path / "base", {"mine": plain()})
    merged = write_run(tmp_path / "merged", {"mine": samples})
    assert message in refusal(capsys, "compare", str(base), str(merged))


@pytest.mark.parametrize("samples", [plain(150), change(plain(), 7, input="another question?")])
def test_the_intersection_is_compared_on_demand_and_said(samples, tmp_path, capsys):
    base = write_run(tmp_path / "base", {"mine": plain()})
    merged = write_run(tmp_path / "merged", {"mine": samples})
    assert main(["compare", str(base), str(merged), "--intersection", "--json"]) == 0
    printed = capsys.readouterr()
    n = json.loads(printed.out)[0]["n"]
    assert n in (150, 199)
    assert f"{200 - n} of 200 documents left out" in printed.err


def test_a_task_named_twice_is_compared_once(runs, capsys):
    assert main(["compare", *runs, "--tasks", "mine, mine", "--json", "--draws", "1000"]) == 0
    assert [record["task"] for record in json.loads(capsys.readouterr().out)] == ["mine"]


def test_of_several_filters_the_first_counts(tmp_path, capsys):
    config = {"filter_list": [{"name": "strict"}, {"name": "flexible"}]}
    for name, accuracy in (("base", 0.5), ("merged", 0.8)):
        samples = plain(accuracy=accuracy)
        loose = [sample | {"exact_match": 1.0} for sample in samples]
        write_run(tmp_path / name, {"mine": [*samples, *loose]}, configs={"mine": config}, asked=200)
        write_run(tmp_path / f"{name}_alone", {"mine": samples})
    both = compare(capsys, str(tmp_path / "base"), str(tmp_path / "merged"))
    assert both == compare(capsys, str(tmp_path / "base_alone"), str(tmp_path / "merged_alone"))
    write_run(tmp_path / "base", {"mine": plain() * 3}, configs={"mine": config}, asked=200)
    error = refusal(capsys, "compare", str(tmp_path / "base"), str(tmp_path / "merged"))
    assert "line 401 repeats document 0" in error


def test_different_versions_of_a_task_are_refused(tmp_path, capsys):
    base = write_run(tmp_path / "base", {"mine": plain()})
    merged = write_run(tmp_path / "merged", {"mine": plain()}, configs={"mine": {"metadata": [{"version": 1.0}]}})
    error = refusal(capsys, "compare", str(base), str(merged), "--intersection")
    assert "different versions of the task (0.0, 1.0)" in error


def test_a_line_cut_off_is_named(runs, capsys):
    file = next(Path(runs[1]).rglob("*_samples_mine.jsonl"))
    file.write_text(file.read_text()[:-40])
    assert "line 200 is cut off" in refusal(capsys, "compare", *runs, "--tasks", "mine")
    file.write_bytes(file.read_bytes()[:-20] + b"\xff\n")
    assert "line 200 is cut off" in refusal(capsys, "compare", *runs, "--tasks", "mine")
    file.write_text("")
    assert "ends after line 0 of an unknown number" in refusal(capsys, "compare", *runs, "--tasks", "mine")


@pytest.mark.parametrize(
    ("asked", "config", "refused"),
    [
        (200, {}, False),
        (201, {}, True),
        (201, {"limit": -1}, True),
        (500, {"limit": 200.0}, False),
        (500, {"limit": 201.0}, True),
        (500, {"limit": 0.4}, False),
        (500, {"offset": 300}, False),
    ],
)
def test_answers_lost_at_the_end_of_a_file_are_missed(asked, config, refused, tmp_path, capsys):
    base = write_run(tmp_path / "base", {"mine": plain()})
    merged = write_run(tmp_path / "merged", {"mine": plain(accuracy=0.7)}, asked=asked, config=config)
    if refused:
        assert "ends after line 200 of 201; run the task again" in refusal(capsys, "compare", str(base), str(merged))
    else:
        assert len(compare(capsys, str(base), str(merged))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "1.5"], "--level lies between 0 and 1"),
        (["--level", "nan"], "--level lies between 0 and 1"),
        (["--draws", "1"], "--draws 1 is too few"),
        (["--seed", "-1"], "--seed is 0 or more, not -1"),
        (["--tasks", "mme,mne"], "no task 'mne' to compare. Did you mean 'mine'?"),
        (["--clusters", "mme"], "--clusters takes TASK=FILE"),
        (["--tasks", "mme", "--clusters", "mme=/dev/null"], "mme: its metric says which documents belong together"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, runs, capsys):
    for command in (["compare", *runs], ["leaderboard", runs[0]]):
        assert message in refusal(capsys, *command, *arguments)


def test_a_file_that_cannot_be_read_is_named_without_a_traceback(runs, capsys, monkeypatch):
    def refuse(path, *arguments, **more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "Permission denied: '" in refusal(capsys, "compare", *runs)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("mmbench_en_dev_static", {"gpt_eval_score": {"prediction": "A"}}),
        ("mmmu_val", {"mmmu_acc": {"id": "x", "subdomain": "A", "question_type": "multiple-choice", "answer": "A"}}),
        ("mathvision_testmini", {"mathvision_standard_eval": {"scores": []}}),
        ("mme", {"mme_perception_score": {"score": 1.0}}),
        ("hallusion_bench_image", {"aAcc": None}),
    ],
)
def test_a_benchmark_of_another_schema_is_named_by_file_and_document(task, row, tmp_path, capsys):
    base, merged = (write_run(tmp_path / name, {task: plain(**row)}) for name in ("base", "merged"))
    error = refusal(capsys, "compare", str(base), str(merged))
    assert f"samples_{task}.jsonl: " in error
    assert "document 0" in error


@pytest.mark.parametrize("content", ["[]", '{"configs": []}', '{"results": {}}', "null"])
def test_files_that_only_look_like_results_are_passed_over(content, runs, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "mine_results.json").write_text(content)
    assert "holds no results of lmms-eval" in refusal(capsys, "compare", runs[0], str(tmp_path / "odd"))


def test_samples_of_another_schema_are_named(runs, capsys):
    file = next(Path(runs[1]).rglob("*_samples_mme.jsonl"))
    file.write_text("".join(json.dumps(sample) + "\n" for sample in plain(72)))
    assert "document" in refusal(capsys, "compare", *runs, "--tasks", "mme")


def test_folders_without_anything_to_compare_are_refused(runs, tmp_path, capsys):
    base, merged = runs
    other = write_run(tmp_path / "other", {"else": plain()})
    assert "no task in common" in refusal(capsys, "compare", base, str(other))
    for place in (tmp_path / "nowhere", next(Path(base).rglob("*.jsonl"))):
        assert "is no folder" in refusal(capsys, "compare", base, str(place))
    family = write_run(tmp_path / "family", {"mine": plain()}, configs={"mine": {"plam": {"of": "mine"}}})
    assert "comparisons and probes report by themselves" in refusal(capsys, "leaderboard", str(family))
    (tmp_path / "empty").mkdir()
    assert "holds no results of lmms-eval" in refusal(capsys, "compare", base, str(tmp_path / "empty"))
    for file in Path(merged).rglob("*.jsonl"):
        file.unlink()
    assert "run again with --log_samples" in refusal(capsys, "compare", base, merged)
    assert "are the same folder" in refusal(capsys, "compare", base, base)
    assert "are the same run" in refusal(capsys, "compare", str(other), str(other / "model"))
    twice = write_run(tmp_path / "twice", {"mine": plain()}, model="one")
    write_run(twice, {"mine": plain()}, model="two")
    assert "holds mine twice, of 'one' and 'two'" in refusal(capsys, "compare", base, str(twice))
    bad = next(Path(base).rglob("*_results.json"))
    bad.write_text(bad.read_text()[:50])
    assert "is cut off or no JSON" in refusal(capsys, "compare", base, str(other))


@pytest.mark.parametrize("command", ["compare", "leaderboard"])
def test_one_task_that_cannot_be_read_costs_no_other_and_is_named_everywhere(command, runs, tmp_path, capsys):
    """A script that compares sees it in the exit code: it asked for a comparison that isn't there."""
    base, merged = runs
    arguments = [base, merged] if command == "compare" else [str(tmp_path)]
    arguments += ["--draws", "1000", "--out", str(tmp_path / "out")]
    file = next(Path(merged).rglob("*_samples_mine.jsonl"))
    file.write_text(file.read_text()[:-40])
    assert main([command, *arguments]) == (1 if command == "compare" else 0)
    printed = capsys.readouterr()
    said = "mine is left out: "
    assert said in printed.out
    assert f"plam: {said}{file}: line 200 is cut off" in printed.err
    name = "comparison" if command == "compare" else "leaderboard"
    for kind in ("md", "html"):
        assert said in (tmp_path / "out" / f"{name}.{kind}").read_text()
    assert {record["task"] for record in json.loads((tmp_path / "out" / f"{name}.json").read_text())} >= {"mme"}
    for other in Path(merged).rglob("*_samples_*.jsonl"):
        other.write_text("")
    count = 2 if command == "compare" else 3
    assert refusal(capsys, command, *arguments) == f"plam: none of {count} tasks can be read"


def test_an_unreadable_results_file_costs_its_folder_alone(board, tmp_path, capsys):
    """Nor do older runs beside it stand in for what it held."""
    file = next((board / "twin").rglob("*_results.json"))
    write_run(board / "twin", {"mine": plain(accuracy=0.2), "mme": mme(0.2)}, date="20261101_120000")
    file.write_text(file.read_text()[:99])
    assert main(["leaderboard", str(board), "--json", "--draws", "1000"]) == 0
    printed = capsys.readouterr()
    assert {record["model"] for record in json.loads(printed.out)} == {"base", "good"}
    assert f"plam: {file} is cut off or no JSON" in printed.err
    assert f"{file} is cut off or no JSON" in refusal(capsys, "compare", str(board / "base"), str(board / "twin"))


# The leaderboard


@pytest.fixture
def board(tmp_path) -> Path:
    for name, accuracy in (("base", 0.6), ("good", 0.9), ("twin", 0.61)):
        tasks = {"mine": plain(accuracy=accuracy), "mme": mme(accuracy)}
        write_run(tmp_path / "runs" / name, tasks if name != "twin" else {"mine": tasks["mine"]})
    return tmp_path / "runs"


def test_the_leaderboard_ranks_and_compares(board, capsys):
    assert main(["leaderboard", str(board), "--reference", "base", "--json", "--draws", "2000"]) == 0
    records = json.loads(capsys.readouterr().out)
    by = {(record["model"], record["task"]): record for record in records}
    assert len(by) == 5
    good = by["good", "mine"]
    assert (good["best_rank"], good["worst_rank"]) == (1, 1)
    assert (by["base", "mine"]["best_rank"], by["base", "mine"]["worst_rank"]) == (2, 3)
    assert good["difference_ci_low"] > 0
    assert good["holm_p"] >= good["p_value"]
    assert by["base", "mine"]["reference"] is None
    assert good["p_value"] <= good["bh_p"] <= good["holm_p"]
    assert good["better_p"] < 0.001 < by["twin", "mine"]["better_p"]
    assert good["estimand"] == "mean score over documents"
    assert by["good", "mme"]["metric"] == "mme_total_score"


def test_the_leaderboard_comes_as_markdown_and_files(board, capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ["leaderboard", str(board), "--reference", "base", "--draws", "2000"]
    assert main([*arguments, "--markdown", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| \d \| twin \| \d+\.\d\d \| 0\.", printed)
    assert "not run" in printed
    assert printed.strip() == (out / "leaderboard.md").read_text().strip()
    assert sorted(path.name for path in out.iterdir()) == [
        f"leaderboard.{kind}" for kind in ("csv", "html", "json", "md")
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "place 1" in printed
    assert "mine: is any model better than base? p 0.0002 (max-T over 2 models)" in printed


def test_an_unknown_reference_is_refused(board, capsys):
    assert "Did you mean 'base'?" in refusal(capsys, "leaderboard", str(board), "--reference", "bas")
