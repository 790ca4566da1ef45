"""The plan of a merge: what becomes of every tensor of the VLM's decoder, settled before any of them is touched."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import CheckpointError, ConfigError, MergeError, UnsupportedError, about
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.diagnosis import diagnose
from lmms_plam.merge.geometry import check_geometry, read_config, text_config
from lmms_plam.merge.layers import resolve_layers
from lmms_plam.merge.names import DecoderTensor, decoder_tensors
from lmms_plam.merge.schedules import Coefficients, coefficients
from lmms_plam.merge.shards import MERGEABLE_DTYPES
from lmms_plam.merge.vocabulary import Rows, read_vocabulary, shared_rows

_EMBEDDING = DecoderTensor(None, "embed_tokens.weight")
_HEAD = DecoderTensor(None, "lm_head.weight")


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """One tensor to merge.

    Attributes:
        name: the VLM's parameter.
        source: key of the base LM's tensor, or None where its coefficient is 0 and nothing of it is read.
        coefficients: what the two are multiplied with.
        rows: the ranges of rows that are merged: all but for embeddings, where it is those that stand for the same
            token in both vocabularies.
    """

    name: str
    source: str | None
    coefficients: Coefficients
    rows: Rows


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


def plan_merge(
    model: nn.Module,
    source: Checkpoint,
    recipe: MergeRecipe,
    vocabulary: Mapping[str, int] | None = None,
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
        loaded: False for a VLM on the meta device, whose plan is only looked at.

    Raises:
        ConfigError: layers beyond the depth, or a recipe that merges nothing.
        MergeError: a base LM that doesn't fit, its numbering of tokens included.
        CheckpointError: files or tensors of the base LM that are missing, damaged or truncated.
        UnsupportedError: offloaded or quantised weights, a decoder of unknown form, or q, k, v asked for singly where
            they are fused.
    """
    with about(f"'{source.reference}'"):
        lm_config = read_config(source.config)
        warnings = [*check_geometry(model.config, lm_config), *_scaled(recipe)]
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

    base: dict[DecoderTensor, str] = {}
    if any(pair.lm for pair in chosen.values()):
        source.require_unquantised()
        base = decoder_tensors(source.files)
        if getattr(lm_config, "tie_word_embeddings", False) and _EMBEDDING in base:
            base[_HEAD] = base[_EMBEDDING]
        elif _HEAD in base and _HEAD not in names and _EMBEDDING in chosen:
            warnings.append(f"the base LM's {base[_HEAD]} is left out, since the VLM ties its head to its embedding")
        _refuse_surplus(base, chosen, asked)

    vocabularies = None
    if vocabulary is not None and any(tensor.modules == {"embeddings"} and pair.lm for tensor, pair in chosen.items()):
        vocabularies = vocabulary, read_vocabulary(source.place)
    merged = []
    for tensor, pair in chosen.items():
        parameter = model.get_parameter(names[tensor])
        if loaded:
            _require_mergeable(names[tensor], parameter)
        key = _find_source(tensor, base, source) if pair.lm else None
        rows: Rows = ((0, parameter.shape[0]),)
        if key is not None:
            count = _count_rows(tensor, names[tensor], parameter, key, source)
            rows = ((0, count),)
            if vocabularies is not None and tensor.modules == {"embeddings"}:
                rows = shared_rows(*vocabularies, count, source.reference)
        merged.append(MergedTensor(names[tensor], key, pair, rows))
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
    if found != set(range(depth)) or _EMBEDDING not in names:
        raise UnsupportedError(
            f"the VLM's config speaks of {depth} decoder layers, but parameters of {len(found)} and "
            f"{'an' if _EMBEDDING in names else 'no'} embedding were recognised by their names (lmms_plam.merge.names)"
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


def _refuse_surplus(
    base: Mapping[DecoderTensor, str], chosen: Mapping[DecoderTensor, Coefficients], asked: frozenset[str]
) -> None:
    """Refuse a base LM with tensors that have no counterpart in the VLM, such as biases or q/k norms."""
    layers = {tensor.layer for tensor, pair in chosen.items() if tensor.layer is not None and pair.lm}
    for tensor, key in base.items():
        if tensor.layer in layers and tensor.modules & asked and tensor not in chosen:
            raise MergeError(
                f"the base LM's '{key}' has no counterpart in the VLM: is it the model that the VLM grew from, and are "
                "q, k and v fused on both sides or on none?"
            )


def _scaled(recipe: MergeRecipe) -> Iterator[str]:
    """Say what becomes of weights whose coefficients don't sum to 1."""
    total = recipe.lambda_lm + recipe.lambda_vlm
    if not math.isclose(total, 1):
        yield (
            f"lambda_lm + lambda_vlm = {total:.3g}: merged weights are about {total:.3g} times as large, and what is a "
            f"product of two of them (attention logits unless q and k are normed, v with o) {total**2:.3g} times"
        )


def _find_source(tensor: DecoderTensor, base: Mapping[DecoderTensor, str], source: Checkpoint) -> str:
    if tensor in base:
        return base[tensor]
    told = diagnose(source.files) or "fetch it again, if it should"
    raise CheckpointError(f"'{source.reference}' has no tensor for the decoder's {tensor}: {told}")


def _count_rows(tensor: DecoderTensor, name: str, parameter: Tensor, key: str, source: Checkpoint) -> int:
    """Return how many rows both sides have, which is all of them except in embeddings."""
    stored = source.describe(key)
    stored.require_mergeable(key, source.reference)
    if stored.shape == parameter.shape:
        return parameter.shape[0]
    if tensor.modules == {"embeddings"} and stored.shape[1:] == parameter.shape[1:]:
        return min(stored.shape[0], parameter.shape[0])
    raise MergeError(
        f"'{key}' of '{source.reference}' has the shape {list(stored.shape)}, "
        f"the VLM's '{name}' has {list(parameter.shape)}"
    )


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
