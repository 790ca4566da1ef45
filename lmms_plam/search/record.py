"""A recipe search on disk: `recipes.json` says what the columns of its `matrix.parquet` are and how they were asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import DataError, first_problem
from lmms_plam.files import write_text

RECIPES = "recipes.json"

Kind = Literal["base", "scaled", "merge"]

NOUNS: Mapping[Kind, tuple[str, str]] = {
    "base": ("base", "bases"),
    "scaled": ("scaled VLM", "scaled VLMs"),
    "merge": ("merge", "merges"),
}
"""What one and several of a kind are called."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(_Frozen):
    """One column of the matrix.

    Attributes:
        name: what the matrix calls it.
        kind: `merge`; `scaled`, the VLM's own weights times a factor, which is the control of merges whose coefficients
            have that sum; `base`, the untouched VLM. Merges are picked from, scaled VLMs only where there is no merge.
        fields: the recipe, its start layer a layer; None for the base.
        dropped_after: documents after which racing stopped asking it; None if it was asked on all.
        dropped_why: in words.
    """

    name: str
    kind: Kind
    fields: MergeRecipe | None = None
    dropped_after: int | None = Field(default=None, ge=1)
    dropped_why: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if (self.fields is None) != (self.kind == "base"):
            raise ValueError(f"'{self.name}': every recipe but the base has fields, and the base has none")
        if self.fields is None:
            if self.dropped_after is not None:
                raise ValueError(f"'{self.name}': the base is asked on every document")
            return self
        if not isinstance(self.fields.start_layer, int):
            raise ValueError(f"'{self.name}': its start layer is resolved, a layer, not {self.fields.start_layer!r}")
        if (self.kind == "scaled") == self.fields.has_base_lm:
            raise ValueError(f"'{self.name}': 'scaled' are the recipes whose lambda_lm is 0, and they alone")
        return self

    @property
    def start_layer(self) -> int:
        """First decoder layer that it changes."""
        return int(self._fields.start_layer)

    @property
    def coefficients(self) -> tuple[float, float]:
        """lambda_lm and lambda_vlm, without the traces of binary fractions."""
        return round(self._fields.lambda_lm, 9), round(self._fields.lambda_vlm, 9)

    @property
    def total(self) -> float:
        """Sum of the coefficients."""
        return round(sum(self.coefficients), 9)

    @property
    def share(self) -> float:
        """Share of the base LM in that sum."""
        return self.coefficients[0] / sum(self.coefficients)

    @property
    def control_is_base(self) -> bool:
        """Whether the VLM with the sum of the coefficients and nothing of the base LM is the untouched VLM.

        So it is where the sum is 1 and all of a change stays, and where the method keeps the scale by itself.
        """
        return self._fields.control is None

    @property
    def plane(self) -> tuple[str, ...]:
        """Every field but start layer and coefficients: recipes that agree here lie on one lattice."""
        lattice = {"start_layer", "lambda_lm", "lambda_vlm"}
        return tuple(f"{name}={value}" for name, value in _plain(self._fields).items() if name not in lattice)

    def __str__(self) -> str:
        """Say what it is in a few words."""
        if self.fields is None:
            return "the untouched VLM"
        lm, vlm = self.coefficients
        what = f"{vlm:g} VLM" if self.kind == "scaled" else f"{lm:g} LM + {vlm:g} VLM"
        end, density = self.fields.end_layer, self.fields.density
        how = "" if self.fields.method == "linear" else f" by {self.fields.method}"
        how += "" if density is None else f" at density {density:g}"
        return f"layers {self.start_layer} {'on' if end is None else f'to {end - 1}'}, {what}{how}"

    @property
    def _fields(self) -> MergeRecipe:
        if self.fields is None:
            raise TypeError(f"'{self.name}' is the untouched VLM, which is no merge")
        return self.fields


class Racing(_Frozen):
    """How recipes were dropped: `block` documents at a time, those `z` standard errors behind the best."""

    z: float = Field(gt=0)
    block: int = Field(ge=1)


class ProbeOnset(_Frozen):
    """What a masking probe said of the model.

    Attributes:
        onset: plateau onset k*; None if there is none.
        interval: of the onset.
        stages: the paper's stages that it found, by name: first layer and end.
    """

    onset: int | None
    interval: tuple[int, int]
    stages: dict[str, tuple[int, int]] = Field(default_factory=dict)


class SearchRecord(_Frozen):
    """What a search's matrix doesn't say of itself.

    Attributes:
        task: name of the search's task.
        metric: the benchmark's headline metric (`lmms_plam.stats.metrics`).
        perfect_answer: a document's best possible score.
        higher_is_better: whether a higher value of the metric is.
        recipes: all that were asked, the base among them.
        space: what was searched, in words.
        racing: how recipes were dropped; None if none were.
        probe: what a probe of the model found; None if none was run.
        documents: what the documents are, such as dataset and split: searches that agree here share documents.
        depth: decoder layers of the model.
        model: fingerprint of what answered; searches that disagree here are of two models.
        config: what the model is called.
        versions: of packages, by name.
        date: of the run.
        matrix: SHA-256 of the matrix; None if nobody knows.
    """

    task: str
    metric: str = "mean"
    perfect_answer: float = Field(default=1.0, gt=0)
    higher_is_better: bool = True
    recipes: tuple[Recipe, ...]
    space: str = ""
    racing: Racing | None = None
    probe: ProbeOnset | None = None
    documents: str | None = None
    depth: int | None = Field(default=None, ge=1)
    model: str | None = None
    config: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    date: str = ""
    matrix: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SearchRecord:
        names = [recipe.name for recipe in self.recipes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the recipe '{twice[0]}' is there twice")
        kinds = [recipe.kind for recipe in self.recipes]
        if kinds.count("base") != 1:
            raise ValueError(f"a search has one base, the untouched VLM, not {kinds.count('base')}")
        if not any(recipe.kind == self.sought and recipe.dropped_after is None for recipe in self.recipes):
            raise ValueError(f"no {NOUNS[self.sought][0]} was asked on all documents: there is none to pick")
        if self.depth is not None:
            for recipe in self.recipes:
                if recipe.fields is not None and recipe.start_layer >= self.depth:
                    raise ValueError(f"'{recipe.name}' starts at layer {recipe.start_layer} of {self.depth}")
        return self

    @property
    def base(self) -> Recipe:
        """The untouched VLM."""
        return next(recipe for recipe in self.recipes if recipe.kind == "base")

    @property
    def sought(self) -> Kind:
        """The kind of recipe that is picked from."""
        return sought_kind(self.recipes)

    def write(self, folder: Path) -> None:
        """Write `recipes.json`."""
        write_text(folder / RECIPES, json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> SearchRecord:
        """Read `recipes.json`.

        Raises:
            DataError: it isn't there, or isn't the record of a search.
        """
        path = folder / RECIPES
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{folder} holds no {RECIPES}: give the folder of a recipe search") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no record of a recipe search ({error})") from None
        except ValidationError as error:
            raise DataError(f"{path} is no record of a recipe search: {first_problem(error)}") from None

    def restrict(self, start_layers: Sequence[int] | None = None, sums: Sequence[float] | None = None) -> SearchRecord:
        """Return a smaller space within this one: the recipes that start at these layers, or have these sums.

        Raises:
            DataError: no merge is left, or none that was asked on all documents.
        """
        kept = tuple(
            recipe
            for recipe in self.recipes
            if recipe.fields is None
            or (
                (start_layers is None or recipe.start_layer in start_layers)
                and (sums is None or any(abs(recipe.total - total) < 1e-6 for total in sums))
            )
        )
        merges = [recipe for recipe in self.recipes if recipe.kind == self.sought]
        if not any(recipe.kind == self.sought and recipe.dropped_after is None for recipe in kept):
            layers = ", ".join(map(str, sorted({recipe.start_layer for recipe in merges})))
            totals = ", ".join(f"{total:g}" for total in sorted({recipe.total for recipe in merges}))
            raise DataError(
                f"{self.task}: no {NOUNS[self.sought][0]} that was asked on all documents is left; start layers asked:"
                f" {layers};"
                f" sums of coefficients: {totals}"
            )
        words = [f"start layers {', '.join(map(str, sorted(start_layers)))}"] if start_layers is not None else []
        words += [f"sums {', '.join(f'{total:g}' for total in sorted(sums))}"] if sums is not None else []
        space = f"{self.space}; of it {' and '.join(words)}" if words else self.space
        return self.model_copy(update={"recipes": kept, "space": space})


def sought_kind(recipes: Iterable[Recipe]) -> Kind:
    """Return which kind is picked from: merges, or in a space that has none, as `scaled`, the VLM scaled."""
    return "merge" if any(recipe.kind == "merge" for recipe in recipes) else "scaled"


def recipe_fields(recipe: Recipe) -> Mapping[str, Any]:
    """Return a recipe's fields as JSON and YAML write them; none for the base."""
    return {} if recipe.fields is None else _plain(recipe.fields)


def _plain(fields: MergeRecipe) -> dict[str, Any]:
    plain: dict[str, Any] = fields.model_dump(mode="json")
    return plain
