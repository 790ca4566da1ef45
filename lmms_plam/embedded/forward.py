"""Running an embedded pair layer by layer on packed rows, through the Hugging Face modules themselves.

Needed because the picture may be hidden from the upper layers, and because transformers' own vision tower takes its
windows one at a time. Tests hold that both ways of running give the same logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmms_plam.embedded.packing import Layout
from lmms_plam.embedded.words import MERGE, PATCH

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM

_COPIES = 6
"""A patch holds each grey value for three colours and two frames."""


def cut_patches(digits: npt.NDArray[np.uint8]) -> Tensor:
    """Cut pictures of digits, (N, pixels, pixels), into patches, (N, P, 196) uint8, in the order of Qwen's own."""
    side = digits.shape[-1] // (PATCH * MERGE)
    split = torch.from_numpy(digits).view(-1, side, MERGE, PATCH, side, MERGE, PATCH)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(digits), -1, PATCH * PATCH)


def encode_digits(vlm: Qwen2_5_VLForConditionalGeneration, patches: Tensor) -> Tensor:
    """Run the vision tower on single digits: patches (N, P, 196) to vision tokens (N, P / 4, width).

    The tower's windows are one digit wide and its rotary positions relative, so a digit's tokens are the same alone and
    in a grid.
    """
    tower = vlm.model.visual
    kernel = tower.patch_embed.proj.weight.flatten(1)
    pixels = (patches.to(kernel.dtype) / 127.5 - 1).repeat(1, 1, _COPIES)
    hidden = pixels @ kernel.mT
    cos, sin = tower.rotary_pos_emb(hidden, _patch_positions(patches.shape[1]))
    for block in tower.blocks:
        hidden = hidden + _window_attention(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = tower.merger(hidden.flatten(0, 1))
    return merged.view(len(patches), patches.shape[1] // MERGE**2, -1)


@cache
def _patch_positions(patches: int) -> Tensor:
    """Return the row and column of a digit's patches in the processor's order, (patches, 2)."""
    side = math.isqrt(patches) // MERGE
    places = torch.arange(side * MERGE).view(side, MERGE)
    rows = places[:, None, :, None].expand(side, side, MERGE, MERGE)
    columns = places[None, :, None, :].expand(side, side, MERGE, MERGE)
    return torch.stack([rows.flatten(), columns.flatten()], dim=1)


def _window_attention(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Full attention inside each window, all windows at once: (N, P, D) to (N, P, D)."""
    count, length, width = hidden.shape
    query, key, value = attention.qkv(hidden).view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = _rotate(query, cos, sin) @ _rotate(key, cos, sin).mT * attention.scaling
    mixed = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return attention.proj(mixed.transpose(1, 2).reshape(count, length, width))  # type: ignore[no-any-return]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def answer_logits(
    model: Qwen2ForCausalLM | Qwen2_5_VLForConditionalGeneration,
    layout: Layout,
    ids: Tensor,
    vision: Tensor | None = None,
    visible_layers: int | None = None,
) -> Tensor:
    """Run packed rows through a decoder.

    Args:
        model: base LM or VLM.
        layout: of the rows.
        ids: token ids, (B, S).
        vision: vision tokens, (B, V, D), that take the place of the picture's token ids.
        visible_layers: number of decoder layers, from the first on, in which the picture can be read; all if left out.

    Returns:
        Logits at the layout's answer places, (B, T, vocabulary).
    """
    decoder, positions = model.model, layout.positions
    if hasattr(decoder, "language_model"):  # its positions have three axes: time, row, column
        decoder, positions = decoder.language_model, positions.expand(3, -1)[:, None]
    hidden = decoder.embed_tokens(ids)
    if vision is not None:
        hidden = torch.cat([hidden[:, : layout.images.start], vision, hidden[:, layout.images.stop :]], dim=1)
    rotary = decoder.rotary_emb(hidden, positions)
    for layer, mask in zip(decoder.layers, _masks(layout, len(decoder.layers), visible_layers), strict=True):
        hidden = layer(hidden, attention_mask=mask.to(hidden.dtype), position_embeddings=rotary)
    return model.lm_head(decoder.norm(hidden[:, layout.answers]))  # type: ignore[no-any-return]


def _masks(layout: Layout, layers: int, visible_layers: int | None) -> Sequence[Tensor]:
    shown, hidden = layout.additive_mask(), layout.additive_mask(hide_images=True)
    visible = layers if visible_layers is None else visible_layers
    return [shown if layer < visible else hidden for layer in range(layers)]
