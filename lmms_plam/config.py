"""What humans write: one YAML a model, naming the VLM, its base LM and the merge recipe.

`load_config("qwen2_5_vl_7b", {"merge.lambda_lm": 0.4})` finds a shipped file or a path, applies dotted overrides as
they come from `--model_args`, and refuses what it doesn't know with the nearest right name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lmms_plam.errors import ConfigError, did_you_mean
from lmms_plam.files import read_fields, sought_in
from lmms_plam.paths import PACKAGE, data_folder

DEFAULT_CONFIG = "qwen2_5_vl_7b"
"""The paper's own model: Qwen2.5-VL-7B-Instruct, grown from Qwen2.5-7B-Instruct."""

Module = Literal["q", "k", "v", "o", "mlp", "norms", "layer_norms", "embeddings"]
ATTENTION: tuple[Module, ...] = ("q", "k", "v", "o")
ALL_MODULES: tuple[Module, ...] = (*ATTENTION, "mlp", "norms", "embeddings")
_MODULE_SETS: dict[str, tuple[Module, ...]] = {"attention": ATTENTION, "all": ALL_MODULES}

Method = Literal["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "fisher"]
_ANCESTOR = ("ancestor", "ancestor_revision")
_TAKES: dict[Method, tuple[str, ...]] = {
    "linear": (),
    "slerp": (),
    "task_arithmetic": _ANCESTOR,
    "ties": (*_ANCESTOR, "density"),
    "dare_linear": (*_ANCESTOR, "density", "seed"),
    "dare_ties": (*_ANCESTOR, "density", "seed"),
    "fisher": ("fisher",),
}
"""Fields of a recipe that not every method takes, by method."""
_NOT_OF_ALL = tuple(dict.fromkeys(field for fields in _TAKES.values() for field in fields))


def _split_modules(value: Any) -> Any:
    """Accept `q+k` (a comma would end the argument in --model_args), set names and lists of both."""
    names = value.split("+") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        return value
    expanded = [part for name in names for part in _MODULE_SETS.get(name, (name,))]
    return tuple(dict.fromkeys(expanded))


def _start_layer(value: Any) -> Any:
    """Refuse what the union below would take for a layer or a file, and is none."""
    if isinstance(value, bool) or value == "" or (isinstance(value, int) and value < 0):
        raise ValueError(f"start_layer is a layer from 0 on, a fraction or a file, not {value!r}")
    return value


def _recipe_or_none(value: Any) -> Any:
    """Read `none`; of a file that a search wrote, nothing is left to read by now."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    raise ValueError(
        f"merge takes a recipe's fields, such as merge.start_layer=20, 'none' or a recipe.yaml, not '{value}'"
    )


def _recipes_or_none(value: Any) -> Any:
    """Read `none`, which leaves a config's own recipes out."""
    return {} if isinstance(value, str) and value.lower() == "none" else value


def _recipe_in_file(value: Any) -> Any:
    """Return the fields of a recipe that a search wrote, given its file; anything else as it is."""
    path = Path(value).expanduser() if isinstance(value, str) else None
    if path is None or path.suffix not in (".yaml", ".yml"):
        return value
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return value
    return fields if isinstance(fields, dict) else value


_THE_MODEL = {"vlm", "vlm_revision", "base_lm", "base_lm_revision", "backend", "backend_args", "merge", "recipes"}
"""The fields that say which model it is, not how it is asked."""


_IS_RECIPE = re.compile(r"merge$|recipes\.[^.]+$")
"""The dotted fields that may name a file with a recipe."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class MergeRecipe(_Frozen):
    """W = lambda_lm * W_lm + lambda_vlm * W_vlm, in a range of decoder layers (PlaM, arXiv 2601.07645).

    So merges `linear`. The other methods, each in a file of lmms_plam.merge.methods, put something else for the sum:

    * `slerp`: along the arc between the two, by lambda_vlm / s of the way, times s = lambda_lm + lambda_vlm.
    * `task_arithmetic`: A + lambda_lm (W_lm - A) + lambda_vlm (W_vlm - A), with the ancestor A.
    * `ties`: the same of the largest changes only, where the two agree in sign (arXiv 2306.01708).
    * `dare_linear`, `dare_ties`: task arithmetic or ties of changes of which some at random are dropped and the rest
      grown to make up for them (arXiv 2311.03099).
    * `fisher`: the mean of the two, each weight counting by lambda times its Fisher information (arXiv 2111.09832).

    Attributes:
        method: the merge method.
        modules: what is merged: any of q, k, v, o, mlp, norms, layer_norms, embeddings, or the sets `attention`
            (PlaM's) and `all`. Biases go with their weights. `norms` are those of the merged layers, and with the last
            layer the final one; `layer_norms` are without it. `embeddings` is the token embedding and the
            language-model head, in the rows of tokens that both models have (a base LM whose tokenizer numbers them
            otherwise is refused). With the final norm or embeddings a variant shares no layer of the decoder, so that
            it costs a run of its own in comparisons and searches.
        qk_norms: merge the query and key norms too, where the model has them (Qwen3). They belong to q and k.
        start_layer: first merged decoder layer k0, 0-based: a layer, a fraction of the depth (0 < f < 1), or the path
            of a `plateau.json` that a masking probe wrote.
        end_layer: first decoder layer that is no longer merged; left out, the depth.
        lambda_lm: coefficient of the base LM's weights, at least 0.
        lambda_vlm: coefficient of the VLM's own weights, at least 0; the two need not sum to 1.
        schedule: how the base LM's part grows over the depth L (blog of 2025-03-13, Methods 1 to 3): `constant` r = 1,
            `linear` r = l / (L - 1), `loglinear` r = ln(1 + l) / ln(L).
        schedule_form: how r enters, with s = lambda_lm + lambda_vlm. `ratio`: the share of the base LM is
            lambda_lm r / (lambda_lm r + lambda_vlm); `share`: it is r lambda_lm / s. The sources leave this open.
        ancestor: for task arithmetic, ties and dare, the pre-trained model that VLM and base LM both grew from: a
            folder or hub id. Left out, the base LM is the ancestor: its own change is none, and lambda_lm has no part.
        ancestor_revision: its branch, tag or commit on the hub.
        density: for ties and dare, the part of each tensor's changes that stays, above 0 and up to 1. It has no
            default, since the sources have none in common: the paper of TIES keeps .2, those of DARE down to .01.
        seed: for dare, of the choice of what is dropped; left out, 0.
        fisher: for fisher, a file that `plam fisher` wrote.
    """

    method: Method = "linear"
    modules: Annotated[tuple[Module, ...], BeforeValidator(_split_modules), Field(min_length=1)] = ATTENTION
    qk_norms: bool = False
    start_layer: Annotated[int | float | str, BeforeValidator(_start_layer)] = 0.5
    end_layer: int | None = Field(default=None, ge=1)
    lambda_lm: float = Field(default=0.5, ge=0)
    lambda_vlm: float = Field(default=0.5, ge=0)
    schedule: Literal["constant", "linear", "loglinear"] = "constant"
    schedule_form: Literal["ratio", "share"] = "ratio"
    ancestor: str | None = Field(default=None, min_length=1)
    ancestor_revision: str | None = None
    density: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0)
    fisher: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> MergeRecipe:
        self._check_method()
        if isinstance(self.start_layer, float) and not 0 < self.start_layer < 1:
            raise ValueError(f"start_layer as a fraction of the depth lies between 0 and 1, not {self.start_layer}")
        if self.lambda_lm == 0 and self.lambda_vlm == 0:
            raise ValueError("lambda_lm and lambda_vlm are both 0, which would erase the weights")
        if self.qk_norms and not {"q", "k"} <= set(self.modules):
            raise ValueError("qk_norms needs both q and k among the modules")
        return self

    def _check_method(self) -> None:
        own = _TAKES[self.method]
        for field in _NOT_OF_ALL:
            if field not in own and getattr(self, field) is not None:
                known = f"takes {', '.join(own)}" if own else "takes none of its own"
                raise ValueError(f"method {self.method} has no field '{field}': it {known}")
        for field in ("density", "fisher"):
            if field in own and getattr(self, field) is None:
                what = "a file that `plam fisher` wrote" if field == "fisher" else "the part of changes that stays"
                raise ValueError(f"method {self.method} needs {field}, {what}")
        if self.ancestor is None and self.ancestor_revision is not None:
            raise ValueError("ancestor_revision is of no ancestor")
        if self.ancestor is None and self.method == "dare_ties":
            raise ValueError(
                "method dare_ties without an ancestor has one change alone, so that no signs are elected: set ancestor "
                "to the model that VLM and base LM grew from, or method to dare_linear"
            )
        if self.ancestor is None and self.density == 1:
            raise ValueError(
                f"of method {self.method} nothing remains without an ancestor at density 1: set ancestor to the model "
                "that VLM and base LM grew from, density below 1, or method to task_arithmetic"
            )

    @property
    def adds_changes(self) -> bool:
        """Whether the method adds changes to an ancestor: their coefficients need no sum of 1 to keep the scale."""
        return "ancestor" in _TAKES[self.method]

    @property
    def lm_coefficient_counts(self) -> bool:
        """Whether lambda_lm has a part: not where the base LM is the ancestor, unless a schedule trades one for one."""
        return not self.adds_changes or self.ancestor is not None or self.schedule != "constant"

    @property
    def has_base_lm(self) -> bool:
        """Whether anything of the base LM is in the result; it always is where it is the ancestor."""
        return self.lambda_lm > 0 or (self.adds_changes and self.ancestor is None)

    @property
    def keeps_vlm(self) -> bool:
        """Whether the coefficients leave the VLM as it is."""
        if self.lambda_lm and self.lm_coefficient_counts:
            return False
        return self.method == "fisher" or (self.lambda_vlm == 1 and self.density in (None, 1))

    @property
    def control(self) -> MergeRecipe | None:
        """The same with the sum of the coefficients for the VLM and nothing of the base LM: is a gain of its doing?

        None where that is the untouched VLM, or the method has no merge without the base LM.
        """
        total = round(self.lambda_lm + self.lambda_vlm, 12)
        alone = self.model_copy(update={"lambda_lm": 0.0, "lambda_vlm": total})
        return alone if self.lm_coefficient_counts and not alone.keeps_vlm else None


def taken(fields: Mapping[str, Any], method: Any) -> dict[str, Any]:
    """Return a recipe's fields without those that a method doesn't take; all of them where there is no such method."""
    of_method = _TAKES[method] if method in get_args(Method) else _NOT_OF_ALL
    return {field: value for field, value in fields.items() if field not in _NOT_OF_ALL or field in of_method}


def inherit(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's own fields over those that it inherits, of which another method doesn't take all."""
    return {**(taken(fields, own["method"]) if "method" in own else fields), **own}


def recipe_in_words(recipe: MergeRecipe) -> str:
    """Return a recipe as `--model_args` would give it: its start layer and coefficients, and what isn't the default."""
    always = ("start_layer", "lambda_lm", "lambda_vlm")
    fields = recipe.model_dump(mode="json")
    return ", ".join(
        f"{name}={'+'.join(value) if isinstance(value, list) else value}"
        for name, value in fields.items()
        if name in always or getattr(recipe, name) != MergeRecipe.model_fields[name].default
    )


class ModelConfig(_Frozen):
    """A VLM, the language model that it grew from, and how the two are merged.

    Attributes:
        name: what the model is called in reports; by default the file's name.
        vlm: Hugging Face id or folder of the vision-language model; `plam:PATH` lies inside this package.
        vlm_revision: branch, tag or commit of the VLM on the hub, for all that is read of it: weights, tokenizer,
            processor. Left out, the main branch.
        base_lm: the same for its base language model; may be left out when nothing is merged.
        base_lm_revision: the same for the base LM.
        backend: lmms-eval's model type that runs the VLM; left out, it follows from the VLM's own config.
        backend_args: arguments of that backend, as `--model_args` would give them.
        merge: the recipe, `none` for the untouched VLM, or the path of a `recipe.yaml` that a search wrote.
        recipes: further recipes by name, which comparison tasks set beside `merge`, or such files; what they leave out
            is as there.
        probe: options of masking probes (`cuts`, `queries`, `weights`), over what their YAML says; see
            lmms_plam.families.probe.ProbeOptions.
        search: options of recipe searches (`space`, `start_layers`, `racing`, ...); see
            lmms_plam.families.search.SearchOptions.
        attention: options of attention probes (`heads`, `pictures`, `neutral`, ...); see
            lmms_plam.families.attention.AttentionOptions.
        language: options of tasks that rank given texts (`folder`, `picture`, `start_token`, `question`), over what
            their YAML says; see lmms_plam.families.ranked.RankedOptions.
        family_memory: GiB that the variants of probes, comparisons and searches may take together beyond an ordinary
            run; what doesn't fit is computed in further groups. With a search or further recipes, half of it keeps
            merged layers; what these take of base LM and ancestors lies in memory beside it.
        engine_check: answer the first prompts of every probe and comparison both ways, by the family engine and
            plainly, before the engine is relied on.
    """

    name: str
    vlm: str
    vlm_revision: str | None = None
    base_lm: str | None = None
    base_lm_revision: str | None = None
    backend: str | None = None
    backend_args: dict[str, Any] = Field(default_factory=dict)
    merge: Annotated[MergeRecipe | None, BeforeValidator(_recipe_or_none)] = None
    recipes: Annotated[dict[str, MergeRecipe], BeforeValidator(_recipes_or_none)] = Field(default_factory=dict)
    probe: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    attention: dict[str, Any] = Field(default_factory=dict)
    language: dict[str, Any] = Field(default_factory=dict)
    family_memory: float = Field(default=4, gt=0, le=2**20)
    engine_check: bool = True

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.merge is not None and self.base_lm is None:
            raise ValueError("base_lm is missing: a merge needs the language model that the VLM grew from")
        if taken := {"base", "merged"} & set(self.recipes):
            raise ValueError(f"recipes: the name '{taken.pop()}' is taken by what every comparison shows")
        for recipe in (self.merge, *self.recipes.values()):
            ancestor = recipe.ancestor if recipe else None
            if ancestor is not None and ancestor == self.base_lm:
                raise ValueError(f"ancestor '{ancestor}' is the base LM, as it is where ancestor is left out: do so")
            if ancestor is not None and ancestor == self.vlm:
                raise ValueError(f"ancestor '{ancestor}' is the VLM: name the model that it and the base LM grew from")
        return self


def shipped_configs() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(path.stem for path in data_folder("model_configs").glob("*.yaml"))


def load_config(name_or_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read a model config, apply dotted overrides and check it.

    Args:
        name_or_path: a shipped config's name, or the path of a YAML file.
        overrides: values by dotted field name, such as `{"merge.start_layer": 20, "vlm": "my/folder"}`.

    Raises:
        ConfigError: no such config, an unknown field, or a value of the wrong type or range.
    """
    path = _find(name_or_path)
    content, _ = read_fields(path, "the fields of a model config (vlm, base_lm, merge, ...)")
    content.setdefault("name", path.stem)
    own = {
        name: _recipe_in_file(value) if _IS_RECIPE.match(name) else value for name, value in (overrides or {}).items()
    }
    if "merge" in content:
        content["merge"] = _recipe_in_file(content["merge"])
    if isinstance(content.get("merge"), dict) and "merge.method" in own:
        content["merge"] = taken(content["merge"], own["merge.method"])
    for field, value in own.items():
        _set_dotted(content, field, value)
    _complete_recipes(content)
    _locate_in(content, ("vlm", "base_lm"), path.parent)
    recipes = content.get("recipes")
    for recipe in (content.get("merge"), *(recipes.values() if isinstance(recipes, dict) else ())):
        if isinstance(recipe, dict):
            _locate_in(recipe, ("ancestor", "fisher"), path.parent)
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def folder_name(config: ModelConfig, overrides: Iterable[str] = ()) -> str:
    """Return the name of the folder for a model's probes, comparisons and searches: the config's.

    Where the command line changed what the model is, six digits tell it from the config's own model, unless the command
    line names it (`name=...`).

    Args:
        config: the resolved config.
        overrides: the dotted fields that the command line set.
    """
    name = re.sub(r"[^\w.+-]+", "_", config.name).strip(".") or "model"
    changed = {field.partition(".")[0] for field in overrides}
    if "name" in changed or not changed & _THE_MODEL:
        return name
    content = json.dumps(config.model_dump(mode="json", include=_THE_MODEL), sort_keys=True)
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def _find(name_or_path: str) -> Path:
    if name_or_path in shipped_configs():
        return data_folder("model_configs") / f"{name_or_path}.yaml"
    path = os.path.expanduser(name_or_path)  # which leaves what it can't expand; so does isfile what is no path at all
    if os.path.isfile(path):
        return Path(path)
    known = shipped_configs()
    raise ConfigError(
        f"no model config '{name_or_path}': neither a file{sought_in(path)} nor a shipped name."
        f"{did_you_mean(name_or_path, known)} Shipped: {', '.join(known)}"
    )


def _set_dotted(content: dict[str, Any], field: str, value: Any) -> None:
    *parents, last = field.split(".")
    node = content
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):  # absent, or `merge: none` that an override turns on again
            child = node[parent] = {}
        node = child
    node[last] = value


def _complete_recipes(content: dict[str, Any]) -> None:
    """Fill in what recipes leave out of `merge`; what is no mapping is refused later."""
    merge, recipes = content.get("merge"), content.get("recipes")
    if isinstance(merge, dict) and isinstance(recipes, dict):
        for name, recipe in recipes.items():
            recipes[name] = inherit(merge, recipe) if isinstance(recipe, dict) else recipe


def _locate_in(content: dict[str, Any], fields: Iterable[str], folder: Path) -> None:
    for field in fields:
        if isinstance(content.get(field), str):
            content[field] = _locate(content[field], folder)


def _locate(reference: str, folder: Path) -> str:
    """Resolve `plam:` to this package and ./ ../ ~ to folders; everything else is a hub id or a path as it stands."""
    if reference.startswith("plam:"):
        return str(PACKAGE / reference.removeprefix("plam:"))
    if reference.startswith(("./", "../")):
        return str((folder / reference).resolve())
    return os.path.expanduser(reference)


def _explain(error: ValidationError, path: Path) -> str:
    return f"{path.name}: " + "; ".join(_explain_one(dict(item)) for item in error.errors())


def _explain_one(item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"] if part not in ("int", "float", "str")]
    field = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = (ModelConfig if len(location) == 1 else MergeRecipe).model_fields
        return f"unknown field '{field}'.{did_you_mean(location[-1], known)} Known: {', '.join(known)}"
    if item["type"] == "missing":
        return f"the field '{field}' is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"'{field}' = {item['input']!r}: {message}" if item["type"] != "value_error" else message
