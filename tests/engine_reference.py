"""A second reference for the family engine, which masks nothing: late layers are not given vision keys at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmms_plam.model import QueryScope, find_decoder


@contextmanager
def dropped(
    model: PreTrainedModel, vision: Tensor, cut: int, scope: QueryScope = "all", *, until: int | None = None
) -> Iterator[None]:
    """Hide vision in layers `cut` to `until` - 1 by leaving its keys and values out of attention, query by query.

    Arguments are those of `lmms_plam.model.masked`.
    """
    decoder = find_decoder(model)
    past: dict[int, int] = {}  # positions seen so far, by layer

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        plain = (
            ALL_ATTENTION_FUNCTIONS.get(decoder.attention)
            or sys.modules[type(module).__module__].eager_attention_forward
        )
        layer, queries, keys = module.layer_idx, query.shape[2], key.shape[2]
        past[layer] = past.get(layer, 0) + queries
        if layer < cut or (until is not None and layer >= until):
            return plain(module, query, key, value, mask, **kwargs)[0], None
        if mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril(keys - queries)[None, None]
        first_query, first_key, length = past[layer] - queries, past[layer] - keys, vision.shape[1]
        rows = []
        for row in range(len(query)):
            hidden = torch.cat([vision[row], vision.new_zeros(max(0, past[layer] - length))])
            groups: dict[tuple[int, ...], list[int]] = {}  # queries by the keys that they are given
            for place, at in enumerate(range(first_query, past[layer])):
                sees = (scope == "text" and hidden[at]) or (scope == "last" and at < length - 1)
                given = range(first_key, past[layer])
                kept = tuple(one - first_key for one in given if sees or not hidden[one] or one == at)
                groups.setdefault(kept, []).append(place)
            output = None
            for kept, places in groups.items():
                columns = torch.tensor(kept, dtype=torch.long, device=key.device)
                one = mask[row if len(mask) > 1 else 0][None][:, :, places][..., columns]
                part = (
                    query[row : row + 1, :, places],
                    key[row : row + 1, :, columns],
                    value[row : row + 1, :, columns],
                )
                found = plain(module, *part, one, **kwargs)[0].nan_to_num()
                output = found.new_zeros(1, queries, *found.shape[2:]) if output is None else output
                output[:, places] = found
            rows.append(output)
        return torch.cat(rows), None

    with _attending(model, attend):
        yield


@contextmanager
def compacted(model: PreTrainedModel, vision: Tensor, cut: int, form: str) -> Iterator[None]:
    """What the authors' code does to the keys of one prompt's picture, and what its attention kernels make of it."""
    start, stop = int(vision[0].nonzero()[0]), int(vision[0].nonzero()[-1]) + 1

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        queries, prefill = query.shape[2], query.shape[2] > 1
        if module.layer_idx >= cut and (prefill or form == "authors_qwen2_5"):
            key, value = (torch.cat([part[:, :, :start], part[:, :, stop:]], dim=2) for part in (key, value))
        keys = key.shape[2]
        diagonal = keys - queries if form == "authors_qwen2_5" or keys > queries else 0
        causal = torch.ones(queries, keys, dtype=torch.bool).tril(diagonal)
        groups = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * kwargs["scaling"]
        weights = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1).nan_to_num()  # no key at all: nothing
        return (weights @ value.repeat_interleave(groups, dim=1)).transpose(1, 2), None

    with _attending(model, attend):
        yield


@contextmanager
def _attending(model: PreTrainedModel, attend: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """Have the decoder of a model attend by a function of our own."""
    decoder, name = find_decoder(model), "plam_reference"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[decoder.attention])
    configs = [decoder.text.config, model.config.get_text_config()]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config in configs:
            config._attn_implementation_internal = decoder.attention
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)
