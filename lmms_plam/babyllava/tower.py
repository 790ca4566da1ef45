"""A vision tower of few tokens: DINOv2's patch features, averaged over the picture or over its parts.

`LlavaForConditionalGeneration` takes any registered tower. With this one, `vision_feature_layer` -1 and
`vision_feature_select_strategy` `full`, transformers' own LLaVA is that of Takmaz et al. (arXiv 2510.01845): one token
a picture. Importing this module registers it, so that transformers' Auto classes load such checkpoints.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, Dinov2Config, Dinov2Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.dinov2.modeling_dinov2 import Dinov2PreTrainedModel

from lmms_plam.errors import ConfigError, did_you_mean

POOLINGS: dict[str, int | None] = {"mean": 1, "grid": 4, "patches": None}
"""By name, into how many tokens a picture's width and height are averaged: the whole of it into one, as in the paper,
four by four, or every patch its own."""


class PooledDinov2Config(Dinov2Config):  # type: ignore[misc]
    """DINOv2's config and what its patch features are averaged over.

    Attributes:
        pooling: one of POOLINGS.
    """

    model_type = "pooled_dinov2"

    pooling: str = "mean"

    @property
    def tokens(self) -> int:
        """Tokens of a picture.

        Raises:
            ConfigError: an unknown pooling, or patches that can't be averaged so.
        """
        return side_of(self.pooling, self.image_size // self.patch_size) ** 2


def side_of(pooling: str, patches: int) -> int:
    """Return how many tokens stand in a row of a picture with so many patches in a row.

    Raises:
        ConfigError: an unknown pooling, or patches that can't be averaged so.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"no pooling '{pooling}'.{did_you_mean(pooling, POOLINGS)} Known: {', '.join(POOLINGS)}")
    side = POOLINGS[pooling] or patches
    if patches % side:
        raise ConfigError(f"pooling '{pooling}': {patches} patches in a row can't be averaged into {side} tokens")
    return side


class PooledDinov2(Dinov2PreTrainedModel):  # type: ignore[misc]
    """DINOv2 without its class token, its patch features averaged.

    Args:
        config: of DINOv2, and the pooling.
    """

    config_class = PooledDinov2Config
    config: PooledDinov2Config

    def __init__(self, config: PooledDinov2Config) -> None:
        super().__init__(config)
        self.dinov2 = Dinov2Model(config)
        self.post_init()

    def forward(self, pixel_values: Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """Return pooled features, [pictures, tokens, width], as the last hidden state and the only one."""
        patches = self.dinov2(pixel_values).last_hidden_state[:, 1:]
        pooled = pool(patches, self.config.pooling)
        return BaseModelOutputWithPooling(last_hidden_state=pooled, hidden_states=(pooled,))


def pool(patches: Tensor, pooling: str) -> Tensor:
    """Average patch features, [pictures, patches, width], row by row of a square picture: [pictures, tokens, width].

    Raises:
        ConfigError: an unknown pooling, or patches that can't be averaged so.
    """
    count, length, width = patches.shape
    row = math.isqrt(length)
    side = side_of(pooling, row)
    parts = patches.view(count, side, row // side, side, row // side, width)
    return parts.mean(dim=(2, 4)).view(count, side * side, width)


AutoConfig.register("pooled_dinov2", PooledDinov2Config)
AutoModel.register(PooledDinov2Config, PooledDinov2)
