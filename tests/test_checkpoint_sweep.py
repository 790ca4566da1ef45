"""A sweep over checkpoints asks every pair once, and its choice is told by documents that it wasn't made on."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lmms_plam.cli import main
from lmms_plam.cli.inference import print_table
from lmms_plam.config import MergeRecipe
from lmms_plam.errors import CheckpointError, ConfigError
from lmms_plam.harness.arguments import read_settings
from lmms_plam.paths import PACKAGE
from lmms_plam.report.checkpoints import choices, to_csv
from lmms_plam.search.checkpoints import UNTOUCHED, Column, analyse_checkpoints
from lmms_plam.search.crossfit import Plan
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.study.schema import read_asked
from lmms_plam.study.sweep import Sweep, plan_sweep

MEAN = find_metric("mean")


def copy_with_noise(source: Path, folder: Path, noise: float) -> Path:
    """Copy a checkpoint, noise added to its matrices, in units of their spread."""
    shutil.copytree(source, folder)
    file, rng = folder / "model.safetensors", torch.Generator().manual_seed(0)
    tensors = {
        key: (one + noise * one.float().std() * torch.randn(one.shape, generator=rng)).to(one.dtype)
        if one.ndim == 2
        else one
        for key, one in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Copies of digits, the second VLM drowned in noise."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step, noise in ((2, 0.0), (10, 3.0)):
        copy_with_noise(PACKAGE / "digits" / "vlm", folder / "vlm" / f"step_{step}", noise)
    copy_with_noise(PACKAGE / "digits" / "base_lm", folder / "base_lm" / "step_2", 0.0)
    copy_with_noise(PACKAGE / "digits" / "base_lm", folder / "base_lm" / "step_10", 0.01)
    return folder


def sweep(folder: Path, **fields) -> Sweep:
    given = {
        "config": "digits",
        "vlm": [f"{folder}/vlm/step_*"],
        "base_lm": [f"{folder}/base_lm/step_*"],
        "alpha": [0.1, 0.5],
        "tasks": ["digits", "digits_text"],
    }
    return Sweep.model_validate({**given, **fields})


def test_every_pair_is_one_run_that_asks_all_recipes_of_all_tasks(checkpoints):
    plan, pairs = plan_sweep(sweep(checkpoints))
    assert [(pair.vlm, pair.base_lm) for pair in pairs.values()] == [
        ("step_2", "step_2"),
        ("step_10", "step_2"),
        ("step_2", "step_10"),
        ("step_10", "step_10"),
    ]
    assert {cell.tasks for cell in plan.cells} == {("plam_compare_digits", "plam_compare_digits_text")}
    given = next(word for word in plan.cells[1].arguments if word.startswith("config="))
    settings = read_settings(given)
    assert settings.vlm == f"{checkpoints}/vlm/step_10"
    whole = MergeRecipe(modules="all", qk_norms=True, start_layer=0, lambda_lm=0.1, lambda_vlm=0.9)
    assert settings.merge == whole
    assert settings.recipes == {"alpha_0_5": whole.model_copy(update={"lambda_lm": 0.5, "lambda_vlm": 0.5})}


def test_pairs_alike_go_along_both_trainings(checkpoints):
    _, pairs = plan_sweep(sweep(checkpoints, pairs="alike"))
    assert [pair.name for pair in pairs.values()] == ["step_2+step_2", "step_10+step_10"]


def test_nothing_of_the_configs_own_recipes_is_asked(checkpoints):
    own = {"config": "microworld", "vlm": [str(PACKAGE / "microworld" / "upper")], "tasks": ["microworld"]}
    base_lm = [str(PACKAGE / "microworld" / "base_lm")]
    plan, _ = plan_sweep(sweep(checkpoints, **own, base_lm=base_lm, recipes={"late": {"start_layer": 8}}))
    given = next(word for word in plan.cells[0].arguments if word.startswith("config="))
    assert set(read_settings(given).recipes) == {"alpha_0_5", "late"}


def test_a_single_alpha_is_asked_alone_whatever_recipes_the_config_has(checkpoints):
    pair = {"vlm": [str(PACKAGE / "babyllava" / "multimodal")], "base_lm": [str(PACKAGE / "babyllava" / "text")]}
    plan, _ = plan_sweep(sweep(checkpoints, config="babyllava", **pair, alpha=[0.5], tasks=["babyllava"]))
    settings = read_settings(next(word for word in plan.cells[0].arguments if word.startswith("config=")))
    assert (settings.merge.lambda_lm, settings.merge.lambda_vlm, settings.recipes) == (0.5, 0.5, {})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vlm": ["nothing_*"]}, r"vlm: nothing in .* is called nothing_\*"),
        ({"vlm": ["/nothing_*"]}, r"vlm: nothing is called /nothing_\*"),
        ({"alpha": [1.5]}, r"alpha is the share of the base LM, above 0 and up to 1, not 1\.5"),
        ({"alpha": []}, r"neither alpha nor recipes say what is merged"),
        ({"alphas": [0.5]}, r"unknown field 'alphas'\. Did you mean 'alpha'\?"),
        (
            {"recipes": {"a": {"lamda_lm": 1}}},
            r"recipes: 'a' has an unknown field 'lamda_lm'\. Did you mean 'lambda_lm'",
        ),
        ({"tasks": ["digit"]}, r"no benchmark 'digit' .* Did you mean 'digits'"),
        ({"pairs": "same"}, r"unknown pairs 'same'"),
        (
            {"recipes": {"a": {"end_layer": 4}, "b": {"start_layer": 2}}, "alpha": []},
            r"name such fields in each recipe",
        ),
    ],
)
def test_what_cant_be_meant_is_said_in_a_sentence(checkpoints, tmp_path, fields, words):
    content = sweep(checkpoints).model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**content, **fields}))
    with pytest.raises(ConfigError, match=words):
        plan_sweep(read_asked(path, Sweep)[0])


def test_pairs_alike_of_different_numbers_are_refused(checkpoints):
    with pytest.raises(ConfigError, match="takes as many base LMs as VLMs, not 1 and 2"):
        plan_sweep(sweep(checkpoints, pairs="alike", base_lm=[f"{checkpoints}/base_lm/step_2"]))


def test_checkpoints_of_different_shapes_are_refused(checkpoints):
    other = str(PACKAGE / "microworld" / "upper")
    with pytest.raises(
        CheckpointError, match=r"different shapes can't be in one sweep: '.*' is .* in .* and .* in"
    ) as raised:
        plan_sweep(sweep(checkpoints, vlm=[f"{checkpoints}/vlm/step_2", other]))
    assert "\n" not in str(raised.value)


def matrix_of(scores: np.ndarray) -> ScoreMatrix:
    n_docs, n_columns = scores.shape
    return ScoreMatrix(
        doc_ids=np.arange(n_docs),
        variants=tuple(map(str, range(n_columns))),
        scores=scores.astype(float),
        answers=np.full(scores.shape, "", dtype=object),
        clusters=np.array([str(place) for place in range(n_docs)]),
        strata=np.full(n_docs, ""),
    )


def columns_of(n_pairs: int, recipes: int) -> list[Column]:
    names = [UNTOUCHED, *(f"r{number}" for number in range(recipes))]
    return [Column(f"v{pair}", f"b{pair}", name) for pair in range(n_pairs) for name in names]


def test_scores_and_gains_are_means_and_paired_differences():
    rng = np.random.default_rng(0)
    scores = rng.random((200, 6)) < [0.5, 0.6, 0.7, 0.5, 0.5, 0.9]
    found = analyse_checkpoints("task", matrix_of(scores), columns_of(2, 2), MEAN, 1.0, draws=500)
    assert [one.score for one in found.scored] == pytest.approx(scores.mean(axis=0).tolist())
    gains = [None if one.gain is None else round(one.gain, 9) for one in found.scored]
    means = scores.mean(axis=0)
    assert gains == [None, *np.round(means[1:3] - means[0], 9), None, *np.round(means[4:6] - means[3], 9)]
    for one in found.scored:
        assert one.low < one.score < one.high
    assert str(found.merged.column) == "v1 with\nb1, r1"
    assert found.merged.unseen.gain == pytest.approx(means[5]), "the same is chosen on any documents"
    assert found.untouched.column.recipe == UNTOUCHED


def test_the_choice_among_columns_that_are_alike_is_worth_nothing_on_other_documents():
    rng, flattery, unseen = np.random.default_rng(1), [], []
    for _ in range(40):
        scores = rng.random((120, 24)) < 0.5
        plan = Plan(folds=4, repeats=2, halvings=10)
        found = analyse_checkpoints("task", matrix_of(scores), columns_of(6, 3), MEAN, 1.0, plan=plan, draws=100)
        flattery.append(found.merged.tuned_here - 0.5)
        unseen.append(found.merged.unseen.gain - 0.5)
    error = np.std(unseen) / 40**0.5
    assert np.mean(flattery) > 0.05
    assert abs(np.mean(unseen)) < 3 * error


def test_lower_is_better_where_the_benchmark_says_so():
    rng = np.random.default_rng(2)
    scores = rng.random((200, 3)) < [0.5, 0.2, 0.8]
    found = analyse_checkpoints(
        "task", matrix_of(scores), columns_of(1, 2), MEAN, 1.0, higher_is_better=False, draws=100
    )
    assert found.merged.column.recipe == "r0"


def test_a_sweep_ends_in_a_table_a_csv_and_a_picture(checkpoints, tmp_path, monkeypatch, capsys):
    for name, value in {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}.items():
        monkeypatch.setenv(name, value)
    content = sweep(checkpoints).model_dump(mode="json", exclude_defaults=True)
    content |= {"base_lm": [f"{checkpoints}/base_lm/step_2"], "tasks": ["digits"], "limit": 140}
    path, root = tmp_path / "sweep.yaml", tmp_path / "runs"
    path.write_text(yaml.safe_dump(content))
    assert main(["checkpoints", str(path), "--output", str(root)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"digits +step_2 with +0\.\d+", told)
    rows = list(csv.DictReader((root / "checkpoints.csv").open()))
    score = {(row["vlm"], row["recipe"]): float(row["score"]) for row in rows}
    assert len(score) == 2 * 3
    assert score["step_2", UNTOUCHED] > 0.9
    assert max(score["step_10", recipe] for recipe in (UNTOUCHED, "alpha_0_1")) < 0.5
    for row in rows:
        assert float(row["ci_low"]) <= float(row["score"]) <= float(row["ci_high"])
    assert (root / "checkpoints.png").stat().st_size > 10_000
    table = (root / "checkpoints.md").read_text()
    assert table.startswith("| ")
    assert "tuned on this benchmark's own documents" in table
    cells = len(os.listdir(root / "cells"))
    assert main(["checkpoints", str(path), "--output", str(root)]) == 0
    assert len(os.listdir(root / "cells")) == cells


def test_table_and_csv_have_every_number():
    rng = np.random.default_rng(3)
    scores = rng.random((100, 3)) < 0.5
    found = analyse_checkpoints("task", matrix_of(scores), columns_of(1, 2), MEAN, 1.0, draws=100)
    assert len(to_csv([found]).splitlines()) == 1 + 3
    table = choices([found])
    assert [row[0] for row in table.rows] == ["task", "task"]
    assert [row[1] for row in table.rows] == [str(found.merged.column), "v0, untouched"]
    assert f"{found.merged.tuned_here:.4f}" in table.rows[0]


def test_on_80_columns_no_name_of_a_benchmark_or_checkpoint_is_broken(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    scores = np.random.default_rng(3).random((100, 3)) < 0.5
    columns = [Column("step_2000", "step_2000", name) for name in (UNTOUCHED, "alpha_0_3", "alpha_0_5")]
    tasks = ("plam_compare_babyllava_pairs", "plam_compare_babyllava_captions")
    print_table(
        choices([analyse_checkpoints(task, matrix_of(scores), columns, MEAN, 1.0, draws=100) for task in tasks])
    )
    table = capsys.readouterr().out.partition("\n- ")[0]
    words = {"babyllava_pairs", "babyllava_captions", "step_2000", "step_2000,", "alpha_0_3", "alpha_0_5", "untouched"}
    assert {"babyllava_pairs", "babyllava_captions", "step_2000"} <= set(table.split())
    assert {word for word in table.split() if "_" in word or "untou" in word} <= words
    assert all(len(line) <= 80 for line in table.split("\n"))
