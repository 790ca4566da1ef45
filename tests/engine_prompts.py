"""Prompts for the engine's tests, as the families' own processors feed them: images, videos, both, or text alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from checkpoints import tiny_model
from PIL import Image
from tiny_configs import LM_ROWS
from tiny_processors import tiny_processor
from transformers import PreTrainedModel

from lmms_plam.model import find_decoder, masked, vision_positions

Kind = Literal["images", "one image", "video", "mixed"]
NEW_TOKENS = 5

_MESSAGES = {
    "images": (
        ("Is there a dog in the ", "image", " and is it larger than the cat?"),
        ("image", " or ", "image", "? Answer with the option's letter."),
        ("What is the sum of the two largest values?",),
    ),
    "one image": (("What is the colour of the left half of ", "image", "?"),),
    "video": (("How many people are in ", "video", "?"),),
    "mixed": (
        ("Name a colour.",),
        ("Is ", "image", " in ", "video", " or in ", "image", "?"),
        ("video", " What happens?"),
        ("image", "image", " Which of these two is it, the first or the second?"),
    ),
}


@cache
def model_for(family: str, attention: str = "sdpa") -> PreTrainedModel:
    """A family's tiny model, shared by all tests that leave it as it is."""
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    assert find_decoder(model).attention == attention
    return model


def prompts_for(family: str, kind: Kind = "images", **options: Any) -> dict[str, Any]:
    """Arguments of `generate`: a left-padded batch of prompts of one kind."""
    inputs = _gemma3(kind) if family == "gemma3" else _processed(family, kind)
    return {**inputs, "do_sample": False, "max_new_tokens": NEW_TOKENS, **options}


def logits_under(
    model: PreTrainedModel, prompts: dict[str, Any], intervention: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [prompts, steps] and raw logits [prompts, steps, vocabulary] of an ordinary run inside a context."""
    with intervention:
        output = model.generate(**prompts, return_dict_in_generate=True, output_logits=True)
    return output.sequences[:, prompts["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


def hidden_from(model: PreTrainedModel, prompts: dict[str, Any], cut: int, **options: Any) -> Any:
    """The first reference for this cut."""
    return masked(model, vision_positions(model, prompts["input_ids"], prompts), cut, **options)


def _processed(family: str, kind: Kind) -> dict[str, Any]:
    processor = tiny_processor(family)
    processor.tokenizer.padding_side = "left"
    processor.tokenizer.pad_token = processor.tokenizer.pad_token or processor.tokenizer.eos_token
    rng = np.random.default_rng(0)
    side = 112 if family.startswith("qwen") else 56
    texts, images, videos = [], [], []
    for message in _MESSAGES[kind]:
        content = [{"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in message]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
        heights = side * (1 + np.arange(message.count("image")) % 2)  # every other image is twice as high
        images.append([Image.fromarray(rng.integers(0, 255, (high, side, 3), dtype=np.uint8)) for high in heights])
        videos += [rng.integers(0, 255, (4, 3, side, side), dtype=np.uint8) for _ in range(message.count("video"))]
    media: dict[str, Any] = {"videos": videos} if videos else {}
    if any(images):  # some processors want the images prompt by prompt, others in one list
        media["images"] = images if family.startswith("qwen") else [image for own in images for image in own]
    return dict(processor(text=texts, padding=True, return_tensors="pt", **media))


def _gemma3(kind: Kind) -> dict[str, Any]:
    """Gemma3's tiny model has no processor: images of 4 tokens between delimiters, told by token_type_ids."""
    image, rng = [7, *[LM_ROWS - 1] * 4, 8], np.random.default_rng(0)
    text = lambda count: rng.integers(20, 400, count).tolist()  # noqa: E731
    rows = [[2, *text(3), *image, *text(9)]]
    if kind == "images":
        rows += [[2, *image, *text(4), *image, *text(11)], [2, *text(12)]]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    count = sum(row.count(7) for row in rows)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "token_type_ids": (ids == LM_ROWS - 1).long(),
        "pixel_values": torch.from_numpy(rng.normal(size=(count, 3, 56, 56))).float(),
        "pad_token_id": 0,
    }
