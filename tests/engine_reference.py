"""A second reference for the family engine, which masks nothing: late layers are not given vision keys at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmms_plam.model import QueryScope, find_decoder


@contextmanager
def dropped(model: PreTrainedModel, vision: Tensor, cut: int, scope: QueryScope = "all") -> Iterator[None]:
    """Hide vision in layers `cut` and later by leaving its keys and values out of attention, prompt by prompt.

    Queries at vision positions may be left with no key at all; what they compute is never read. So the scope `text` is
    taken as `all`. Arguments are those of `lmms_plam.model.masked`.
    """
    decoder = find_decoder(model)
    name = "plam_dropped"
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
        if layer < cut:
            return plain(module, query, key, value, mask, **kwargs)[0], None
        if mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril(keys - queries)[None, None]
        before: list[Tensor] = []
        if scope == "last" and queries > 1:
            before = [plain(module, query, key, value, mask, **kwargs)[0][:, :-1]]
            query, mask = query[:, :, -1:], mask[..., -1:, :]
        outputs = []
        for row in range(len(query)):
            kept = [at for at in range(past[layer] - keys, past[layer]) if at >= vision.shape[1] or not vision[row, at]]
            columns = torch.tensor(kept, dtype=torch.long, device=key.device) - (past[layer] - keys)
            one = mask[row if len(mask) > 1 else 0][None, ..., columns]
            part = (query[row : row + 1], key[row : row + 1, :, columns], value[row : row + 1, :, columns])
            outputs.append(plain(module, *part, one, **kwargs)[0].nan_to_num())
        return torch.cat([*before, torch.cat(outputs)], dim=1), None

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
