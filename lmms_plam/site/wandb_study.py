"""A study in Weights & Biases: a group with a run for each cell, and one of the whole, from the saved records.

Names are those of `report.wandb_log`, which logs a run while it goes on, so that a study looks alike either way.
Offline first: what lies in `wandb/` is sent by `wandb sync`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lmms_plam.report import leaderboard
from lmms_plam.report.attention_curves import curve_files
from lmms_plam.report.comparison import FOREST
from lmms_plam.report.curve import PICTURES as CURVE
from lmms_plam.report.heatmap import SURFACE
from lmms_plam.report.sweep import SWEEP
from lmms_plam.report.wandb_log import native
from lmms_plam.search.result import TUNED_HERE
from lmms_plam.site import numbers
from lmms_plam.site.boards import Board
from lmms_plam.site.found import Compared, Of, Run, Study
from lmms_plam.site.records import Attention, Found, Plateau


def log_study(study: Study, boards: Sequence[Board], page: Path, project: str, group: str) -> None:
    """Log a study as a group of runs, offline unless `WANDB_MODE` says otherwise.

    Args:
        study: what was found.
        boards: its leaderboards.
        page: the page, which the run of the whole keeps as an artifact.
        project: the project, as NAME or ENTITY/NAME.
        group: the study's name.
    """
    import wandb

    entity, _, name = project.rpartition("/")
    mode = os.environ.get("WANDB_MODE", "offline")
    start = partial(wandb.init, entity=entity or None, project=name, group=group, mode=mode)  # type: ignore[arg-type]

    for run in study.finished:
        config = run.answered.model_dump(mode="json") if run.answered else {"model": run.results.model}
        told = {"command": run.command, "tasks": run.tasks, **config}
        with start(name=run.cell, job_type=_step(study, run), config=told) as logged:
            _log_cell(logged, study, run)
    with start(name=group, job_type="study") as logged:
        _log_whole(logged, study, boards, page)


def _step(study: Study, run: Run) -> str:
    planned = () if study.plan is None else study.plan.cells
    return next((cell.step for cell in planned if cell.name == run.cell), "run")


def _log_cell(logged: Any, study: Study, run: Run) -> None:
    kinds: tuple[tuple[Sequence[Of[Any]], Callable[[Any, Of[Any]], None]], ...] = (
        (study.probes, _log_probe),
        (study.searches, _log_search),
        (study.comparisons, _log_comparison),
        (study.attention, _log_attention),
    )
    for found, log in kinds:
        for one in found:
            if run.file.parent in one.place.folder.parents:
                log(logged, one)
    if run.seconds is not None:
        logged.summary["seconds"] = run.seconds
    logged.summary["documents"] = run.documents


def _log_probe(logged: Any, one: Of[Plateau]) -> None:
    task, record = one.record.task, one.record
    step = f"{task}/curve/layer"
    logged.define_metric(step, hidden=True)
    logged.define_metric(f"{task}/curve/*", step_metric=step)
    for point in record.points:
        values = {name: getattr(point, name) for name in ("score", "low", "high")}
        logged.log({step: point.cut, **{f"{task}/curve/{name}": value for name, value in values.items()}})
    for name in ("onset", "interval", "verdict", "reason", "full"):
        logged.summary[f"{task}/{name}"] = getattr(record, name)
    _log_pictures(logged, one, {f"{task}/picture": CURVE[0]})


def _log_search(logged: Any, one: Of[Found]) -> None:
    task, record = one.record.task, one.record
    step = f"{task}/sweep/layer"
    logged.define_metric(step, hidden=True)
    logged.define_metric(f"{task}/sweep/*", step_metric=step)
    for layer in record.start_layers:
        values = {"gain_unseen": layer.unseen.gain, "low": layer.unseen.ci_low, "high": layer.unseen.ci_high}
        known = {f"{task}/sweep/{name}": value for name, value in values.items() if value is not None}
        logged.log({step: layer.start_layer, **known})
    logged.summary[f"{task}/pick"] = record.pick.name
    logged.summary[f"{task}/any_better_p"] = record.any_better_p
    logged.summary[f"{task}/gain_unseen"] = None if record.unseen is None else record.unseen.gain
    tuned = ("score", "gain", "ci_low", "ci_high")
    rows = [
        {
            "name": recipe.name,
            "kind": recipe.kind,
            **{name: recipe.fields.get(name) for name in ("start_layer", "lambda_lm", "lambda_vlm")},
            **{f"{name} ({TUNED_HERE})": getattr(recipe, name) for name in tuned},
            "documents": recipe.documents,
        }
        for recipe in record.recipes
    ]
    logged.log({f"{task}/surface": native(rows)})
    _log_pictures(logged, one, {f"{task}/picture/surface": SURFACE[0], f"{task}/picture/sweep": SWEEP[0]})


def _log_comparison(logged: Any, one: Of[Compared]) -> None:
    task = one.place.task
    for row in one.record.differences:
        for name in ("a", "b", "difference", "ci_low", "ci_high", "p_value", "n", "clusters"):
            logged.summary[f"{task}/{row.variant}/{row.metric}/{name}"] = getattr(row, name)
    rows = [row.model_dump(include=_COMPARED) for row in one.record.differences]
    logged.log({f"{task}/metrics": native(rows)})
    _log_pictures(logged, one, {f"{task}/forest": FOREST})


_COMPARED = {
    *("task", "metric", "reference", "variant", "a", "b", "difference", "ci_low", "ci_high"),
    *("p_value", "holm_p", "n", "clusters", "level"),
}


def _log_attention(logged: Any, one: Of[Attention]) -> None:
    task, record = one.record.task, one.record
    rows = [
        {"queries": grown.queries, "measure": grown.measure, "variant": grown.variant, "layer": layer, **values}
        for grown in record.growth
        for layer, values in zip(grown.layers, grown.rows(), strict=True)
    ]
    if rows:
        logged.log({f"{task}/layers": native(rows)})
    logged.summary[f"{task}/findings"] = list(record.findings)
    for variant, told in record.headline.items():
        for name, value in told.model_dump().items():
            logged.summary[f"{task}/{variant}/{name}"] = value
    _log_pictures(logged, one, {f"{task}/curves/mass": curve_files("mass")[0]})


def _log_whole(logged: Any, study: Study, boards: Sequence[Board], page: Path) -> None:
    import wandb

    for board in boards:
        logged.log({f"study/{board.name}": native(leaderboard.records(board.standings))})
    rows = [
        {"model": model, "recipe": recipe, **asdict(gain)}
        for model in study.models
        for recipe, gains in numbers.judged(study, model).items()
        for gain in gains
    ]
    if rows:
        logged.log({"study/gains": native(rows)})
    artifact = wandb.Artifact("study", type="study")
    artifact.add_file(str(page))
    logged.log_artifact(artifact)


def _log_pictures(logged: Any, one: Of[Any], names: dict[str, str]) -> None:
    import wandb

    for key, name in names.items():
        if (one.place.folder / name).is_file():
            logged.log({key: wandb.Image(str(one.place.folder / name))})
