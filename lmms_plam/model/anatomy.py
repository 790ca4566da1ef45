"""Where a vision-language model keeps what the engine needs: its decoder layers and the vision tokens of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from lmms_plam.errors import UnsupportedError

_IMAGE, _VIDEO = 1, 2  # what `mm_token_type_ids` calls the placeholders of images and videos; text is 0
_PLACEHOLDERS = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
_IMPLEMENTATIONS = ("sdpa", "eager")
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Decoder:
    """The language decoder inside a vision-language model.

    Attributes:
        text: the module that runs the layers, between token embedding and final norm.
        layers: its decoder layers.
        attention: name of its attention implementation, `sdpa` or `eager`.
    """

    text: Any
    layers: nn.ModuleList
    attention: str

    @property
    def depth(self) -> int:
        """The number of decoder layers L."""
        return len(self.layers)

    def by_index(self) -> dict[int, nn.Module]:
        """Return the layers by their 0-based index."""
        return dict(enumerate(self.layers))


def find_decoder(model: PreTrainedModel) -> Decoder:
    """Find the decoder layers of a model in which vision tokens are part of the sequence.

    Raises:
        UnsupportedError: a model of another build, named.
    """
    name = type(model).__name__
    if not isinstance(model, GenerationMixin) or type(model).generate is not GenerationMixin.generate:
        raise UnsupportedError(f"{name} has a generate() of its own, not transformers' GenerationMixin.generate")
    if model.config.is_encoder_decoder:
        raise UnsupportedError(f"{name} is an encoder-decoder model: no vision tokens in the decoder's sequence")
    text = model.get_decoder()
    if any(path.rsplit(".", 1)[-1].startswith("cross_attn") for path, _ in text.named_modules()):
        raise UnsupportedError(f"{name} reads vision by cross-attention: it has no vision tokens to hide")
    layers = getattr(text, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layer, "self_attn") for layer in layers):
        raise UnsupportedError(f"{name}: {type(text).__name__} has no list `layers` of decoder layers with `self_attn`")
    for kind in getattr(text.config, "layer_types", None) or ():
        if kind not in _LAYER_TYPES:
            raise UnsupportedError(f"{name} has decoder layers of the type '{kind}', not {' or '.join(_LAYER_TYPES)}")
    if getattr(text.config, "num_kv_shared_layers", 0):
        raise UnsupportedError(f"{name} has layers that read the keys and values of other layers")
    attention = text.config._attn_implementation
    if attention not in _IMPLEMENTATIONS:
        raise UnsupportedError(f"attention '{attention}' of {name}: load it with attn_implementation=sdpa or eager")
    return Decoder(text, layers, attention)


def vision_positions(model: PreTrainedModel, input_ids: Tensor, inputs: Mapping[str, Any]) -> Tensor:
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
    types: Tensor | None = inputs.get("mm_token_type_ids")
    if types is not None:
        return (types == _IMAGE) | (types == _VIDEO)
    placeholders = {getattr(model.config, name, None) for name in _PLACEHOLDERS} - {None}
    if not placeholders:
        raise UnsupportedError(
            f"can't tell vision tokens from text: no mm_token_type_ids among the inputs and none of "
            f"{', '.join(_PLACEHOLDERS)} in the config of {type(model).__name__}"
        )
    return torch.isin(input_ids, torch.tensor(sorted(placeholders), device=input_ids.device))
