"""The pair's shapes: a Qwen2 base LM, the Qwen2.5-VL model grown from it, their tokenizer and processor.

Both are ordinary Hugging Face models, only small.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

from lmms_plam.digits.grids import CELL_PIXELS
from lmms_plam.digits.questions import KINDS, ask, write
from lmms_plam.embedded.words import MERGE, PATCH, learn_tokenizer, special_ids, vision_ids

if TYPE_CHECKING:
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2ForCausalLM,
        Qwen2Tokenizer,
    )

CHAT_TEMPLATE = """\
{%- for message in messages if message.role != 'system' -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""ChatML as Qwen writes it, without a system message: the pair was trained without one, so one is left out."""

_DECODER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
_ROPE_THETA = 10.0
"""So small that the rotations of neighbouring rows and columns differ on a picture of four by six tokens."""


def build_tokenizer() -> Qwen2Tokenizer:
    """Learn the merges from the questions' own words, every word one token."""
    rng = random.Random(0)
    digits = tuple(range(6))
    corpus = [ask(kind, digits, rng) for kind in KINDS for _ in range(200)]
    lines = [write(digits), "user\n", "assistant\n"]
    lines += itertools.chain.from_iterable((question.text, question.answer) for question in corpus)
    return learn_tokenizer(lines, CHAT_TEMPLATE, _DECODER["max_position_embeddings"])


def build_base_lm(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Return the untrained base LM: 12 layers of width 128."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    rope = {"rope_type": "default", "rope_theta": _ROPE_THETA}
    return Qwen2ForCausalLM(Qwen2Config(**_DECODER, **special_ids(tokenizer), rope_parameters=rope))


def grow_vlm(base_lm: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Return a VLM whose decoder is the base LM's and whose vision tower is untrained.

    The tower's attention windows are one digit wide, so it sees each digit alone; only the decoder compares them.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": [4, 6, 6]}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": CELL_PIXELS,
        "fullatt_block_indexes": [],
        "out_hidden_size": _DECODER["hidden_size"],
    }
    vlm = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**_DECODER, **special_ids(tokenizer), "rope_parameters": rope},
            vision_config=vision,
            **vision_ids(tokenizer),
            tie_word_embeddings=True,
        )
    )
    vlm.model.language_model.load_state_dict(base_lm.model.state_dict())
    return vlm
