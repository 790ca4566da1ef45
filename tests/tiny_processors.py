"""Small processors of the released kinds: a trained byte-pair tokenizer, the image processor, the chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from tiny_configs import INTERNVL_IMAGE, LLAVA_IMAGE, ONEVISION_GRID, ONEVISION_IMAGE, PATCH, WORDS
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaTokenizer,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

_CORPUS = """
Is there a red circle in the image? Please answer yes or no. How many people are in the picture? Answer the question
using a single word or phrase. What is the colour of the left half of this image? Which object is larger, the first or
the second one? Answer with the option's letter from the given choices directly. Hint: please provide the correct
option letter, e.g., A, B, C, D, at the end. Based on the chart, what is the sum of the two largest values? A chat
between a curious user and an assistant. You are a helpful assistant. What is written on the sign? Options: (A) cat
(B) dog (C) bird (D) fish. Does the picture show a blue square above the green triangle, and is it round or not?
"""


@cache
def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Return the family's tokenizer; a family without its own special tokens ("qwen2", "llama") is a base LM's."""
    if family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        names = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
        return _qwen_tokenizer(*(f"<|{name}|>" for name in names))
    if family == "llava":
        return _llama_tokenizer("<image>", "<pad>")
    if family == "llava_onevision":
        return _qwen_tokenizer("<image>", "<video>")
    if family == "internvl":
        return _qwen_tokenizer(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )
    return _llama_tokenizer() if family == "llama" else _qwen_tokenizer()


def tiny_processor(family: str) -> ProcessorMixin:
    """Return the family's processor; images come out as few tokens (see the sizes in `tiny_configs`)."""
    parts: dict[str, Any] = {"tokenizer": tiny_tokenizer(family)}
    if family in ("qwen2_vl", "qwen2_5_vl"):
        kind = Qwen2VLProcessor if family == "qwen2_vl" else Qwen2_5_VLProcessor
        parts |= {"image_processor": Qwen2VLImageProcessor(), "video_processor": Qwen2VLVideoProcessor()}
        return kind(**parts, chat_template=_QWEN_VL)
    if family == "qwen3_vl":
        images = Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        parts |= {"image_processor": images, "video_processor": Qwen3VLVideoProcessor()}
        return Qwen3VLProcessor(**parts, chat_template=_QWEN3_VL)
    if family == "llava":
        side = LLAVA_IMAGE
        images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        strategy = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return LlavaProcessor(images, **parts, **strategy, chat_template=_LLAVA)
    if family == "llava_onevision":
        side = ONEVISION_IMAGE
        size = {"height": side, "width": side}
        parts |= {
            "image_processor": LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=ONEVISION_GRID),
            "video_processor": LlavaOnevisionVideoProcessor(size=size),
            "num_image_tokens": (side // PATCH) ** 2,
            "vision_feature_select_strategy": "full",
        }
        return LlavaOnevisionProcessor(**parts, chat_template=_ONEVISION)
    size = {"height": INTERNVL_IMAGE, "width": INTERNVL_IMAGE}
    parts |= {
        "image_processor": GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=12),
        "video_processor": InternVLVideoProcessor(size=size),
        "image_seq_length": (INTERNVL_IMAGE // PATCH // 2) ** 2,
    }
    return InternVLProcessor(**parts, chat_template=_INTERNVL)


def _qwen_tokenizer(*special: str, **named: str) -> Qwen2Tokenizer:
    """Return a byte-level BPE tokenizer of `WORDS` tokens, then the special ones, in Qwen2's manner.

    Args:
        special: special tokens after <|endoftext|>, <|im_start|>, <|im_end|>.
        named: more special tokens, those that a processor asks for by attribute, such as `start_image_token`.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary, merges = _train(trained, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special, *named.values())
    vocabulary |= _numbered(special)
    tokenizer = Qwen2Tokenizer(vocabulary, merges, eos_token="<|im_end|>", extra_special_tokens=named)
    return _with_special(tokenizer, special)


def _llama_tokenizer(*special: str) -> LlamaTokenizer:
    """Return a byte-fallback BPE tokenizer of `WORDS` tokens, then the special ones, padding last, as Llama's."""
    trained = Tokenizer(models.BPE(byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary, merges = _train(trained, special_tokens=first)
    padding = special[-1] if special else None
    tokenizer = LlamaTokenizer(vocabulary | _numbered(special), merges, add_bos_token=True, pad_token=padding)
    return _with_special(tokenizer, special)


def _train(tokenizer: Tokenizer, **options: object) -> tuple[dict[str, int], list[tuple[str, str]]]:
    trainer = trainers.BpeTrainer(vocab_size=WORDS, min_frequency=1, show_progress=False, **options)
    tokenizer.train_from_iterator(_CORPUS.splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    assert len(model["vocab"]) == WORDS, "the corpus is too short for so many tokens"
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _numbered(special: Sequence[str]) -> dict[str, int]:
    return {token: WORDS + index for index, token in enumerate(special)}


def _with_special(tokenizer: Any, special: Sequence[str]) -> Any:
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    return tokenizer


_QWEN_MESSAGE = """<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}\
<|vision_start|><|image_pad|><|vision_end|>\
{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
"""
_QWEN_ANSWER = """{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_QWEN_VL = (
    """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}"""
    + _QWEN_MESSAGE
    + "{% endfor %}"
    + _QWEN_ANSWER
)

_QWEN3_VL = "{% for message in messages %}" + _QWEN_MESSAGE + "{% endfor %}" + _QWEN_ANSWER

_LLAVA = """{% for message in messages %}{% if message['role'] != 'system' %}\
{{ message['role'].upper() + ': ' }}{% endif %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}\
{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

_ONEVISION = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}\
{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

_INTERNVL = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}\
{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
