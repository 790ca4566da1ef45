"""`plam compare` and `plam leaderboard` on the matrices of comparisons: redone, joined, or refused in a sentence."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lmms_plam.cli import main
from lmms_plam.files import digest
from lmms_plam.scoring.saved import ComparisonRecord, SavedMeasure, digest_question
from lmms_plam.stats.comparison import Analysis
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

TASK = "plam_compare_mine"


def save(
    folder: Path, scores: dict[str, np.ndarray], *, first: int = 0, strata: bool = False, task: str = TASK, **changes
) -> Path:
    """Write a comparison's folder, as a run leaves it: a variant's scores by name, documents from `first` on."""
    count = len(next(iter(scores.values())))
    doc_ids = np.arange(first, first + count)
    matrix = ScoreMatrix(
        doc_ids=doc_ids,
        variants=tuple(scores),
        scores=np.stack(list(scores.values()), axis=1).astype(float),
        answers=np.stack([own.astype(int).astype(str) for own in scores.values()], axis=1).astype(object),
        clusters=(doc_ids // 2).astype(str),
        strata=np.where(doc_ids // 2 % 3 == 0, "a", np.where(doc_ids // 2 % 3 == 1, "b", "c"))
        if strata
        else np.full(count, ""),
    )
    fields = {
        "task": task,
        "of": "mine",
        "model": folder.name,
        "fingerprint": "0" * 16,
        "date": "2026-11-26",
        "reference": "base",
        "recipes": {name: f"recipe of {name}" for name in scores},
        "measures": (SavedMeasure(key="accuracy", metric="mean"),),
        "asked": {int(doc_id): digest_question(f"question {doc_id}", "yes") for doc_id in doc_ids},
    }
    matrix.write(folder / task / "matrix.parquet")
    data = digest(folder / task / "matrix.parquet")
    ComparisonRecord(**{**fields, "data": data, **changes}).write(folder / task)
    return folder


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.6).astype(float)
    flipped = {name: np.where(rng.random(400) < share, 1 - base, base) for name, share in (("one", 0.1), ("two", 0.2))}
    return {"base": base, **flipped}


def compare(capsys, *arguments: object) -> list[dict[str, object]]:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    return error[0]


def test_a_comparison_redone_says_what_its_run_said(scores, tmp_path, capsys):
    folder = save(tmp_path / "plam" / "m", {"base": scores["base"], "merged": scores["one"]})
    (found,) = compare(capsys, folder)
    matrix = ScoreMatrix.read(folder / TASK / "matrix.parquet")
    own = Analysis.of(matrix, find_metric("mean")).compare("base", "merged")
    assert (found["difference"], found["ci_low"], found["p_value"]) == (
        own.difference.value,
        own.difference.ci_low,
        own.p_value,
    )
    assert [compare(capsys, place)[0]["difference"] for place in (tmp_path, tmp_path / "plam", folder / TASK)] == [
        found["difference"]
    ] * 3


def test_comparisons_of_two_recipes_are_joined_with_their_common_base(scores, tmp_path, capsys):
    one, two = (
        save(tmp_path / name / "plam" / name, {"base": scores["base"], "merged": scores[name]})
        for name in ("one", "two")
    )
    found = compare(capsys, one, two)
    assert [(record["reference"], record["variant"]) for record in found] == [
        ("base", "one/merged"),
        ("base", "two/merged"),
    ]
    assert [record["b"] for record in found] == [scores["one"].mean(), scores["two"].mean()]
    against = compare(capsys, one, two, "--reference", "one/merged")
    assert {record["variant"]: record["difference"] for record in against}["two/merged"] == pytest.approx(
        scores["two"].mean() - scores["one"].mean()
    )
    assert "is any of the 2 recipes better?" in read_notes(capsys, one, two)


def read_notes(capsys, *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_model_has_one_name_over_all_its_tasks_wherever_it_lies(scores, tmp_path, capsys):
    for run, tasks in (("a", (TASK, "plam_compare_other")), ("b", (TASK,))):
        for task in tasks:
            save(tmp_path / run / "plam" / "digits", scores, task=task)
    assert main(["leaderboard", str(tmp_path), "--json"]) == 0
    found = {(record["model"], record["task"]) for record in json.loads(capsys.readouterr().out)}
    assert {model for model, task in found if task == "plam_compare_other"} == {f"a/digits/{name}" for name in scores}
    assert {f"{run}/digits/base" for run in "ab"} <= {model for model, task in found if task == TASK}
    for copy, name in (("x", "one"), ("y", "two")):
        (save(tmp_path / copy, {"base": scores["base"], "merged": scores[name]}) / TASK).rename(
            tmp_path / f"only_{copy}"
        )
    variants = [record["variant"] for record in compare(capsys, tmp_path / "only_x", tmp_path / "only_y")]
    assert variants == ["only_x/merged", "only_y/merged"]


def test_bases_that_answer_otherwise_are_told_apart(scores, tmp_path, capsys):
    one = save(tmp_path / "one", {"base": scores["base"], "merged": scores["one"]})
    two = save(tmp_path / "two", {"base": scores["two"], "merged": scores["one"]})
    found = compare(capsys, one, two)
    assert [(record["reference"], record["variant"]) for record in found] == [
        ("one/base", "merged"),
        ("one/base", "two/base"),
    ]


def test_documents_that_were_asked_otherwise_are_refused_or_left_out(scores, tmp_path, capsys):
    own = {"base": scores["base"][:300], "merged": scores["one"][:300]}
    one = save(tmp_path / "one", {name: values[:200] for name, values in own.items()})
    two = save(tmp_path / "two", {name: values[100:] for name, values in own.items()}, first=100)
    assert "200 of 300 documents weren't asked alike in one and two; --intersection" in refusal(
        capsys, "compare", one, two
    )
    (found,) = compare(capsys, one, two, "--intersection")
    assert found["n"] == 100
    changed = {doc_id: digest_question(f"other {doc_id}", "yes") for doc_id in range(200)}
    three = save(tmp_path / "three", {name: values[:200] for name, values in own.items()}, asked=changed)
    assert "no document was asked alike" in refusal(capsys, "compare", one, three, "--intersection")


def test_what_holds_no_comparison_is_said(scores, tmp_path, capsys):
    folder = save(tmp_path / "m", {"base": scores["base"], "merged": scores["one"]})
    (folder / TASK / "record.json").unlink()
    assert "an earlier version wrote it, so run the comparison again" in refusal(capsys, "compare", folder)
    (folder / TASK / "plateau.json").write_text("{}")
    assert "`plam plateau` reads it again" in refusal(capsys, "compare", folder)
    (folder / TASK / "plateau.json").unlink()
    (folder / TASK / "recipes.json").write_text("{}")
    assert "what a choice among its recipes is worth" in refusal(capsys, "compare", folder)
    (folder / TASK / "record.json").write_text("{}")
    assert "is no comparison's record" in refusal(capsys, "compare", folder)
    assert "no file or folder" in refusal(capsys, "compare", tmp_path / "nowhere")


def test_unlike_metrics_variants_and_options_are_refused(scores, tmp_path, capsys):
    own = {"base": scores["base"], "merged": scores["one"]}
    one, two = save(tmp_path / "one", own), save(tmp_path / "two", own, of="other")
    assert "measures other otherwise than" in refusal(capsys, "compare", one, two)
    assert "Did you mean 'merged'?" in refusal(capsys, "compare", one, "--reference", "merge")
    assert "is named twice" in refusal(capsys, "compare", one, one / TASK)
    clusters = tmp_path / "clusters.csv"
    clusters.write_text("doc_id,cluster\n0,a\n")
    assert "a comparison's matrix has its clusters" in refusal(
        capsys, "compare", one, "--clusters", f"{TASK}={clusters}"
    )


def test_strata_are_reported_as_exploratory(scores, tmp_path, capsys):
    own = {"base": scores["base"], "merged": scores["one"]}
    one = save(tmp_path / "m", own, strata=True)
    compare(capsys, one, "--out", tmp_path / "out")
    (record,) = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(part["stratum"], part["exploratory"]) for part in record["by_stratum"]] == [(name, True) for name in "abc"]
    matrix = ScoreMatrix.read(one / TASK / "matrix.parquet")
    for part in record["by_stratum"]:
        rows = matrix.strata == part["stratum"]
        assert part["n"] == rows.sum()
        assert part["difference"] == pytest.approx(np.diff(matrix.scores[rows].mean(axis=0))[0])
        assert part["ci_low"] < part["difference"] < part["ci_high"]
        assert part["bh_p"] >= part["p_value"]
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert [row["stratum"] for row in rows] == ["", "a", "b", "c"]
    for kind in ("md", "html"):
        assert "by stratum: merged against base (exploratory)" in (tmp_path / "out" / f"comparison.{kind}").read_text()


def test_a_screen_of_80_columns_keeps_a_difference_and_its_interval_in_one_row(scores, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    task = "plam_compare_of_a_benchmark_with_quite_a_long_name"
    own = {"base": scores["base"], "a_recipe_with_a_long_name_too": scores["one"], "two": scores["two"]}
    assert main(["compare", str(save(tmp_path / "m", own, task=task))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(bool(re.search(r"[+-]\d\.\d{4} +[+-]\d\.\d{4} to [+-]\d\.\d{4}", line)) for line in lines) == 2


def test_a_note_is_said_once(scores, tmp_path, capsys):
    for task in ("one", "two", "three"):
        save(tmp_path / "m", {name: own[:16] for name, own in scores.items()}, task=task, notes=["a remark"])
    said = read_notes(capsys, tmp_path)
    assert said.count("a remark") == said.count("only 8 clusters") == said.count("paired difference of the mean") == 1


def test_the_leaderboard_has_all_recipes_in_the_order_of_their_scores(scores, tmp_path, capsys):
    other = {name: 1 - own for name, own in scores.items()}
    save(tmp_path / "m", scores)
    save(tmp_path / "m", other, task="plam_compare_other")
    assert main(["leaderboard", str(tmp_path), "--csv", "--reference", "m/base"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    mine = [row for row in rows if row["task"] == TASK]
    assert [row["rank"] for row in mine] == ["1", "2", "3"]
    assert {row["model"] for row in mine} == {"m/base", "m/one", "m/two"}
    assert [float(row["mean"]) for row in mine] == pytest.approx([50.0] * 3)  # each task's opposite
    assert main(["leaderboard", str(tmp_path), "--tasks", TASK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [record["score"] for record in found] == sorted((own.mean() for own in scores.values()), reverse=True)
    assert found[0]["described"].startswith("config m: recipe of ")
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert "m/one is config m: recipe of one" in " ".join(capsys.readouterr().out.split())


def test_a_record_of_another_matrix_is_refused(tmp_path, scores, capsys):
    folder = save(tmp_path / "m", scores)
    save(tmp_path / "other", {name: 1 - own for name, own in scores.items()})
    record = next(folder.rglob("record.json"))
    record.write_bytes(next((tmp_path / "other").rglob("record.json")).read_bytes())
    assert "is about another matrix than the matrix.parquet beside it" in refusal(capsys, "compare", folder)
