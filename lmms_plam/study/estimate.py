"""What a study will cost, in ordinary runs of each cell's task, and what disk it takes: by rule, before anything runs.

An ordinary run asks one model once. What a step costs beyond it was measured, and is told in README: all cuts of a
probe 2.1 ordinary runs, and so on (`benchmarks/family_engine.py`, `benchmarks/recipe_search.py`: 320 vision tokens, 28
layers). A comparison's recipes cost the layers that they merge, a search at most its `search.most`. `plam check` tells
it of a prompt of one's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lmms_plam.config import MergeRecipe, ModelConfig

_BY_STEP = {"probe": 2.1, "early": 1.5, "window": 1.5, "headroom": 1.1, "search": 11.8, "serve": 1.0, "export": 0.0}
_READING = 1.1
"""What reading attention takes, times the comparison."""

_MERGED = 1 / 3
"""Share of the layers that a recipe merges where nobody can tell: the default's."""

_RUN_BYTES, _DOCUMENT_BYTES = 2_000_000, 4_000
"""What a cell's figures and pages take, and each of its documents' answers by all variants."""

_DOCUMENTS = 5_000
"""Of a benchmark without a limit."""


def step_cost(step: str, settings: ModelConfig, n_recipes: int = 0) -> float:
    """Return what a step costs of one benchmark, in ordinary runs.

    Args:
        step: which one.
        settings: the model's config, of whose recipes a comparison asks.
        n_recipes: that come from searches, in place of the config's `merge`.
    """
    if step not in ("compare", "attention"):
        return _BY_STEP[step]
    depth = _depth(settings)
    own = [recipe for recipe in (settings.merge, *settings.recipes.values()) if recipe is not None]
    shares = [_MERGED] * n_recipes + [_share(recipe, depth) for recipe in own[1 if n_recipes else 0 :]]
    return (1 + sum(shares)) * (_READING if step == "attention" else 1)


def whole_cost(recipes: Sequence[MergeRecipe], settings: ModelConfig) -> float:
    """Return what the untouched VLM and recipes cost in one run that asks all of them."""
    depth = _depth(settings)
    return 1 + sum(_share(recipe, depth) for recipe in recipes)


def disk(documents: int | None, settings: ModelConfig, step: str) -> int:
    """Return how many bytes a cell writes; of an export, as many as the VLM has, where its files are here."""
    if step == "export":
        folder = Path(settings.vlm)
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0
    return _RUN_BYTES + _DOCUMENT_BYTES * (documents or _DOCUMENTS)


def _share(recipe: MergeRecipe, depth: int | None) -> float:
    """Return the share of the decoder that a recipe runs by itself."""
    if {"embeddings", "norms"} & set(recipe.modules):
        return 1.0
    start = recipe.start_layer
    if isinstance(start, float):
        return 1 - start
    return 1 - start / depth if isinstance(start, int) and depth else _MERGED


def _depth(settings: ModelConfig) -> int | None:
    try:
        config = json.loads((Path(settings.vlm) / "config.json").read_text(encoding="utf-8"))
        return int(config.get("text_config", config)["num_hidden_layers"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
