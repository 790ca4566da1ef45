"""The shapes: a Qwen2 base LM, the Qwen2.5-VL model grown from it, their tokenizer, and how prompts are laid out.

Both are ordinary Hugging Face models, only small. What makes a language model that never saw a picture read one is that
the vision tokens stand exactly where the written digits stood: the picture is one row of ten tokens, and rotary
positions count along its width alone (`mrope_section` [0, 0, all]), as along text.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from lmms_plam.embedded.packing import Packer
from lmms_plam.embedded.words import MERGE, PATCH, learn_tokenizer, special_ids, vision_ids
from lmms_plam.microworld.grids import CELL_PIXELS, CELLS, Grid, sample_grid, write_grid
from lmms_plam.microworld.questions import KINDS, LONGEST_ANSWER, Question, ask

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM, Qwen2Tokenizer

PICTURE_PIXELS = len(CELLS) * CELL_PIXELS**2
LAYERS = 12

CHAT_TEMPLATE = """\
<|im_start|>
{%- for message in messages if message.role != 'system' -%}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}<|im_end|>{%- endif -%}
{%- endfor -%}
"""
"""The bare prompt: what is asked ends in a question mark, and the answer follows."""

_HEADS, _WIDTH = 4, 96
_DECODER: dict[str, Any] = {
    "hidden_size": _WIDTH,
    "intermediate_size": 288,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
_ROPE_THETA = 10.0
"""So small that the rotations of neighbouring cells differ in most frequencies: look-ups by place are learnt first."""


def build_tokenizer() -> Qwen2Tokenizer:
    """Learn the merges from the questions' own words, every word one token."""
    rng = random.Random(0)
    grid = sample_grid("train", rng)
    lines = [write_grid(grid.digits)]
    for kind in KINDS:
        questions = [ask(kind, sample_grid("train", rng), rng) for _ in range(200)]
        lines += [text for question in questions for text in (question.text, question.answer)]
    return learn_tokenizer(lines, CHAT_TEMPLATE, _DECODER["max_position_embeddings"])


class GridPacker(Packer):
    """Packs this world's questions."""

    image_rows = 1
    image_columns = len(CELLS)
    longest_answer: ClassVar[Mapping[str, int]] = LONGEST_ANSWER

    def shared(self, grid: Grid) -> tuple[str, ...]:
        """Return the grid, as picture or written out."""
        pads = ("<|image_pad|>",) * len(CELLS)
        written = ("[", *map(str, grid.digits), "]\n")
        return ("<|im_start|>", *(("<|vision_start|>", *pads, "<|vision_end|>") if self.pictures else written))

    def example(self, kind: str) -> tuple[Grid, Question]:
        """Return some grid and a question of a kind about it."""
        return _example(kind)

    def turn(self) -> str:
        """Return nothing: the answer follows the question mark."""
        return ""


@cache
def _example(kind: str) -> tuple[Grid, Question]:
    rng = random.Random(0)
    grid = sample_grid("train", rng)
    return grid, ask(kind, grid, rng)


def build_base_lm(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Return the untrained base LM: 12 layers of width 96."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    rope = {"rope_type": "default", "rope_theta": _ROPE_THETA}
    return Qwen2ForCausalLM(Qwen2Config(**_DECODER, **special_ids(tokenizer), rope_parameters=rope))


def grow_vlm(base_lm: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Return a VLM whose decoder is the base LM's and whose vision tower is untrained.

    The tower's attention windows are one digit wide, so it sees each digit alone; only the decoder compares them. The
    tokens around a picture, which the base LM never met, start as what stands around a written grid.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    half = _WIDTH // _HEADS // 2
    rope = {"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": [0, 0, half]}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": CELL_PIXELS,
        "fullatt_block_indexes": [],
        "out_hidden_size": _WIDTH,
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
    embeddings = vlm.get_input_embeddings().weight.data
    for mark, written in (("<|vision_start|>", "["), ("<|vision_end|>", "]\n")):
        (learnt,) = tokenizer.encode(written)
        embeddings[tokenizer.convert_tokens_to_ids(mark)] = embeddings[learnt]
    return vlm
