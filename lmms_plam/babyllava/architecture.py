"""The shapes: a small Llama, and LLaVA around the same decoder with a DINOv2 tower whose features are averaged.

Both are transformers' own classes, but for the tower's averaging. Prompts are raw text: in the LLaVA the
picture, a start token, and the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lmms_plam.babyllava.pictures import PIXELS
from lmms_plam.babyllava.tower import PooledDinov2Config, side_of
from lmms_plam.embedded.words import learn_tokenizer

if TYPE_CHECKING:
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        LlamaForCausalLM,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Tokenizer,
    )

LAYERS = 6
"""The paper's number of decoder layers."""

START, END, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"

CHAT_TEMPLATE = """\
{%- for message in messages if message.role == 'user' -%}
{%- if message.content is string -%}
{%- if message.content.startswith('<image>\\n') -%}<image>{%- endif -%}
<s>{{ message.content.removeprefix('<image>\\n') }}
{%- else -%}
{%- for part in message.content if part.type == 'image' -%}<image>{%- endfor -%}
<s>
{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endfor -%}
"""
"""No chat: the picture, the start token, and what is asked, which is most often nothing.

The start token stands between picture and text, for a picture that told the first word itself could be hidden from
nothing.
"""

_DECODER: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}

VISION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": PIXELS,
    "patch_size": 8,
}
"""The small encoder that stands for DINOv2: 8 x 8 patches."""


def build_tokenizer(lines: Iterable[str]) -> Qwen2Tokenizer:
    """Learn the merges from the training text, every word of which becomes one token."""
    special = (PAD, START, END, IMAGE)
    tokenizer = learn_tokenizer(lines, CHAT_TEMPLATE, _DECODER["max_position_embeddings"], special, END, PAD)
    tokenizer.bos_token = START
    return tokenizer


def build_lm(tokenizer: Qwen2Tokenizer) -> LlamaForCausalLM:
    """Return the untrained language model: six layers of width 96."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_text_config(tokenizer)))


def build_vlm(
    lm: LlamaForCausalLM, tokenizer: Qwen2Tokenizer, encoder: Dinov2Model, pooling: str = "mean"
) -> LlavaForConditionalGeneration:
    """Return a LLaVA with the language model's decoder, the encoder's weights and an untrained adapter of two layers.

    Args:
        lm: whose weights the decoder starts from.
        tokenizer: of both.
        encoder: a DINOv2, such as `Dinov2Model.from_pretrained("facebook/dinov2-large")`.
        pooling: how its patch features are averaged; see lmms_plam.babyllava.tower.

    Raises:
        ConfigError: an unknown pooling, or patches that can't be averaged so.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    vision = _vision_config(encoder.config, pooling)
    config = LlavaConfig(
        vision_config=vision,
        text_config=lm.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=vision.tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=lm.config.tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vlm = LlavaForConditionalGeneration(config)
    vlm.model.language_model.load_state_dict(lm.model.state_dict())
    vlm.lm_head.load_state_dict(lm.lm_head.state_dict())
    vlm.model.vision_tower.dinov2.load_state_dict(encoder.state_dict())
    return vlm


def _vision_config(config: Dinov2Config, pooling: str) -> PooledDinov2Config:
    fields = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    vision = PooledDinov2Config(**fields, pooling=pooling)
    side_of(pooling, vision.image_size // vision.patch_size)
    return vision


def _text_config(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        **_DECODER,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def build_processor(tokenizer: Qwen2Tokenizer, vlm: LlavaForConditionalGeneration) -> LlavaProcessor:
    """Return the processor: pictures cut to the encoder's size, and as many placeholders as the tower has tokens.

    LLaVA's processor counts patches; it is told a patch is as large as what one token stands for.
    """
    from transformers import BitImageProcessor, LlavaProcessor

    vision: PooledDinov2Config = vlm.config.vision_config
    pixels = vision.image_size
    side = side_of(vision.pooling, pixels // vision.patch_size)
    return LlavaProcessor(
        image_processor=BitImageProcessor(
            size={"shortest_edge": pixels},
            crop_size={"height": pixels, "width": pixels},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
        tokenizer=tokenizer,
        patch_size=pixels // side,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
