"""The plan of a merge: what becomes of every tensor of the VLM's decoder, settled before any of them is touched."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe, Method
from lmms_plam.errors import ConfigError, UnsupportedError, about
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.counterparts import EMBEDDING, HEAD, Counterparts, Vocabularies, find_information
from lmms_plam.merge.further import FurtherFiles
from lmms_plam.merge.geometry import check_geometry, read_config, text_config
from lmms_plam.merge.layers import resolve_layers
from lmms_plam.merge.names import DecoderTensor, decoder_tensors, parse_name
from lmms_plam.merge.schedules import Coefficients, coefficients
from lmms_plam.merge.shards import MERGEABLE_DTYPES
from lmms_plam.merge.vocabulary import Rows, common_rows


@dataclass(frozen=True, slots=True)
class Way:
    """How a tensor is merged, beside its coefficients.

    Attributes:
        method: as in recipes.
        density: the part of changes that stays; 1 where the method has none.
        seed: of what is dropped at random.
        ancestor: folder or hub id of the ancestor, with its revision if it has one; None where it is the base LM, or
            the method has none.
        fisher: path of the Fisher information; None where the method takes none.
    """

    method: Method = "linear"
    density: float = 1
    seed: int = 0
    ancestor: str | None = None
    fisher: str | None = None

    @classmethod
    def of(cls, recipe: MergeRecipe) -> Way:
        """Return a recipe's."""
        at = f"@{recipe.ancestor_revision}" if recipe.ancestor_revision else ""
        return cls(
            recipe.method,
            1 if recipe.density is None else recipe.density,
            recipe.seed or 0,
            None if recipe.ancestor is None else f"{recipe.ancestor}{at}",
            recipe.fisher,
        )

    def in_words(self) -> str:
        """Return what follows the coefficients of a merge; nothing for the linear one."""
        if self.method == "linear":
            return ""
        density = f" at density {self.density:.3g}" if self.density < 1 else ""
        against = f" against {self.ancestor}" if self.ancestor else ""
        return f" by {self.method}{density}{against}"


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """One tensor to merge.

    Attributes:
        name: the VLM's parameter.
        source: key of the base LM's tensor, or None where its coefficient is 0 and nothing of it is read.
        coefficients: what the two are multiplied with.
        rows: the ranges of rows that are merged: all but for embeddings, where it is those that stand for the same
            token in all vocabularies.
        way: the method, and what it takes.
        ancestor: key of the ancestor's tensor, which is the base LM's where `way` names no ancestor; None where the
            method has none.
        information: keys of the Fisher information of VLM and base LM; none where it isn't read.
    """

    name: str
    source: str | None
    coefficients: Coefficients
    rows: Rows
    way: Way = Way()
    ancestor: str | None = None
    information: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what a record of a merge says of each tensor: what the method reads, and not the method again."""
        fields = asdict(self)
        del fields["way"]
        return {name: value for name, value in fields.items() if value or name not in ("ancestor", "information")}


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge will do.

    Attributes:
        layers: the merged decoder layers.
        depth: number of decoder layers.
        modules: kinds of tensors to merge, as recipes name them.
        merged: the tensors to merge, in the model's order.
        kept: names of the decoder's other parameters, which stay as they are.
        warnings: what fits but deserves a look, a sentence each.
    """

    layers: range
    depth: int
    modules: tuple[str, ...]
    merged: tuple[MergedTensor, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def first_changed(self) -> int:
        """The first decoder layer whose computation differs; 0 if anything outside of the layers is merged."""
        places = (parse_name(tensor.name) for tensor in self.merged)
        return 0 if any(place and place.layer is None for place in places) else self.layers.start


def plan_merge(
    model: nn.Module,
    source: Checkpoint,
    recipe: MergeRecipe,
    vocabulary: Mapping[str, int] | None = None,
    further: FurtherFiles | None = None,
    *,
    loaded: bool = True,
) -> MergePlan:
    """Check a recipe against a loaded VLM and a base LM, and settle what becomes of every decoder tensor.

    Reads configs, the index and the headers of the shards that will be needed; no weights.

    Args:
        model: the VLM, a transformers model.
        source: the base LM.
        recipe: what to merge.
        vocabulary: the VLM's row of each token, by which rows of embeddings are told to stand for the same token as the
            base LM's; left out, rows of the same number do.
        further: what else the recipe names; left out, it is opened for the plan.
        loaded: False for a VLM on the meta device, whose plan is only looked at.

    Raises:
        ConfigError: layers beyond the depth, or a recipe that merges nothing.
        MergeError: a base LM that doesn't fit, its numbering of tokens included.
        CheckpointError: files or tensors of the base LM that are missing, damaged or truncated.
        UnsupportedError: offloaded or quantised weights, a decoder of unknown form, or q, k, v asked for singly where
            they are fused.
    """
    if further is None:
        with FurtherFiles.of(recipe) as further:
            return plan_merge(model, source, recipe, vocabulary, further, loaded=loaded)
    warnings = [*_scaled(recipe), *_said_of_ancestor(recipe)]
    with about(f"'{source.reference}'"):
        warnings[:0] = check_geometry(model.config, read_config(source.config))
    if further.ancestor is not None:
        with about(f"ancestor '{further.ancestor.reference}'"):
            warnings += check_geometry(model.config, read_config(further.ancestor.config), "ancestor")
    depth: int = text_config(model.config).num_hidden_layers
    layers = resolve_layers(recipe, depth)
    names = decoder_tensors(name for name, _ in model.named_parameters())  # lists tied weights once, as the embedding
    _require_whole_decoder(names, depth)
    modules = (*recipe.modules, "qk_norms") if recipe.qk_norms else recipe.modules
    asked = frozenset("norms" if module == "layer_norms" else module for module in modules)
    final_norm = "norms" in modules
    chosen = {
        tensor: coefficients(recipe, tensor.merged_with(depth), depth)
        for tensor, name in names.items()
        if tensor.merged_with(depth) in layers
        and _is_asked(tensor, name, asked)
        and (final_norm or tensor.layer is not None or tensor.modules != {"norms"})
    }
    _require_every_module(chosen, asked, layers)

    is_ancestor = recipe.adds_changes and further.ancestor is None
    of_lm = {tensor for tensor, pair in chosen.items() if is_ancestor or pair.lm}
    base: Counterparts | None = None
    if of_lm:
        base = Counterparts.of(source, "base LM")
        if base.head is not None and HEAD not in names and EMBEDDING in chosen:
            warnings.append(f"the base LM's {base.head} is left out, since the VLM ties its head to its embedding")
        base.refuse_surplus(chosen, of_lm, asked)
    elder = base if is_ancestor else None
    if further.ancestor is not None:
        elder = Counterparts.of(further.ancestor, "ancestor")
        elder.refuse_surplus(chosen, chosen.keys(), asked)

    way = Way.of(recipe)
    vocabularies = Vocabularies(vocabulary)
    merged = []
    for tensor, pair in chosen.items():
        name, parameter = names[tensor], model.get_parameter(names[tensor])
        if loaded:
            _require_mergeable(name, parameter)
        rows: Rows = ((0, parameter.shape[0]),)
        key = information = before = None
        if base is not None and tensor in of_lm:
            key = base.find(tensor)
            rows = vocabularies.rows(tensor, name, parameter, key, source)
        if elder is not None:
            before = elder.find(tensor)
            if elder is not base:
                rows = common_rows(rows, vocabularies.rows(tensor, name, parameter, before, elder.source))
        if further.fisher is not None and pair.lm and pair.vlm and key is not None:
            information = find_information(further.fisher, tensor, parameter, source.describe(key).shape)
        lm = None if is_ancestor else key
        merged.append(MergedTensor(name, lm, pair, rows, way, before, information or ()))
    return MergePlan(
        layers=layers,
        depth=depth,
        modules=modules,
        merged=tuple(merged),
        kept=tuple(name for tensor, name in names.items() if tensor not in chosen),
        warnings=tuple(warnings),
    )


def _require_whole_decoder(names: Mapping[DecoderTensor, str], depth: int) -> None:
    found = {tensor.layer for tensor in names if tensor.layer is not None}
    if found != set(range(depth)) or EMBEDDING not in names:
        raise UnsupportedError(
            f"the VLM's config speaks of {depth} decoder layers, but parameters of {len(found)} and "
            f"{'an' if EMBEDDING in names else 'no'} embedding were recognised by their names (lmms_plam.merge.names)"
        )


def _is_asked(tensor: DecoderTensor, name: str, asked: frozenset[str]) -> bool:
    """Tell whether a tensor of a merged layer is to be merged; refuse what can't be told or is asked for in part."""
    modules = tensor.modules
    if not modules:
        raise UnsupportedError(f"'{name}' is in a merged layer but of no kind that lmms_plam.merge.names knows")
    if modules & asked and not modules <= asked:
        raise UnsupportedError(
            f"'{name}' holds {', '.join(sorted(modules))} in one tensor: merge all of them or none, "
            f"not {', '.join(sorted(modules & asked))} alone"
        )
    return modules <= asked


def _require_every_module(chosen: Collection[DecoderTensor], asked: frozenset[str], layers: range) -> None:
    """Refuse a decoder that lacks what is asked for, such as attention layers of another kind or packed weights."""
    if not chosen:
        raise ConfigError(
            f"the recipe merges nothing in layers {layers.start} to {layers.stop - 1}: the embedding belongs to the "
            "first decoder layer, the head to the last"
        )
    for layer in layers:
        weights = [t.modules for t in chosen if t.layer == layer and not t.suffix.endswith("bias")]
        if missing := asked - {"qk_norms", "embeddings"} - frozenset().union(*weights):
            raise UnsupportedError(
                f"decoder layer {layer} of the VLM has no weight of {', '.join(sorted(missing))} among its parameters"
            )


def _scaled(recipe: MergeRecipe) -> Iterator[str]:
    """Say what becomes of weights whose coefficients don't sum to 1, where that is their scale."""
    total = recipe.lambda_lm + recipe.lambda_vlm
    if recipe.method in ("linear", "slerp") and not math.isclose(total, 1):
        yield (
            f"lambda_lm + lambda_vlm = {total:.3g}: merged weights are about {total:.3g} times as large, and what is a "
            f"product of two of them (attention logits unless q and k are normed, v with o) {total**2:.3g} times"
        )


def _said_of_ancestor(recipe: MergeRecipe) -> Iterator[str]:
    """Say what a method comes to where the base LM stands for the ancestor."""
    if recipe.adds_changes and recipe.ancestor is None:
        comes_to = {
            "task_arithmetic": "is linear, with 1 - lambda_vlm of the base LM",
            "ties": "trims the VLM's changes and elects no signs",
        }.get(recipe.method, "drops from the VLM's changes alone")
        counts = "" if recipe.lm_coefficient_counts else "; lambda_lm has no part"
        yield f"without merge.ancestor the base LM is the ancestor: {recipe.method} {comes_to}{counts}"


def _require_mergeable(name: str, parameter: Tensor) -> None:
    if parameter.is_meta or not parameter.numel():
        raise UnsupportedError(
            f"'{name}' isn't in this process's memory (offloaded or split), so it can't be merged; load the VLM whole"
        )
    if type(parameter.data) is not torch.Tensor or parameter.dtype not in MERGEABLE_DTYPES:
        kind = type(parameter.data).__name__
        raise UnsupportedError(
            f"'{name}' is a {kind} of {parameter.dtype}: quantised or split weights can't be merged; "
            "load the VLM in bfloat16, float16 or float32"
        )
