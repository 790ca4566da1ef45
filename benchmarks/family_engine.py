"""What the family engine costs: all cuts of a prompt against one run per cut, and against one ordinary run.

    python benchmarks/family_engine.py                        # Qwen2.5-VL-7B, its widths divided by 16, fp32, CPU
    python benchmarks/family_engine.py --shape qwen3_vl_8b    # Qwen3-VL-8B likewise
    python benchmarks/family_engine.py --gpu                  # at its real size, bf16

What counts as FLOPs, `benchmarks/flops.py` says: attention in full, causal or not. Times are the best of `--repeats`
runs in turns, of one run per cut a single one; the CPU column is CPU seconds, which other work on the machine doesn't
touch. Weights are random, and all answers run to their full length. Further lines: early hiding and windows of four
layers, with vision hidden from text alone and from vision too; attention silent from each layer on; and base and
merged, with attention weights replaced from two thirds of the depth on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from flops import count_flops
from shapes import CASES, TEXT, build_model, build_prompt, describe, shape_arguments

from lmms_plam.model import Variant, WeightSet, find_decoder, generate_family, masked, vision_positions


@dataclass(frozen=True)
class Cost:
    """What a run took: FLOPs, wall seconds, CPU seconds."""

    flops: float
    wall: float
    cpu: float

    def __truediv__(self, other: Cost) -> str:
        return f"{self.flops / other.flops:6.2f} {self.wall / other.wall:6.2f} {self.cpu / other.cpu:6.2f}"


def half_merged(model: Any, start: int) -> WeightSet:
    """Weights that stand for a merge: all attention projections of the layers from `start` on, slightly changed."""
    layers = find_decoder(model).layers
    return WeightSet(
        "merged",
        {
            index: {
                name: 1.01 * tensor
                for name, tensor in layers[index].named_parameters()
                if "_proj.w" in name and "attn" in name
            }
            for index in range(start, len(layers))
        },
    )


def fastest(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each run, the best of some taken in turns."""
    best = dict.fromkeys(runs, (float("inf"), float("inf")))
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best[name][0], time.perf_counter() - wall), min(best[name][1], time.process_time() - cpu)
    return best


def measure(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Cost]:
    """Measure what each run takes."""
    flops = {name: count_flops(run) for name, run in runs.items()}
    return {name: Cost(flops[name], *took) for name, took in fastest(runs, repeats).items()}


def run_each_cut(model: Any, prompt: dict[str, Any], flops: float) -> tuple[Cost, list[list[int]]]:
    """Run the model once for each cut, under a mask: what that takes (masks cost no FLOPs) and its answers."""
    vision, answers = vision_positions(model, prompt["input_ids"], prompt), []
    wall, cpu = time.perf_counter(), time.process_time()
    for cut in range(find_decoder(model).depth + 1):
        with masked(model, vision, cut):
            answers.append(model.generate(**prompt)[0, prompt["input_ids"].shape[1] :].tolist())
    return Cost(flops * len(answers), time.perf_counter() - wall, time.process_time() - cpu), answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape_arguments(parser, scale=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = build_model(args)
    depth = find_decoder(model).depth
    cuts = [Variant(str(cut), cut) for cut in range(depth + 1)]
    print(describe(model, args))
    print(f"{'':17}one run per cut / family   family / ordinary run")
    print(f"{'vision':>6} {'text':>5} {'new':>4}  {'FLOPs   wall    CPU':>20}   {'FLOPs   wall    CPU':>20}")
    for case in CASES:
        prompt = build_prompt(model, case)
        answers = [one[0] for one in generate_family(model, cuts, prompt).tokens]
        runs = {
            "ordinary": lambda prompt=prompt: model.generate(**prompt),
            "family": lambda prompt=prompt: generate_family(model, cuts, prompt),
        }
        cost = measure(runs, args.repeats)
        per_cut, references = run_each_cut(model, prompt, cost["ordinary"].flops)
        equal = sum(one == other for one, other in zip(answers, references, strict=True))
        print(
            f"{case.vision:6d} {TEXT:5d} {case.new:4d}  {per_cut / cost['family']}   "
            f"{cost['family'] / cost['ordinary']}    ordinary {cost['ordinary'].wall:.3f} s, family "
            f"{cost['family'].wall:.3f} s, {equal} of {depth + 1} answers equal",
            flush=True,
        )
    width = 4
    places = {
        f"hidden below k, all {depth - 1} k": [Variant(f"early {k}", 0, until=k) for k in range(1, depth)],
        f"hidden in windows of {width}, all {depth - width + 1}": [
            Variant(f"window {k}", k, until=k + width) for k in range(depth - width + 1)
        ],
        f"attention silent from k on, all {depth}": [Variant(f"silent {k}", silent=k) for k in range(depth)],
    }
    for words, variants in places.items():
        for scope in ("text",) if "silent" in words else ("text", "all"):
            prompt = build_prompt(model, CASES[-1])
            cost = measure(
                {
                    "ordinary": lambda prompt=prompt: model.generate(**prompt),
                    "family": lambda prompt=prompt, variants=variants, scope=scope: generate_family(
                        model, variants, prompt, query_scope=scope
                    ),
                },
                1,
            )
            print(f"{words}, queries={scope}: {cost['family'] / cost['ordinary']} times an ordinary run", flush=True)
    start = -(-2 * depth // 3)
    merged, pair = half_merged(model, start), [Variant("base"), Variant("merged", None, "merged")]
    for case in CASES[1:]:
        prompt = build_prompt(model, case)
        cost = measure(
            {
                "ordinary": lambda prompt=prompt: model.generate(**prompt),
                "pair": lambda prompt=prompt: generate_family(model, pair, prompt, weights=[merged]),
            },
            args.repeats,
        )
        print(
            f"base and merged from layer {start} on, {case.vision} vision tokens, {case.new} new: "
            f"{cost['pair'] / cost['ordinary']} times an ordinary run in FLOPs, wall, CPU",
            flush=True,
        )
    if args.gpu:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
