"""A study as its cells would leave it, of simulated answers: every record and picture by the package's own writers.

`benchmarks/page.py` builds a large one's page, and tests a small one's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lmms_plam.attention.layouts import cells, even
from lmms_plam.attention.look import Maps
from lmms_plam.attention.places import Places
from lmms_plam.attention.record import RECORD as ATTENTION
from lmms_plam.attention.record import AttentionRecord
from lmms_plam.attention.shown import ShownDocument, write_shown
from lmms_plam.attention.summary import summarise
from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.files import digest
from lmms_plam.probes.record import MATRIX, Origin, analyse
from lmms_plam.report.attention import write as write_attention
from lmms_plam.report.audit import write_audits
from lmms_plam.report.comparison import write as write_comparison
from lmms_plam.report.curve import draw_curve
from lmms_plam.report.search import write as write_search
from lmms_plam.runs.differences import differences
from lmms_plam.runs.join import Joined
from lmms_plam.scoring.audits import audit_task
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.examples import Example, write_examples
from lmms_plam.scoring.saved import ComparisonRecord, SavedMeasure
from lmms_plam.search import surface as surfaces
from lmms_plam.search.analyse import analyse as analyse_search
from lmms_plam.search.crossfit import Plan
from lmms_plam.search.record import Recipe, SearchRecord
from lmms_plam.search.result import SearchSettings
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import Formats, ScoreMatrix
from lmms_plam.stats.results import adjust_results

DATE = "2026-11-26"
MERGE = MergeRecipe(start_layer=20, lambda_lm=0.4, lambda_vlm=0.6)
BASE_LM = MergeRecipe(start_layer=0, lambda_lm=1, lambda_vlm=0, modules="all")

_ACCURACY = 0.6
_TOKENS = (14, 20)  # rows and columns of a picture's tokens


def write_study(
    folder: Path,
    models: Sequence[str],
    benchmarks: Sequence[str],
    *,
    documents: int = 400,
    depth: int = 28,
    gain: float = 0.03,
    text: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write a study's folder: plan, and for each model a cell for each step with all benchmarks.

    Args:
        folder: the study's.
        models: names of model configs; all have the first one's answers.
        benchmarks: names of the tasks that were asked.
        documents: of each benchmark.
        depth: decoder layers.
        gain: by how much the merge is better.
        text: the benchmarks whose documents show no picture, which have the base LM as a recipe.
        seed: of the answers.
    """
    steps = ("probe", "search", "compare", "attention")
    first = models[0]
    plan = []
    for place, benchmark in enumerate(benchmarks):
        rng = np.random.default_rng([seed, place])
        seen = benchmark not in text
        where = {step: folder / "cells" / f"{first}-{step}" / "plam" / first for step in steps}
        if seen:
            _probe(where["probe"] / f"plam_probe_{benchmark}", first, documents, depth, rng)
            _attention(where["attention"] / f"plam_attention_{benchmark}", first, documents, depth, rng)
        _search(where["search"] / f"plam_search_{benchmark}", first, benchmark, documents, depth, gain, rng)
        _comparison(where["compare"] / f"plam_compare_{benchmark}", first, benchmark, documents, gain, seen, rng)
    for model in models:
        for step in steps:
            cell = folder / "cells" / f"{model}-{step}"
            if model != first:
                _copy(folder / "cells" / f"{first}-{step}", cell, first, model)
            tasks = sorted(path.name for path in (cell / "plam" / model).iterdir())
            plan.append({"name": cell.name, "model": model, "step": step, "tasks": tasks, "arguments": "", "after": []})
            _results(cell, model, tasks, documents)
    (folder / "plan.json").write_text(json.dumps({"version": 1, "cells": plan}))
    (folder / "study.yaml").write_text(f"models: [{', '.join(models)}]\nbenchmarks: [{', '.join(benchmarks)}]\n")
    return folder


def _probe(folder: Path, model: str, documents: int, depth: int, rng: np.random.Generator) -> None:
    onset = int(0.6 * depth)
    read_at = np.clip(rng.normal(0.7 * onset, 0.15 * onset, documents), 1, onset)[:, None]
    knows = rng.random((documents, 1)) < _ACCURACY
    guesses = rng.random((documents, 1)) < 0.25
    cuts = np.arange(depth + 1)
    scores = np.where(knows & (cuts >= read_at), 1.0, np.where(guesses, 1.0, 0.0))
    _matrix([str(cut) for cut in cuts], scores).write(folder / MATRIX)
    origin = Origin(task=folder.name, name=model, model="abc", date=DATE, recipe=20, chance=0.25)
    probe = analyse(folder / MATRIX, origin, draws=500)
    probe.write(folder)
    draw_curve(probe, folder)


def _search(
    folder: Path, model: str, benchmark: str, documents: int, depth: int, gain: float, rng: np.random.Generator
) -> None:
    recipes = [Recipe(name="base", kind="base")]
    for layer in range(depth - 10, depth - 4, 2):
        for tenth in range(1, 11):
            fields = MergeRecipe(start_layer=layer, lambda_lm=tenth / 10, lambda_vlm=round(1 - tenth / 10, 1))
            recipes.append(Recipe(name=f"{layer}: .{tenth} LM", kind="merge", fields=fields))
    scores = _answers(documents, len(recipes), gain, rng)
    said = {"task": folder.name, "space": "line", "config": model, "date": DATE, "model": "abc", "depth": depth}
    record = SearchRecord(recipes=tuple(recipes), documents=benchmark, **said)
    matrix = _matrix([one.name for one in recipes], scores)
    surfaces.save(folder, record, matrix)
    surface = surfaces.Surface.read(folder)
    search = analyse_search(surface, SearchSettings(plan=Plan(repeats=2, halvings=20), draws=500))
    write_search(search, folder)


def _comparison(
    folder: Path, model: str, benchmark: str, documents: int, gain: float, seen: bool, rng: np.random.Generator
) -> None:
    recipes = {"merged": MERGE} | ({} if seen else {"base_lm": BASE_LM})
    matrix = _matrix(["base", *recipes], _answers(documents, 1 + len(recipes), gain, rng), formats=True)
    matrix.write(folder / MATRIX)
    record = ComparisonRecord(
        task=folder.name,
        of=benchmark,
        model=model,
        fingerprint="abc",
        date=DATE,
        reference="base",
        recipes={name: recipe_in_words(recipe) for name, recipe in recipes.items()} | {"base": "a/VLM, untouched"},
        measures=(SavedMeasure(key="accuracy", metric="mean"),),
        data=digest(folder / MATRIX),
        asked=dict.fromkeys(range(documents), "asked"),
        pictures=seen,
    )
    record.write(folder)
    joined = Joined(folder.name, record.benchmark, matrix, {}, 0, ())
    results = adjust_results(differences(joined, "base", Settings(draws=1000), record.points_up))

    def examples(doc_ids: list[int]) -> list[Example]:
        return [Example(one, f"question {one}?", "A", _picture(rng) if seen else None) for one in doc_ids]

    changes = Changes.of(folder.name, matrix, "base", examples)
    write_examples(changes.examples.values(), folder)
    audits = audit_task(folder.name, record.benchmark, matrix, "base", Settings(draws=1000))
    write_comparison(results, folder, [changes], about=f"{model}, {DATE}")
    write_audits(audits, folder)


def _attention(folder: Path, model: str, documents: int, depth: int, rng: np.random.Generator) -> None:
    shape = (documents, 2, 2, depth)
    mass = np.clip(0.4 + 0.05 * rng.normal(size=shape), 0, 1)
    mass[:, 1] = mass[:, 0]
    growth = 0.02 + 0.02 * rng.normal(size=(documents, 2, depth - 20))
    mass[:, 1, :, 20:] = np.clip(mass[:, 0, :, 20:] + growth, 0, 1)
    nothing = np.full(shape, np.nan)
    score = _answers(documents, 2, 0.03, rng)
    record = AttentionRecord(
        doc_ids=np.arange(documents),
        variants=("base", "merged"),
        queries=("ins", "res"),
        layers=np.arange(depth),
        mass=mass,
        entropy=nothing,
        focus=nothing,
        mass_without_sinks=nothing,
        inside=nothing,
        region=np.full(documents, np.nan),
        score=score,
        cluster=np.arange(documents).astype(str),
    )
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / ATTENTION)
    rows, columns = _TOKENS
    places = Places(np.zeros(rows * columns, dtype=np.int64), cells(even(rows), even(columns)))

    def maps() -> Maps:
        values = rng.dirichlet(np.full(rows * columns, 0.2), size=(2, depth)) * 0.4
        return Maps(values, places)

    shown = [
        ShownDocument(
            doc_id=doc_id,
            change=change,
            question=f"What is at place {doc_id}?",
            target="a marker",
            image=_picture(rng),
            regions=[(0.25, 0.25, 0.5, 0.5)],
            answers={"base": "nothing", "merged": "a marker"},
            maps={"base": maps(), "merged": maps()},
            neutral={},
        )
        for change in ("better", "worse", "same")
        for doc_id in {"better": (1, 2), "worse": (3, 4), "same": (5, 6)}[change]
    ]
    write_shown(shown, folder)
    found = summarise(record, late=list(range(20, depth)), settings=Settings(draws=500))
    write_attention(folder.name, f"{model}, {DATE}", record, found, shown, folder)


def _answers(documents: int, variants: int, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Return (documents, variants) right and wrong answers; all but the first variant change some of them."""
    right = rng.random((documents, 1)) < _ACCURACY
    alike, own = rng.random((documents, 1)), rng.random((documents, variants))
    luck = np.where(rng.random((documents, variants)) < 0.7, alike, own)
    changed = luck < np.where(right, 0.04 / _ACCURACY, (0.04 + gain) / (1 - _ACCURACY))
    changed[:, 0] = False
    return np.where(changed, ~right, right).astype(float)


def _matrix(variants: Sequence[str], scores: np.ndarray, *, formats: bool = False) -> ScoreMatrix:
    documents = len(scores)
    told = Formats(
        read=np.full(scores.shape, "meant", dtype=object),
        cut_off=np.full(scores.shape, "no", dtype=object),
        length=np.ones(scores.shape),
        divergence=np.full(scores.shape, np.nan),
    )
    return ScoreMatrix(
        doc_ids=np.arange(documents),
        variants=tuple(variants),
        scores=scores,
        answers=np.where(scores == 1, "A", "B").astype(object),
        clusters=np.arange(documents).astype(str),
        strata=np.full(documents, ""),
        formats=told if formats else None,
    )


def _picture(rng: np.random.Generator) -> Image.Image:
    """Return a picture that compresses like a photo: soft shapes with some grain."""
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(
        (640, 448), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (448, 640, 1))
    return Image.fromarray(np.uint8(np.clip(np.asarray(coarse) + grain, 0, 255)))


def _copy(source: Path, target: Path, name: str, other: str) -> None:
    """Copy a cell under another model's name; matrices, and what is said of their contents, stay."""
    shutil.copytree(source, target)
    (target / "plam" / name).rename(target / "plam" / other)
    for path in target.rglob("*.json"):
        text = path.read_text()
        for key in ("model", "config"):
            text = text.replace(f'"{key}": "{name}"', f'"{key}": "{other}"').replace(
                f'"{key}":"{name}"', f'"{key}":"{other}"'
            )
        path.write_text(text.replace(f'"about": "{name}, ', f'"about": "{other}, '))


def _results(cell: Path, model: str, tasks: Sequence[str], documents: int) -> None:
    """Write what lmms-eval and the plugin write beside a cell's records, and the cell's manifest."""
    of = {task: task.split("_", 2)[2] for task in tasks}
    results = {
        "configs": {
            task: {"task": task, "dataset_path": of[task], "test_split": "test", "plam": {"task": task, "of": of[task]}}
            for task in tasks
        },
        "results": {task: {"alias": task} for task in tasks},
        "n-samples": {task: {"original": documents, "effective": documents} for task in tasks},
        "config": {"model": "plam", "model_args": f"config={model}", "limit": None},
        "total_evaluation_time_seconds": "61.5",
    }
    recipe = MERGE.model_dump(mode="json")
    answered = {
        "fingerprint": "abc",
        "config": {"name": model, "vlm": f"lab/{model}-VL", "base_lm": "lab/base", "merge": recipe, "recipes": {}},
        "backend": "qwen2_5_vl",
        "weights": "w",
        "vlm_weights": f"v-{model}",
        "vlm_commit": "0123abc",
        "merge": {"start_layer": 20, "end_layer": 28, "depth": 28, "base_lm_commit": "4567def"},
        "versions": {"lmms-plam": "0.1.0", "torch": "2.8.0"},
    }
    (cell / "20261126_120000_results.json").write_text(json.dumps(results))
    (cell / "20261126_120000_plam.json").write_text(json.dumps(answered))
    command = ["lmms-eval", "--model", "plam", "--model_args", f"config={model}", "--tasks", ",".join(tasks)]
    manifest = {"command": command, "seconds": 73.0, "code": 0, "versions": {"lmms-plam": "0.1.0"}}
    (cell / "manifest.json").write_text(json.dumps(manifest))
