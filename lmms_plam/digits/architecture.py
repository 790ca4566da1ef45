"""The pair's shapes: a Qwen2 base LM, the Qwen2.5-VL model grown from it, their tokenizer and processor.

Both are ordinary Hugging Face models, only small. The tokenizer is Qwen's own kind, byte-level BPE (transformers loads
any `qwen2` folder as such, whatever its tokenizer.json says), with just enough merges that every word of the questions
is one token. Numbers are split into digits, as Qwen does, so a sum above nine is an answer of two tokens.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING, Any

from lmms_plam.digits.grids import CELL_PIXELS, COLUMNS, ROWS
from lmms_plam.digits.questions import KINDS, ask, write

if TYPE_CHECKING:
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2ForCausalLM,
        Qwen2Tokenizer,
    )

PATCH, MERGE = 14, 2
"""Qwen2.5-VL's own: patches of 14 pixels, two by two to a token. So a cell of 56 pixels is four tokens, a grid 24."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
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
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    rng = random.Random(0)
    digits = tuple(range(6))
    corpus = [ask(kind, digits, rng) for kind in KINDS for _ in range(200)]
    lines = [write(digits), "user\n", "assistant\n"]
    lines += itertools.chain.from_iterable((question.text, question.answer) for question in corpus)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(lines, trainer)
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=_DECODER["max_position_embeddings"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Return the Qwen2.5-VL processor: pictures in their own size, values from -1 to 1."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    pixels: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "min_pixels": ROWS * COLUMNS * CELL_PIXELS**2,
        "max_pixels": ROWS * COLUMNS * CELL_PIXELS**2,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def build_base_lm(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Return the untrained base LM: 12 layers of width 128."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    rope = {"rope_type": "default", "rope_theta": _ROPE_THETA}
    return Qwen2ForCausalLM(Qwen2Config(**_DECODER, **_ids(tokenizer), rope_parameters=rope))


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
    image, video, start, end = tokenizer.convert_tokens_to_ids(
        ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    )
    vlm = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**_DECODER, **_ids(tokenizer), "rope_parameters": rope},
            vision_config=vision,
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )
    )
    vlm.model.language_model.load_state_dict(base_lm.model.state_dict())
    return vlm


def _ids(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
