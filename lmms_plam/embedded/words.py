"""The embedded pairs' tokenizer and processor, with just the words that their questions need.

The tokenizer is Qwen's own kind, byte-level BPE (transformers loads any `qwen2` folder as such, whatever its
tokenizer.json says), with just enough merges that every word is one token. Numbers are split into digits, as Qwen does,
so a number above nine is an answer of two tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer

PATCH, MERGE = 14, 2
"""Qwen2.5-VL's own: patches of 14 pixels, two by two to a token."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def learn_tokenizer(
    lines: Iterable[str],
    chat_template: str,
    longest: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    end: str = "<|im_end|>",
    pad: str = "<|endoftext|>",
) -> Qwen2Tokenizer:
    """Learn the merges from the lines' own words, every word one token.

    Args:
        lines: that hold every word.
        chat_template: of the prompts.
        longest: tokens a prompt may have.
        special_tokens: that stand for no text.
        end: the one that ends an answer.
        pad: the one that fills a batch up.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

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
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=list(special_tokens),
        model_max_length=longest,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer, pixels: int) -> Qwen2_5_VLProcessor:
    """Return the Qwen2.5-VL processor: pictures in their own size of so many pixels, values from -1 to 1."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    how: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "min_pixels": pixels,
        "max_pixels": pixels,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**how),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**how),
        chat_template=tokenizer.chat_template,
    )


def special_ids(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """Return what a decoder's config says of the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def vision_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """Return what a VLM's config says of the tokens around and in place of pictures."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    words = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    return dict(zip(names, tokenizer.convert_tokens_to_ids(words), strict=True))
