"""What the family engine costs: all cuts of a prompt against one run per cut, and against one ordinary run.

    python benchmarks/family_engine.py            # Qwen2.5-VL-7B scaled down to 1/8 of its width, fp32, CPU
    python benchmarks/family_engine.py --gpu      # at its real size, random weights, bf16

FLOPs are counted by torch's FlopCounterMode (attention in full, causal or not); wall times are the best of `--repeats`
runs, except for one run per cut, which is run once. Weights are random and answers forced to their full length: no
variant finishes early. Below the table: base against merged from 2/3 of the depth on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lmms_plam.model import Variant, WeightSet, find_decoder, generate_family, masked, vision_positions

IMAGE, VIDEO, START, END = 990, 991, 992, 993
SYSTEM = 14  # text tokens before the image in Qwen2.5-VL's chat template
TABLE = [((16, 20), 1, (11, 10, 2.6)), ((16, 20), 8, (10, 9, 3.0)), ((32, 32), 8, (18, 16, 1.7))]
"""Vision tokens (height, width), new tokens; targets: FLOPs and wall against one run per cut, FLOPs against one run."""


def build_model(scale: int, device: str, dtype: torch.dtype, layers: int = 28) -> Any:
    """Build Qwen2.5-VL-7B with random weights, its widths divided by `scale`."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064 // scale,
            "hidden_size": 3584 // scale,
            "intermediate_size": 18944 // scale,
            "num_hidden_layers": layers,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": _mrope(128 // scale)},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280 // scale,
            "intermediate_size": 3420 // scale // 4 * 4,
            "num_heads": 16 if scale == 1 else 4,
            "out_hidden_size": 3584 // scale,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    with torch.device(device):
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
        torch.set_default_dtype(previous)
    return model.to(device).eval()


def _mrope(head_dim: int) -> list[int]:
    """Split half the head dimension as 16 : 24 : 24."""
    half = head_dim // 2
    return [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]


def prompt(model: Any, grid: tuple[int, int], new_tokens: int) -> dict[str, Any]:
    """Build the arguments of generate for one image of `grid` vision tokens and 65 text tokens."""
    count, device = grid[0] * grid[1], model.device
    text = torch.randint(10, 900, (65 - 2,)).tolist()
    ids = torch.tensor([[*text[:SYSTEM], START, *[IMAGE] * count, END, *text[SYSTEM:]]], device=device)
    patch = model.config.vision_config
    width = 3 * patch.temporal_patch_size * patch.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(4 * count, width, device=device, dtype=model.dtype),
        "image_grid_thw": torch.tensor([[1, 2 * grid[0], 2 * grid[1]]], device=device),
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
    }


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def seconds(run: Callable[[], Any], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def one_run_per_cut(model: Any, kwargs: dict[str, Any]) -> None:
    vision = vision_positions(model, kwargs["input_ids"], kwargs)
    for cut in range(find_decoder(model).depth + 1):
        with masked(model, vision, cut):
            model.generate(**kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="real size, bf16, on the GPU")
    parser.add_argument("--scale", type=int, default=8, help="divide the widths by this (CPU)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-per-cut", action="store_true", help="don't run one run per cut; multiply instead")
    args = parser.parse_args()
    scale, device, dtype = (1, "cuda", torch.bfloat16) if args.gpu else (args.scale, "cpu", torch.float32)
    model = build_model(scale, device, dtype)
    depth = find_decoder(model).depth
    cuts = [Variant(str(cut), cut) for cut in range(depth + 1)]
    print(f"{depth} layers, width {3584 // scale}, {dtype}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("vision  text  new | per cut / family: FLOPs  wall | family / ordinary: FLOPs  wall | ordinary s  family s")
    for grid, new, targets in TABLE:
        kwargs = prompt(model, grid, new)
        ordinary, family = lambda: model.generate(**kwargs), lambda: generate_family(model, cuts, kwargs)
        ordinary()
        family()
        work, family_work = flops(ordinary), flops(family)
        wall, family_wall = seconds(ordinary, args.repeats), seconds(family, args.repeats)
        if args.skip_per_cut:
            plain_work, plain_wall = work * len(cuts), wall * len(cuts)
        else:
            plain_work, plain_wall = work * len(cuts), seconds(lambda: one_run_per_cut(model, kwargs), 1)
        print(
            f"{grid[0] * grid[1]:6d}    65  {new:3d} | {plain_work / family_work:23.1f} {plain_wall / family_wall:5.1f} "
            f"| {family_work / work:25.2f} {family_wall / wall:5.2f} | {wall:10.3f} {family_wall:9.3f}"
            f"   (wanted: {targets[0]}, {targets[1]}; {targets[2]})"
        )


if __name__ == "__main__":
    main()
