"""A sweep over checkpoints: every pair of a VLM's and a base LM's one cell, which asks base and all recipes at once."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from lmms_plam.config import MergeRecipe, load_config
from lmms_plam.errors import CheckpointError, ConfigError, did_you_mean, first_problem
from lmms_plam.files import sought_in
from lmms_plam.study.benchmarks import Tasks
from lmms_plam.study.cell import STUDY, Cell, name_cell
from lmms_plam.study.estimate import disk, whole_cost
from lmms_plam.study.expand import Model
from lmms_plam.study.plan import Plan
from lmms_plam.study.schema import Asked

_WHOLE: dict[str, Any] = {"modules": "all", "qk_norms": True, "start_layer": 0}
"""What a recipe merges that doesn't say otherwise: the whole language model."""

_ALWAYS = ("start_layer", "lambda_lm", "lambda_vlm")


class Sweep(Asked):
    """Checkpoints of a VLM and of a base LM, and recipes that merge them.

    Attributes:
        config: the model's config, by name or path: backend and its arguments; checkpoints and recipes stand here.
        vlm: folders of the VLM's checkpoints, in order; patterns such as `runs/multimodal/step_*` are sorted by number.
        base_lm: the same of the base LM's.
        alpha: shares of the base LM in the whole language model: alpha W_lm + (1 - alpha) W_vlm (arXiv 2510.01845).
        recipes: further recipes by name; what they leave out is the whole language model's.
        tasks: benchmarks, as of a study.
        pairs: `every` VLM with every base LM, or `alike`: the first with the first, and so on.
    """

    config: str
    vlm: tuple[str, ...] = Field(min_length=1)
    base_lm: tuple[str, ...] = Field(min_length=1)
    alpha: tuple[float, ...] = ()
    recipes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tasks: tuple[str, ...] = Field(min_length=1)
    pairs: Literal["every", "alike"] = "every"

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        if not self.alpha and not self.recipes:
            raise ValueError("neither alpha nor recipes say what is merged")
        for alpha in self.alpha:
            if not 0 < alpha <= 1:
                raise ValueError(f"alpha is the share of the base LM, above 0 and up to 1, not {alpha:g}")
        for name in self.recipes:
            if not re.fullmatch(r"[\w+-]+", name):
                raise ValueError(f"recipes: a name has letters, digits, _, + and -, not '{name}'")
        return self

    def all_recipes(self) -> dict[str, MergeRecipe]:
        """Return the recipes by name.

        Raises:
            ConfigError: an unknown field, or a value that can't be meant.
        """
        given = {
            f"alpha_{alpha:g}".replace(".", "_"): {"lambda_lm": alpha, "lambda_vlm": round(1 - alpha, 12)}
            for alpha in self.alpha
        }
        found = {}
        for name, own in {**given, **self.recipes}.items():
            for field in own:
                if field not in MergeRecipe.model_fields:
                    hint = did_you_mean(field, MergeRecipe.model_fields)
                    raise ConfigError(f"recipes: '{name}' has an unknown field '{field}'.{hint}")
            whole = {} if "modules" in own else _WHOLE
            try:
                found[name] = MergeRecipe.model_validate({"start_layer": 0, **whole, **own})
            except ValidationError as error:
                raise ConfigError(f"recipes: '{name}': {first_problem(error)}") from None
        return found


@dataclass(frozen=True, slots=True)
class Pair:
    """A VLM's checkpoint and a base LM's.

    Attributes:
        vlm: what tells the VLM's from the others, the end of its path.
        base_lm: the same of the base LM's.
        name: of the model's folder.
    """

    vlm: str
    base_lm: str

    @property
    def name(self) -> str:
        """What the pair is called in folders."""
        return re.sub(r"[^\w.+-]+", "_", f"{self.vlm}+{self.base_lm}")


def plan_sweep(sweep: Sweep) -> tuple[Plan, dict[str, Pair]]:
    """Return the cells of a sweep, and the pair of each by its name.

    Raises:
        ConfigError: no such checkpoints, benchmarks or config, or recipes that can't be asked together.
        CheckpointError: checkpoints of different shapes.
    """
    tasks = Tasks(sweep.include_path)
    benchmarks = tasks.expand(sweep.tasks, ["compare"])
    named = tuple(f"plam_compare_{benchmark}" for benchmark in benchmarks)
    recipes = sweep.all_recipes()
    vlms, base_lms = _find("vlm", sweep.vlm), _find("base_lm", sweep.base_lm)
    check_shapes(vlms)
    check_shapes(base_lms)
    cells, pairs = [], {}
    for vlm, base_lm in _paired(sweep, vlms, base_lms):
        pair = Pair(vlm[0], base_lm[0])
        fields = {"vlm": vlm[1], "base_lm": base_lm[1], **_as_overrides(recipes), **sweep.model_args}
        settings = load_config(sweep.config, fields)
        if [settings.merge, *settings.recipes.values()] != list(recipes.values()):
            raise ConfigError(
                "recipes: what the first one sets and another leaves out would be as in the first: name such fields in "
                "each recipe"
            )
        given = ",".join(f"{name}={value}" for name, value in fields.items())
        model_args = f"config={sweep.config},name={pair.name},{given}"
        options = ("--model", "plam", "--model_args", model_args, "--tasks", ",".join(named), *sweep.options())
        name = name_cell((pair.name,), [options, Model(sweep.config, settings).content("compare")])
        arguments = (*options, "--output_path", f"{STUDY}/cells/{name}")
        cost = whole_cost(list(recipes.values()), settings) * len(named)
        size = disk(sweep.limit, settings, "compare") * len(named)
        cells.append(Cell(name, pair.name, "compare", named, "lmms_eval", arguments, cost=cost, disk=size))
        pairs[name] = pair
    return Plan.of(cells), pairs


def check_shapes(checkpoints: Mapping[str, str]) -> None:
    """Refuse checkpoints that are not of one model: folders are compared by the headers of their files.

    Raises:
        CheckpointError: two differ in a tensor's name or shape, or one can't be read.
    """
    from lmms_plam.merge import Checkpoint

    first: tuple[str, dict[str, tuple[int, ...]]] | None = None
    for path in checkpoints.values():
        if not os.path.isdir(path):
            continue  # on the hub: its own run looks
        with Checkpoint(path) as checkpoint:
            shapes = {key: tuple(checkpoint.describe(key).shape) for key in checkpoint.files}
        if first is None:
            first = path, shapes
        elif shapes != first[1]:
            name = min(key for key in shapes.keys() | first[1].keys() if shapes.get(key) != first[1].get(key))
            had, has = (_shape(one.get(name)) for one in (first[1], shapes))
            raise CheckpointError(
                f"checkpoints of different shapes can't be in one sweep: '{name}' is {had} in {first[0]} and {has} in "
                f"{path}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a single number"


def _find(field: str, given: Sequence[str]) -> dict[str, str]:
    """Return checkpoints by what tells them apart, in order.

    Raises:
        ConfigError: a pattern that nothing matches, or one checkpoint twice.
    """
    paths: list[str] = []
    for one in given:
        path = os.path.expanduser(one)
        found = sorted(glob.glob(path), key=_by_number) if glob.has_magic(path) else [path]
        if not found:
            raise ConfigError(f"{field}: nothing{sought_in(path)} is called {one}")
        paths += found
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"{field}: '{path}' is there twice")
        if "," in path:
            raise ConfigError(f"{field}: '{path}' has a comma, which ends a field in --model_args")
    return dict(zip(_labels(paths), paths, strict=True))


def _by_number(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _labels(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    parts = [Path(path).parts for path in paths]
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def _paired(
    sweep: Sweep, vlms: Mapping[str, str], base_lms: Mapping[str, str]
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    if sweep.pairs == "alike":
        if len(vlms) != len(base_lms):
            raise ConfigError(
                f"pairs: alike takes as many base LMs as VLMs, not {len(base_lms)} and {len(vlms)}; `every` takes any"
            )
        yield from zip(vlms.items(), base_lms.items(), strict=True)
        return
    for base_lm in base_lms.items():
        for vlm in vlms.items():
            yield vlm, base_lm


def _as_overrides(recipes: Mapping[str, MergeRecipe]) -> dict[str, Any]:
    """Return recipes as fields of a model config: the first is its `merge`, and nothing stays of the config's own."""
    (_, first), *others = recipes.items()
    fields: dict[str, Any] = {"merge": "none", "recipes": "none"}
    fields |= {f"merge.{name}": value for name, value in _said(first, first).items()}
    for name, recipe in others:
        fields |= {f"recipes.{name}.{field}": value for field, value in _said(recipe, first).items()}
    return fields


def _said(recipe: MergeRecipe, first: MergeRecipe) -> dict[str, Any]:
    """Return the fields that have to be said of a recipe."""
    fields = recipe.model_dump(mode="json")
    return {
        name: "+".join(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if value is not None
        and (
            name in _ALWAYS
            or getattr(recipe, name) != MergeRecipe.model_fields[name].default
            or getattr(recipe, name) != getattr(first, name)
        )
    }
