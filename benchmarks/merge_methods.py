"""Merge methods: peak memory and time, a tensor at a time from three files, as an export computes them.

Writes a base LM, a VLM and an ancestor (bfloat16, 12 tensors of 4096 x 4096 each, 0.4 GB a model) and a Fisher file to
a temporary folder, which is deleted afterwards. Each method runs in a fresh process that reads a VLM's tensor whole,
computes the merged one, and drops both. Memory is what the process has at its highest, less what it has once everything
is imported and one small tensor was merged, in multiples of one tensor.

Linux only (/proc). Run: python benchmarks/merge_methods.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TENSORS = 12
SIDE = 4096
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "fisher")


def write_models(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from lmms_plam.merge.information import write_fisher

    def noise(seed: int, scale: float) -> torch.Tensor:
        return torch.randn((SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).mul_(scale)

    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(TENSORS)]
    common = noise(0, 0.02)
    for seed, model in enumerate(("ancestor", "lm", "vlm"), start=1):
        own = (common + noise(seed, 0.002)).bfloat16()
        (folder / model).mkdir()
        (folder / model / "config.json").write_text("{}")
        save_file({name: own.clone() for name in names}, folder / model / "model.safetensors")
    information = noise(9, 1e-3).square()
    tails = [name.removeprefix("model.") for name in names]
    keys = [f"{whose}.{tail}" for whose in ("vlm", "base_lm") for tail in tails]
    write_fisher(folder / "fisher.safetensors", {key: information.clone() for key in keys}, {})


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(folder: Path, method: str) -> dict[str, float]:
    """Merge all tensors by one method, in this process."""
    import torch

    from lmms_plam.merge import Checkpoint, Coefficients, Further, MergedTensor, Way
    from lmms_plam.merge.apply import merge_tensor
    from lmms_plam.merge.information import FisherFile

    has_ancestor = method not in ("linear", "slerp", "fisher")
    density = 0.5 if method.startswith(("ties", "dare")) else 1
    way = Way(method, density, 0, str(folder / "ancestor") if has_ancestor else None)
    vlm, lm = Checkpoint(str(folder / "vlm")), Checkpoint(str(folder / "lm"))
    ancestor = Checkpoint(str(folder / "ancestor")) if has_ancestor else None
    fisher = FisherFile(str(folder / "fisher.safetensors")) if method == "fisher" else None

    def merge(key: str, rows: int) -> torch.Tensor:
        tail = key.removeprefix("model.")
        information = (f"vlm.{tail}", f"base_lm.{tail}") if fisher else ()
        before = key if has_ancestor else None
        tensor = MergedTensor(key, key, Coefficients(0.5, 0.5), ((0, rows),), way, before, information)
        return merge_tensor(vlm.rows(key, 0, rows), lm, tensor, Further(ancestor, fisher))

    merge(next(iter(vlm.files)), 8)
    start, began = memory("VmRSS"), time.perf_counter()
    for key in vlm.files:
        merge(key, SIDE)
    seconds = time.perf_counter() - began
    return {"times a tensor": (memory("VmHWM") - start) / (SIDE * SIDE * 2), "seconds": seconds}


def main() -> None:
    """Print a line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one[0]), arguments.one[1])))
        return
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place))
        for method in METHODS:
            command = [sys.executable, __file__, "--one", place, method]
            found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            print(
                f"{method:16} peak {found['times a tensor']:.2f} times a tensor, {found['seconds']:.1f} s for "
                f"{TENSORS} tensors of {SIDE * SIDE * 2 / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
