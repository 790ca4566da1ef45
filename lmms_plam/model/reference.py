"""The same variants the plain way, one run of the model each: what the family engine is tested against.

`masked` rewrites the attention mask that each late decoder layer is given. `run_plainly` does so for what the engine
refuses: it costs a whole run for each variant, and any way of generating will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.family import FamilyResult
from lmms_plam.model.host import attention_silenced, find_decoder, take_cache, vision_positions
from lmms_plam.model.lanes import QueryScope
from lmms_plam.model.support import setting
from lmms_plam.model.variants import Variant, WeightSet, check_variants, installed


def run_plainly(
    model: PreTrainedModel,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
    keep_logits: bool = False,
) -> FamilyResult:
    """Answer a batch of prompts with every variant, by one call of `model.generate` each.

    Args:
        model: a vision-language model of transformers, loaded with sdpa or eager attention.
        variants: what to run; names must differ.
        generate_kwargs: the keyword arguments of `model.generate`; sampling, beams and processors are all its own.
        weights: the weight sets that variants name.
        query_scope: from which queries vision is hidden.
        keep_logits: also return the logits; for greedy decoding.

    Raises:
        UnsupportedError: a model whose vision tokens can't be hidden by masks; it is named.
        ConfigError: variants that can't be meant.
        MergeError: weights that don't fit the model.
    """
    decoder = find_decoder(model)
    sets = {one.name: one for one in weights}
    check_variants(variants, sets, decoder.depth)
    input_ids = generate_kwargs.get("input_ids", generate_kwargs.get("inputs"))
    if input_ids is None:
        raise UnsupportedError("vision tokens can be told only with input_ids among the arguments of generate")
    vision = vision_positions(model, input_ids, generate_kwargs)
    generate = type(model).generate
    kept = {"return_dict_in_generate": True, "output_logits": True} if keep_logits else {}
    trunk = generate(model, **generate_kwargs, **kept)
    tokens, logits = [], []
    for variant in variants:
        output, hidden = trunk, variant.hidden(decoder.depth)
        silent = range(decoder.depth if variant.silent is None else variant.silent, decoder.depth)
        if hidden or silent or variant.weights is not None:
            chosen = sets[variant.weights] if variant.weights is not None else None
            with (
                installed(chosen, decoder.by_index()),
                masked(model, vision, hidden.start, query_scope, until=hidden.stop),
                attention_silenced(decoder, dict.fromkeys(silent, slice(None))),
            ):
                output = generate(model, **generate_kwargs, **kept)
        sequences = getattr(output, "sequences", output)
        tokens.append([_ended(row, model, generate_kwargs) for row in sequences[:, input_ids.shape[1] :].tolist()])
        if keep_logits:
            steps = torch.stack(output.logits, dim=1).float()
            logits.append([row[: len(own)] for row, own in zip(steps, tokens[-1], strict=True)])
    return FamilyResult(tokens, trunk, vision.sum(dim=1).tolist(), logits if keep_logits else None)


def _ended(tokens: list[int], model: PreTrainedModel, generate_kwargs: Mapping[str, Any]) -> list[int]:
    """Cut an answer after its first end-of-sequence token, or before its padding."""
    ends, padding = (setting(model, generate_kwargs, name) for name in ("eos_token_id", "pad_token_id"))
    for count, token in enumerate(tokens, start=1):
        if token in (ends if isinstance(ends, (list, tuple)) else [ends]):
            return tokens[:count]
    while tokens and tokens[-1] == padding:
        tokens = tokens[:-1]
    return tokens


@contextmanager
def masked(
    model: PreTrainedModel, vision: Tensor, cut: int, scope: QueryScope = "all", *, until: int | None = None
) -> Iterator[None]:
    """Hide vision in layers `cut` to `until` - 1 through the attention mask that these layers are given.

    Args:
        model: the vision-language model.
        vision: bool [prompts, length], the vision tokens of the prompts that will be run.
        cut: the first of these layers.
        scope: from which queries vision is hidden.
        until: the first layer after them; None: all that are left hide it.
    """
    decoder = find_decoder(model)

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        layer, queries = module.self_attn.layer_idx, hidden.shape[1]
        _, cache = take_cache(dict(kwargs))
        if cache is None and queries < vision.shape[1]:
            raise UnsupportedError(f"{type(module).__name__} is called without a cache, so that its keys can't be told")
        start = cache.get_seq_length(layer) if cache is not None else 0
        length, offset = cache.get_mask_sizes(queries, layer) if cache is not None else (queries, 0)
        query = torch.arange(start, start + queries, device=hidden.device)[:, None]
        key = torch.arange(offset, offset + length, device=hidden.device)
        beams = vision.repeat_interleave(len(hidden) // len(vision), dim=0).to(hidden.device)
        is_vision = nn.functional.pad(beams, (0, max(0, offset + length - vision.shape[1])))[:, None, :]
        visible = ~is_vision[:, :, offset : offset + length] | (query == key)
        if scope == "last":
            visible = visible | (query < vision.shape[1] - 1)
        elif scope == "text":
            visible = visible | is_vision[:, 0, start : start + queries, None]
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = (key <= query)[None, None]
        if mask.dtype == torch.bool:
            mask = mask & visible[:, None]
            if decoder.attention == "eager":
                mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        else:
            mask = mask.masked_fill(~visible[:, None], torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": mask}

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in decoder.layers[cut:until]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
