"""Where a vision-language model keeps what the engine needs: its decoder layers and the vision tokens of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from lmms_plam.errors import UnsupportedError

IMAGE, VIDEO = 1, 2
"""What `mm_token_type_ids` calls the placeholders of images and of videos; text is 0."""

_PLACEHOLDER_FIELDS = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass(frozen=True, slots=True)
class Decoder:
    """The language decoder inside a vision-language model.

    Attributes:
        text: the module that runs the layers, between token embedding and final norm.
        layers: its decoder layers.
        attention: name of its attention implementation, `sdpa` or `eager`.
    """

    text: nn.Module
    layers: nn.ModuleList
    attention: str

    @property
    def depth(self) -> int:
        """The number of decoder layers L."""
        return len(self.layers)

    def by_index(self) -> dict[int, nn.Module]:
        """Return the layers by their 0-based index."""
        return dict(enumerate(self.layers))


def find_decoder(model: nn.Module) -> Decoder:
    """Find the decoder layers of a model in which vision tokens are part of the sequence.

    Raises:
        UnsupportedError: a model of another build, named.
    """
    name = type(model).__name__
    if not isinstance(model, GenerationMixin) or type(model).generate is not GenerationMixin.generate:
        raise UnsupportedError(f"{name} has a generate() of its own, not transformers' GenerationMixin.generate")
    if model.config.is_encoder_decoder:
        raise UnsupportedError(
            f"{name} is an encoder-decoder model: its vision tokens aren't in the decoder's sequence"
        )
    text = model.get_decoder()
    layers = getattr(text, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layer, "self_attn") for layer in layers):
        if _has_cross_attention(text):
            raise UnsupportedError(f"{name} reads vision by cross-attention: it has no vision tokens to hide")
        raise UnsupportedError(f"{name}: {type(text).__name__} has no list `layers` of decoder layers with `self_attn`")
    if _has_cross_attention(text):
        raise UnsupportedError(f"{name} reads vision by cross-attention: it has no vision tokens to hide")
    if getattr(text.config, "num_kv_shared_layers", 0):
        raise UnsupportedError(f"{name} shares keys and values between layers, which the masks of one layer can't hide")
    attention = text.config._attn_implementation
    if attention not in _IMPLEMENTATIONS:
        raise UnsupportedError(
            f"attention implementation '{attention}': load {name} with attn_implementation=sdpa (or eager)"
        )
    return Decoder(text, layers, attention)


def _has_cross_attention(text: nn.Module) -> bool:
    return any(child.rsplit(".", 1)[-1].startswith("cross_attn") for child, _ in text.named_modules())


def vision_positions(model: nn.Module, input_ids: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Say which prompt positions hold vision tokens, of images and of videos; their delimiters are text.

    Args:
        model: the vision-language model.
        input_ids: [prompts, length].
        inputs: what else the processor made; its `mm_token_type_ids` tell if there, else the placeholder ids in the
            model's config.

    Returns:
        bool [prompts, length].

    Raises:
        UnsupportedError: neither source is there.
    """
    types = inputs.get("mm_token_type_ids")
    if types is not None:
        return (types == IMAGE) | (types == VIDEO)
    placeholders = {getattr(model.config, name, None) for name in _PLACEHOLDER_FIELDS} - {None}
    if not placeholders:
        raise UnsupportedError(
            f"can't tell vision tokens from text: no mm_token_type_ids among the inputs and none of "
            f"{', '.join(_PLACEHOLDER_FIELDS)} in the config of {type(model).__name__}"
        )
    return torch.isin(input_ids, torch.tensor(sorted(placeholders), device=input_ids.device))
