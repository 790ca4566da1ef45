"""Hiding vision from decoder layers through the attention masks that they are given, rightly or as the authors did.

`masked` is what a cut means, and a reference for the family engine. `damaged` is what the code of PlaM's authors
computes instead (github wzj1718/PlaM): it cuts the first picture's tokens out of the keys and lets the attention kernel
mask by place, which is right for the end of the prompt only. It shows what that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.host import Decoder, attention_silenced, find_decoder, hooked, take_cache
from lmms_plam.model.lanes import QueryScope


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

    def hide(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        rows = vision.repeat_interleave(len(mask) // len(vision), dim=0).to(mask.device)  # several where beams are
        is_vision = nn.functional.pad(rows, (0, max(0, int(key.max()) + 1 - rows.shape[1])))
        visible = ~is_vision[:, None, key] | (query == key)
        if scope == "last":
            visible = visible | (query < vision.shape[1] - 1)
        elif scope == "text":
            visible = visible | is_vision[:, query.flatten(), None]
        if mask.dtype == torch.bool:
            return mask & visible[:, None]
        return mask.masked_fill(~visible[:, None], torch.finfo(mask.dtype).min)

    decoder = find_decoder(model)
    layers = range(cut, decoder.depth if until is None else until)
    with masks_rewritten(decoder, layers, vision.shape[1], hide):
        yield


@contextmanager
def masks_rewritten(
    decoder: Decoder, layers: range, prompt: int, rewrite: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Rewrite the attention mask that some decoder layers are given, while open.

    Args:
        decoder: the decoder.
        layers: which of its layers.
        prompt: the prompts' length.
        rewrite: gets the positions of queries [queries, 1] and keys [keys] and the mask [rows, 1, queries, keys], which
            is boolean or additive; returns the same, or a boolean one.
    """

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        layer, queries = module.self_attn.layer_idx, hidden.shape[1]
        _, cache = take_cache(dict(kwargs))
        if cache is None and queries < prompt:
            raise UnsupportedError(f"{type(module).__name__} is called without a cache, so that its keys can't be told")
        start = cache.get_seq_length(layer) if cache is not None else 0
        length, offset = cache.get_mask_sizes(queries, layer) if cache is not None else (queries, 0)
        query = torch.arange(start, start + queries, device=hidden.device)[:, None]
        key = torch.arange(offset, offset + length, device=hidden.device)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = (key <= query)[None, None]
        mask = rewrite(query, key, mask.expand(len(hidden), -1, -1, -1))
        if mask.dtype == torch.bool and decoder.attention == "eager":
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        return args, {**kwargs, "attention_mask": mask}

    with hooked([decoder.layers[layer].register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]):
        yield


@contextmanager
def damaged(model: PreTrainedModel, vision: Tensor, cut: int, form: QueryScope) -> Iterator[None]:
    """Hide vision in layers `cut` and later as the authors' code does; of several pictures, the first alone.

    `authors_qwen2_5` (FlashAttention 2, whose causal mask is aligned at the end of keys and queries): with n keys cut
    out, query i of the prompt sees the remaining keys up to number i - n, so that text before the picture and most of
    the picture see nothing at all, and attention adds nothing there. `authors_qwen3` (sdpa, whose mask is aligned at
    the start): query i sees the remaining keys up to number i, those of later text among them, and the answer's tokens
    see the picture. Both as read in the code (hack_qwen, hack_qwen3), not run.

    Args:
        model: the vision-language model.
        vision: bool [1, length], the vision tokens of the prompt that will be run.
        cut: the cut layer.
        form: one of the two.

    Raises:
        UnsupportedError: several prompts at once, which the authors' code can't take.
    """
    if len(vision) != 1:
        raise UnsupportedError("the authors' masking takes one prompt at a time: run with batch size 1")
    length, decoder = vision.shape[1], find_decoder(model)
    after_first = (vision[0].int().diff() < 0).cumsum(0).bool()
    picture = vision[0] & ~nn.functional.pad(after_first, (1, 0))
    removed = int(picture.sum())
    shift = removed if form == "authors_qwen2_5" else 0

    def cut_out(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        if len(query) == 1 and form == "authors_qwen3":
            return mask
        kept = ~nn.functional.pad(picture.to(mask.device), (0, max(0, int(key.max()) + 1 - length)))[key]
        number = kept.cumsum(0) - 1
        visible = kept & (number <= query - shift)
        nothing = ~visible.any(dim=1, keepdim=True)
        return (visible | nothing & (query == key)).expand(mask.shape)

    layers = range(cut, decoder.depth)
    seeing_nothing = dict.fromkeys(layers, (slice(None), slice(0, shift)))
    with masks_rewritten(decoder, layers, length, cut_out), attention_silenced(decoder, seeing_nothing, length):
        yield
