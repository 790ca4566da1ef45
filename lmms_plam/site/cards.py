"""What was studied: a card for each model, with lineage, recipes, versions, dates, runs, and how to repeat them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from pydantic import ValidationError

from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.errors import DataError
from lmms_plam.site.found import Run, Study

_MOST_SCORES = 3


def anchor(name: str) -> str:
    """Return the end of a link to a model's part."""
    return re.sub(r"\W+", "-", name).strip("-").lower()


def cards(study: Study, site: Path) -> str:
    """Return the cards, of plam's models first, then of the other runs' models.

    Args:
        study: what was found.
        site: the folder that the page will lie in, for links to the runs.
    """
    by_model: dict[str, list[Run]] = {}
    for run in study.runs:
        by_model.setdefault(run.model, []).append(run)
    parts = [_card(study, model, runs, site) for model, runs in by_model.items()]
    parts += [_bare(model) for model in study.models if model not in by_model]
    return f'<div class="cards">{"".join(parts)}</div>'


def _card(study: Study, model: str, runs: list[Run], site: Path) -> str:
    answered = [run.answered for run in runs if run.answered is not None]
    configs = [one.config for one in answered]
    facts = {
        "model": (run.results.model for run in runs if run.answered is None and not run.is_served),
        "VLM": (_source(one.config.vlm, one.config.vlm_revision, one.vlm_commit) for one in answered),
        "base LM": (
            _source(one.config.base_lm, one.config.base_lm_revision, one.merge.base_lm_commit if one.merge else None)
            for one in answered
            if one.config.base_lm
        ),
        "merged": (
            f"{_recipe(one.config.merge)}; of {one.merge.depth} layers"
            for one in answered
            if one.config.merge and one.merge
        ),
        "further recipes": (f"{name}: {_recipe(recipe)}" for one in configs for name, recipe in one.recipes.items()),
        "run through": (one.backend for one in answered),
        "weights of the untouched VLM": (one.vlm_weights for one in answered),
        "versions": (", ".join(f"{name} {number}" for name, number in one.versions.items()) for one in answered),
        "served by": (run.results.model for run in runs if run.is_served),
        "scores": (_scores(run, task) for run in runs for task in run.results.tasks),
        "dates": (run.date for run in runs),
        "limit": (f"{run.results.config.limit:g} documents a task" for run in runs if run.results.config.limit),
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(value)}</dd>" for value in known)
        for name, values in facts.items()
        if (known := _once(values))
    )
    weights = _once(one.vlm_weights for one in answered)
    warning = f"<p>{len(weights)} different VLMs are called {escape(model)} here.</p>" if len(weights) > 1 else ""
    links = "".join(f"<li>{_link(run, study, site)}</li>" for run in runs)
    commands = "\n".join(_once(run.command for run in runs))
    title = escape(model)
    if model in study.models:
        title = f'<a href="#{anchor(model)}">{title}</a>'
    return (
        f'<article class="card"><h3>{title}</h3>{warning}<dl>{rows}</dl>'
        f"<details><summary>{_runs(len(runs))}</summary>"
        f"<ul>{links}</ul><pre>{escape(commands)}</pre></details></article>"
    )


def _runs(count: int) -> str:
    return "1 run, and how to repeat it" if count == 1 else f"{count} runs, and how to repeat them"


def _bare(model: str) -> str:
    return (
        f'<article class="card"><h3><a href="#{anchor(model)}">{escape(model)}</a></h3>'
        "<p>Its records lie here without the run that made them.</p></article>"
    )


def _link(run: Run, study: Study, site: Path) -> str:
    where = os.path.relpath(run.file, site.resolve() if site.exists() else site.absolute())
    name = str(run.file.relative_to(study.folder))
    tasks = ", ".join(run.tasks[:4]) + (f" and {len(run.tasks) - 4} more" if len(run.tasks) > 4 else "")
    return f'<a href="{escape(Path(where).as_posix())}">{escape(name)}</a>: {escape(tasks)}'


def _scores(run: Run, task: str) -> str:
    """Return lmms-eval's own numbers of a task; nothing where they can't be read."""
    try:
        scores = list(run.results.of(task).scores.items())[:_MOST_SCORES]
    except DataError:
        return ""
    name = f"{task}, served" if run.is_served else task
    return f"{name}: {', '.join(f'{metric} {value:.4g}' for metric, value in scores)}" if scores else ""


def _source(name: str | None, revision: str | None, commit: str | None) -> str:
    shown = name or ""
    if "lmms_plam/" in shown:  # an embedded pair, wherever this package lies
        shown = f"{shown.rpartition('lmms_plam/')[2]}, which comes with lmms-plam"
    pinned = commit or revision
    return f"{shown} at {pinned}" if pinned else shown


def _recipe(fields: Mapping[str, object]) -> str:
    """Return a recipe as a command line would give it; its fields where another version wrote it."""
    try:
        return recipe_in_words(MergeRecipe.model_validate(fields))
    except ValidationError:
        return ", ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def _once(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, values)))
