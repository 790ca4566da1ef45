"""What reading attention costs: a family with and without it, and against an eager run with `output_attentions`.

    python benchmarks/attention_readout.py                        # Qwen2.5-VL-7B, its widths divided by 8, fp32, CPU
    python benchmarks/attention_readout.py --shape qwen3_vl_8b    # Qwen3-VL-8B likewise
    python benchmarks/attention_readout.py --gpu                  # at its real size, bf16

The family is base and merged, with attention weights replaced from two thirds of the depth on; mass, entropy, focus and
maps of all layers and heads are read. Times, of wall clock and CPU, are the best of `--repeats` runs in turns. Memory
is how far a run's peak goes beyond what is there before it, in tensors that torch allocates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from family_engine import fastest, half_merged
from shapes import CASES, TEXT, build_model, build_prompt, describe, shape_arguments

from lmms_plam.model import Variant, find_decoder, generate_family


def extra_memory(run: Callable[[], Any]) -> float:
    """Peak memory of a run's tensors beyond what is there before it, in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text(encoding="utf-8"))["traceEvents"]
    sizes = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return max(accumulate(sizes)) / 2**20


def ratio(one: tuple[float, float], other: tuple[float, float]) -> str:
    """How many times as long, by wall and by CPU."""
    return f"{one[0] / other[0]:.3f} (CPU {one[1] / other[1]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape_arguments(parser, scale=8)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = build_model(args)
    depth, heads = find_decoder(model).depth, model.config.text_config.num_attention_heads
    start = -(-2 * depth // 3)
    merged, pair = half_merged(model, start), [Variant("base"), Variant("merged", None, "merged")]
    print(describe(model, args))

    def family(prompt: dict[str, Any], read: bool) -> None:
        generate_family(model, pair, prompt, weights=[merged], read_attention=read)

    def eager(prompt: dict[str, Any], attentions: bool) -> None:
        model.generate(**prompt, return_dict_in_generate=True, output_attentions=attentions)

    for case in CASES[1:]:
        prompt, vision = build_prompt(model, case), case.vision
        runs = {
            "family": lambda prompt=prompt: family(prompt, False),
            "read": lambda prompt=prompt: family(prompt, True),
        }
        fastest(runs, 1)
        took, memory = fastest(runs, args.repeats), {name: extra_memory(run) for name, run in runs.items()}
        limit = TEXT * vision * heads * torch.float32.itemsize / 2**20
        print(
            f"{vision} vision tokens, {case.new} new: with reading {ratio(took['read'], took['family'])} times; "
            f"{memory['read'] - memory['family']:.1f} MiB more (rows x vision x heads of a layer: {limit:.1f})",
            flush=True,
        )
    one = {
        "plain": lambda: generate_family(model, pair[:1], prompt),
        "read": lambda: generate_family(model, pair[:1], prompt, read_attention=True),
    }
    fastest(one, 1)
    took, memory = fastest(one, args.repeats), {name: extra_memory(run) for name, run in one.items()}
    model.set_attn_implementation("eager")
    theirs = {"eager": lambda: eager(prompt, False), "attentions": lambda: eager(prompt, True)}
    fastest(theirs, 1)
    took |= fastest(theirs, args.repeats)
    memory |= {name: extra_memory(run) for name, run in theirs.items()}
    read = memory["read"] - memory["plain"]
    print(
        f"one variant, {vision} vision tokens: output_attentions takes {ratio(took['attentions'], took['read'])} times "
        f"our time; beyond its kind of run without reading it takes {memory['attentions'] - memory['eager']:.0f} MiB, "
        f"we {read:.1f} MiB"
    )


if __name__ == "__main__":
    main()
