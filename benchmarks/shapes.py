"""Released models' shapes with random weights, at their real size or with their widths divided, and prompts for them.

Sizes are those of the released `config.json`: Qwen2.5-VL-7B-Instruct (28 decoder layers) and Qwen3-VL-8B-Instruct (36
layers, whose vision features enter its first three as well).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE, VIDEO, START, END = 990, 991, 992, 993
TEXT, BEFORE = 65, 15
"""Text tokens, and how many of them come before the image in Qwen-VL's chat template."""


@dataclass(frozen=True)
class Case:
    """A row of a table: the image's tokens by height and width, and new tokens."""

    grid: tuple[int, int]
    new: int

    @property
    def vision(self) -> int:
        """The number of vision tokens."""
        return self.grid[0] * self.grid[1]


CASES = [Case((16, 20), 1), Case((16, 20), 8), Case((32, 32), 8)]


def _qwen2_5_vl_7b(scale: int) -> dict[str, Any]:
    return {
        "text_config": {
            "vocab_size": 152064 // scale,
            "hidden_size": 3584 // scale,
            "intermediate_size": 18944 // scale,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": _rope(scale, side=24),
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280 // scale,
            "intermediate_size": 3420 // scale // 4 * 4,
            "num_heads": 16 if scale == 1 else 4,
            "out_hidden_size": 3584 // scale,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    }


def _qwen3_vl_8b(scale: int) -> dict[str, Any]:
    return {
        "text_config": {
            "vocab_size": 151936 // scale,
            "hidden_size": 4096 // scale,
            "intermediate_size": 12288 // scale,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128 // scale,
            "rope_parameters": {**_rope(scale, side=20), "mrope_interleaved": True},
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152 // scale,
            "intermediate_size": 4304 // scale,
            "num_heads": 16 if scale == 1 else 2,
            "out_hidden_size": 4096 // scale,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    }


def _rope(scale: int, side: int) -> dict[str, Any]:
    """M-RoPE of heads of 128 dimensions, of whose 64 frequencies `side` are the height's and as many the width's."""
    half, side = 64 // scale, side // scale
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * side, side, side]}


@dataclass(frozen=True)
class _Shape:
    """A family's sizes, and transformers' classes of the VLM and of its base LM."""

    sizes: Callable[[int], dict[str, Any]]
    vlm: tuple[Any, Any]
    base_lm: tuple[Any, Any]


SHAPES = {
    "qwen2_5_vl_7b": _Shape(
        _qwen2_5_vl_7b, (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration), (Qwen2Config, Qwen2ForCausalLM)
    ),
    "qwen3_vl_8b": _Shape(
        _qwen3_vl_8b, (Qwen3VLConfig, Qwen3VLForConditionalGeneration), (Qwen3Config, Qwen3ForCausalLM)
    ),
}


def shape_arguments(parser: argparse.ArgumentParser, scale: int) -> None:
    """Add what says which shape, at which size and where."""
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen2_5_vl_7b")
    parser.add_argument("--gpu", action="store_true", help="real size, bf16, on the GPU")
    parser.add_argument("--scale", type=int, default=scale, help="divide the widths by this, on the CPU")


def build_model(args: argparse.Namespace) -> Any:
    """Build a shape's VLM with random weights."""
    scale, device, dtype = (1, "cuda", torch.bfloat16) if args.gpu else (args.scale, "cpu", torch.float32)
    shape = SHAPES[args.shape]
    config_class, model_class = shape.vlm
    config = config_class(
        **shape.sizes(scale),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return model_class._from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def describe(model: Any, args: argparse.Namespace) -> str:
    """Say what was measured, and where."""
    text = model.config.text_config
    where = torch.cuda.get_device_name() if args.gpu else f"{torch.get_num_threads()} threads"
    return (
        f"{args.shape}: {text.num_hidden_layers} layers, width {text.hidden_size}, {model.dtype}, {where}, "
        f"torch {torch.__version__}"
    )


def save_base_lm(model: Any, args: argparse.Namespace, folder: Path) -> None:
    """Save a base LM with random weights of the VLM's shape."""
    text = model.config.text_config
    config_class, model_class = SHAPES[args.shape].base_lm
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = config_class(
        **{name: getattr(text, name) for name in (*names, "num_key_value_heads")},
        **({"head_dim": text.head_dim} if hasattr(config_class, "head_dim") else {}),
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        dtype=model.dtype,
    )
    torch.manual_seed(1)
    with torch.device(model.device):
        model_class(config).to(model.dtype).save_pretrained(folder)


def build_prompt(model: Any, case: Case) -> dict[str, Any]:
    """Build the arguments of generate for one image between text."""
    count, device = case.vision, model.device
    text = torch.randint(10, 900, (TEXT - 2,)).tolist()
    ids = torch.tensor([[*text[: BEFORE - 1], START, *[IMAGE] * count, END, *text[BEFORE - 1 :]]], device=device)
    vision = model.config.vision_config
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(4 * count, patch, device=device, dtype=model.dtype),
        "image_grid_thw": torch.tensor([[1, 2 * case.grid[0], 2 * case.grid[1]]], device=device),
        "max_new_tokens": case.new,
        "eos_token_id": None,
        "do_sample": False,
    }
