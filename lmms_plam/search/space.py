"""Spaces of recipes: what a search asks, by name, as a list, or as a product of fields.

Every space starts from the config's own recipe, whose fields hold where the space says nothing. The names:

* `line`: coefficients that sum to 1, in steps of .1.
* `grid`: both coefficients from 0 to 1.5 in steps of .1, as in PlaM (arXiv 2601.07645).
* `scaled`: the VLM's own weights times .5 to 1.5: the control that holds nothing of the base LM.
* `regions`: the recipe in the early, middle and late layers and in all of them, by thirds.
* `stages`: the same by the stages that a masking probe found: separation, alignment, degradation, as far as it did.
* `modules`: the recipe for attention, MLPs, both, and both with the norms of the merged layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import ValidationError

from lmms_plam.config import MergeRecipe, inherit, taken
from lmms_plam.errors import ConfigError, did_you_mean

Kind = Literal["merge", "scaled"]
NAMES = ("line", "grid", "scaled", "regions", "stages", "modules")

_LINE = tuple(round(step / 10, 1) for step in range(1, 11))
_GRID = tuple(round(step / 10, 1) for step in range(16))
_SCALES = tuple(round(step / 10, 1) for step in range(5, 16))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One recipe of a space.

    Attributes:
        name: what it is called among the variants: start layer and coefficients, and what else it varies.
        recipe: all its fields, the layers resolved.
    """

    name: str
    recipe: MergeRecipe

    @property
    def kind(self) -> Kind:
        """Whether the base LM has a part in it, or it is the VLM scaled, its own change where the method adds such."""
        return "merge" if self.recipe.has_base_lm else "scaled"

    @property
    def first_changed(self) -> int:
        """The first decoder layer whose computation may differ: 0 with modules that lie outside of the layers."""
        return 0 if {"embeddings", "norms"} & set(self.recipe.modules) else int(self.recipe.start_layer)


def expand(
    space: Any,
    recipe: MergeRecipe,
    start_layers: Sequence[int],
    depth: int,
    stages: Mapping[str, tuple[int, int]] | None = None,
) -> list[Candidate]:
    """List the recipes of a space, each once, without those that leave the VLM as it is.

    Beside them stands the VLM scaled by every sum of coefficients that the space has, from the same layers: without it
    nobody can say whether the base LM had anything to do with a gain. Methods that add changes to an ancestor have the
    VLM's own change scaled so; where the ancestor is the base LM, nothing is left of a merge without it.

    Args:
        space: one of `NAMES`, a list of mappings of recipe fields, or a mapping of fields to lists of values.
        recipe: the config's own recipe.
        start_layers: where recipes start that don't say it themselves.
        depth: number of decoder layers.
        stages: first layer and end of each stage that a probe of the model found; None without a probe.

    Raises:
        ConfigError: an unknown space or field, a value out of range, layers beyond the depth, stages that no probe
            found, or an empty space.
    """
    fields = list(_by_stage(stages, depth) if space == "stages" else _fields(space, depth))
    if not fields:
        raise ConfigError("the search has an empty space: name one of " + ", ".join(NAMES) + ", or list recipes")
    found: dict[MergeRecipe, Candidate] = {}
    for own in fields:
        for start in [own["start_layer"]] if "start_layer" in own else start_layers:
            made = _make(recipe, {**own, "start_layer": start}, depth)
            for one in (made, made.control):
                if one is not None and not one.keeps_vlm:
                    found.setdefault(_alike(one), Candidate(_name(one, recipe), one))
    return list(found.values())


def _fields(space: Any, depth: int) -> Iterable[Mapping[str, Any]]:
    if isinstance(space, Mapping):
        values = [value if isinstance(value, list) else [value] for value in space.values()]
        products = [dict(zip(space, chosen, strict=True)) for chosen in product(*values)]
        return [taken(own, own["method"]) if "method" in own else own for own in products]
    if isinstance(space, list) and all(isinstance(own, Mapping) for own in space):
        return space
    if space == "line":
        return [{"lambda_lm": share, "lambda_vlm": round(1 - share, 1)} for share in _LINE]
    if space == "grid":
        return [{"lambda_lm": lm, "lambda_vlm": vlm} for lm, vlm in product(_GRID, _GRID) if lm or vlm]
    if space == "scaled":
        return [{"lambda_lm": 0.0, "lambda_vlm": scale} for scale in _SCALES]
    if space == "regions":
        third, two_thirds = round(depth / 3), round(2 * depth / 3)
        return _regions(((0, third), (third, two_thirds), (two_thirds, depth)), depth)
    if space == "modules":
        return [{"modules": modules} for modules in ("attention", "mlp", "attention+mlp", "attention+mlp+layer_norms")]
    hint = did_you_mean(space, NAMES) if isinstance(space, str) else ""
    known = ", ".join(NAMES)
    raise ConfigError(
        f"search.space is one of {known}, a list of recipes or lists of values by field, not {space!r}.{hint}"
    )


def _by_stage(stages: Mapping[str, tuple[int, int]] | None, depth: int) -> Iterable[Mapping[str, Any]]:
    if stages is None:
        raise ConfigError(
            "search.space=stages takes the stages that a masking probe found: give its plateau.json as "
            "merge.start_layer, or search by thirds (search.space=regions)"
        )
    if not stages:
        raise ConfigError("search.space=stages: the probe found no stages; search by thirds (search.space=regions)")
    return _regions(stages.values(), depth)


def _regions(layers: Iterable[tuple[int, int]], depth: int) -> list[Mapping[str, Any]]:
    """Return recipes of some layers, first to end - 1, and of all."""
    return [{"start_layer": start, "end_layer": end} for start, end in dict.fromkeys([*layers, (0, depth)])]


def _make(recipe: MergeRecipe, fields: Mapping[str, Any], depth: int) -> MergeRecipe:
    for field in fields:
        if field not in MergeRecipe.model_fields:
            known = list(MergeRecipe.model_fields)
            raise ConfigError(
                f"search.space: a recipe has no field '{field}'.{did_you_mean(field, known)} Known: {', '.join(known)}"
            )
    try:
        made = MergeRecipe.model_validate(inherit(recipe.model_dump(), fields))
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(map(str, item["loc"][:1]))
        raise ConfigError(f"search.space: {where}{': ' if where else ''}{item['msg']}") from None
    end = depth if made.end_layer is None else made.end_layer
    if not (isinstance(made.start_layer, int) and 0 <= made.start_layer < end <= depth):
        raise ConfigError(
            f"search.space: layers {made.start_layer} to {end - 1} are not all within the decoder's 0 to {depth - 1}"
        )
    return made


def _alike(recipe: MergeRecipe) -> MergeRecipe:
    """Return what recipes of the same weights have in common."""
    return recipe if recipe.lm_coefficient_counts else recipe.model_copy(update={"lambda_lm": 0.0})


def _name(recipe: MergeRecipe, base: MergeRecipe) -> str:
    """Return `18: .3 LM + .9 VLM`, and in brackets what else differs from the config's recipe."""
    shown = ("end_layer", "modules", "method", "qk_norms", "schedule", "schedule_form")
    other = {field: value for field in shown if (value := getattr(recipe, field)) != getattr(base, field)}
    for field in taken(dict.fromkeys(("ancestor", "density", "seed", "fisher")), recipe.method):
        value = getattr(recipe, field)
        if value != getattr(base, field):
            other[field] = f"no {field}" if value is None else f"{field} {value}"
    if "modules" in other:
        other["modules"] = "+".join(recipe.modules)
    end = other.pop("end_layer", None)
    layers = str(recipe.start_layer) if end is None else f"{recipe.start_layer}-{end - 1}"
    also = "".join(f" [{value}]" for value in other.values())
    return f"{layers}: {_short(recipe.lambda_lm)} LM + {_short(recipe.lambda_vlm)} VLM{also}"


def _short(value: float) -> str:
    return f"{value:g}".removeprefix("0") if 0 < value < 1 else f"{value:g}"
