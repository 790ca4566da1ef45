"""What a recipe search costs: its recipes from one shared computation, against runs of their own and one ordinary run.

    OMP_NUM_THREADS=1 python benchmarks/recipe_search.py        # Qwen2.5-VL-7B with its widths divided by 16, fp32
    python benchmarks/recipe_search.py --shape qwen3_vl_8b      # Qwen3-VL-8B likewise
    python benchmarks/recipe_search.py --gpu                    # at its real size, bf16
    python benchmarks/recipe_search.py --memory                 # peak memory

A row is a prompt and a space, start at two thirds of the depth. `line` around it is the default space; from three start
layers it has 30 recipes. Merged weights are computed when they are needed, from a base LM on disk, as in use. A run of
its own is an ordinary run of the merged model, loading and merging left out. FLOPs are as `benchmarks/flops.py` says,
those of a recipe counted once for each start layer: recipes share nothing but what lies below it. Times are the best
of `--repeats` ordinary runs, and of one search; the CPU column is CPU seconds, which other work on the machine doesn't
touch. Weights are random, and all answers run to their full length.

Memory is what was held at most during the run beyond what was held before it: the model's weights are before it, keys,
values and work space of an ordinary run are in both. On the CPU it is the process's (Linux), each case in a process of
its own; on a GPU that of torch's tensors. `may` is an ordinary run's, the base LM's merged layers and the budget.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from family_engine import Cost, measure
from flops import count_flops
from shapes import CASES, Case, build_model, build_prompt, describe, save_base_lm, shape_arguments

from lmms_plam.config import MergeRecipe
from lmms_plam.merge import Checkpoint, Donors, Kept, lazy_layers
from lmms_plam.model import Variant, WeightSet, find_decoder, generate_family
from lmms_plam.search.space import expand

SPACES = {"line, 5 start layers": ("line", 2), "line, 3 start layers": ("line", 1), "grid": ("grid", 0)}
"""Spaces, and how many start layers to either side of two thirds of the depth each has."""


def plan(model: Any, base_lm: Checkpoint, name: str, budget: int) -> list[WeightSet]:
    """Return the weights of a space's recipes, none of them computed yet."""
    space, aside = SPACES[name]
    depth = find_decoder(model).depth
    start = -(-2 * depth // 3)
    found = expand(space, MergeRecipe(), range(start - aside, start + aside + 1), depth)
    recipes = {one.name: one.recipe for one in found}
    lazy = lazy_layers(model, base_lm, Donors(base_lm, model.device), recipes, {}, Kept(budget))
    return [WeightSet(name, layers, layers.keys_by_layer) for name, layers in lazy.items()]


def search(model: Any, prompt: dict[str, Any], sets: Sequence[WeightSet], budget: int) -> None:
    """Answer a prompt with the untouched VLM and all recipes."""
    variants = [Variant("base"), *(Variant(one.name, weights=one.name) for one in sets)]
    generate_family(model, variants, prompt, weights=sets, memory_budget=budget)


def search_flops(model: Any, prompt: dict[str, Any], sets: Sequence[WeightSet], budget: int) -> int:
    """Count what a search computes: the untouched VLM's answer, and what each recipe adds to it."""
    untouched = count_flops(lambda: search(model, prompt, [], budget))
    first = {one.start: one for one in sets}
    added = {
        start: count_flops(lambda one=one: search(model, prompt, [one], budget)) - untouched
        for start, one in first.items()
    }
    return untouched + sum(added[one.start] for one in sets)


def table(model: Any, base_lm: Checkpoint, spaces: Sequence[str], budget: int, repeats: int) -> None:
    """Print a row for each prompt and space."""
    print(f"{'':38}own runs / search      search / ordinary run")
    print(f"{'vision':>6} {'new':>4}  {'space':22}  {'FLOPs   wall    CPU':>20}   {'FLOPs   wall    CPU':>20}")
    for case in CASES:
        prompt = build_prompt(model, case)
        ordinary = measure({"": lambda prompt=prompt: model.generate(**prompt)}, repeats)[""]
        for name in spaces:
            sets = plan(model, base_lm, name, budget // 2)
            flops = search_flops(model, prompt, sets, budget // 2)
            wall, cpu = time.perf_counter(), time.process_time()
            search(model, prompt, sets, budget // 2)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            cost = Cost(flops, time.perf_counter() - wall, time.process_time() - cpu)
            runs = len(sets) + 1
            apart = Cost(ordinary.flops * runs, ordinary.wall * runs, ordinary.cpu * runs)
            print(
                f"{case.vision:6d} {case.new:4d}  {name:22}  {apart / cost}   {cost / ordinary}    "
                f"{len(sets)} recipes and the base; ordinary {ordinary.wall:.3f} s, search {cost.wall:.1f} s",
                flush=True,
            )


def start_peak(gpu: bool) -> int:
    """Forget earlier peaks, and return what is held now, in bytes."""
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak(gpu)


def peak(gpu: bool) -> int:
    """Return the most memory held since, in bytes."""
    if gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def measure_memory(model: Any, base_lm: Checkpoint, name: str, case: Case, budget: int, gpu: bool) -> dict[str, int]:
    """Return what a search took at most beyond the model, or an ordinary run where no space is named."""
    prompt = build_prompt(model, case)
    sets = plan(model, base_lm, name, budget // 2) if name else []
    merged = {key: tuple(base_lm.describe(key).shape) for one in sets for _, key in one.layers.reads()}
    before = start_peak(gpu)
    search(model, prompt, sets, budget // 2) if sets else model.generate(**prompt)
    layers = sum(torch.Size(shape).numel() for shape in merged.values()) * model.dtype.itemsize
    return {"took": peak(gpu) - before, "layers": layers}


def measure_apart(name: str, case: Case) -> dict[str, int]:
    """Return the same from a process of its own, since what a process held at most only rises."""
    command = [sys.executable, *sys.argv, "--one", name, "--case", str(CASES.index(case))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_table(spaces: Sequence[str], budget: float, measured: Callable[[str, Case], dict[str, int]]) -> None:
    """Print what each search took at most."""
    for case in CASES:
        ordinary = measured("", case)["took"]
        for name in spaces:
            told = measured(name, case)
            may = ordinary + told["layers"] + int(budget * 2**20)
            print(
                f"{case.vision:6d} vision tokens, {case.new} new, {name:22} took {told['took'] / 2**20:7.0f} MiB; may "
                f"{may / 2**20:7.0f} MiB: ordinary run {ordinary / 2**20:.0f}, base LM's layers "
                f"{told['layers'] / 2**20:.0f}, budget {budget:g}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape_arguments(parser, scale=16)
    parser.add_argument("--repeats", type=int, default=3, help="of ordinary runs")
    parser.add_argument("--budget", type=float, default=4096, metavar="MIB", help="beyond an ordinary run")
    parser.add_argument("--spaces", nargs="+", choices=tuple(SPACES), default=tuple(SPACES), metavar="SPACE")
    parser.add_argument("--memory", action="store_true", help="measure memory: on the CPU instead, on a GPU too")
    parser.add_argument("--one", metavar="SPACE", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gpu, budget = arguments.gpu, int(arguments.budget * 2**20)
    if arguments.memory and not gpu and arguments.one is None:
        memory_table(arguments.spaces, arguments.budget, measure_apart)
        return
    model = build_model(arguments)
    with TemporaryDirectory() as folder:
        save_base_lm(model, arguments, Path(folder))
        with Checkpoint(folder) as base_lm:

            def measured(name: str, case: Case) -> dict[str, int]:
                return measure_memory(model, base_lm, name, case, budget, gpu)

            if arguments.one is not None:
                print(json.dumps(measured(arguments.one, CASES[arguments.case])))
                return
            print(f"{describe(model, arguments)}, budget {arguments.budget:g} MiB", flush=True)
            if not arguments.memory or gpu:
                table(model, base_lm, arguments.spaces, budget, arguments.repeats)
            if arguments.memory:
                memory_table(arguments.spaces, arguments.budget, measured)


if __name__ == "__main__":
    main()
