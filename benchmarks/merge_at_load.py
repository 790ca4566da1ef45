"""Merge at load: bytes read, peak memory and time, on synthetic shards of a base LM of more than 4 GB.

Writes the shards (bfloat16, Qwen2 form, 28 layers of width 2048) into a temporary folder, which is deleted afterwards,
then measures in fresh processes, each with the shards dropped from the page cache and again with them in it:

* `merge`: PlaM's merge of q, k, v, o in the upper half of the layers, into a Qwen2.5-VL of which only these tensors are
  in memory (no others are touched);
* `load`: `from_pretrained` of the whole base LM, what a merge without exact reading would begin with.

Each is measured three times in turns and the fastest kept; CPU seconds stand beside wall seconds, for busy machines.

Linux only (/proc). Run: python benchmarks/merge_at_load.py [--folder DIR with 5 GB of space]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEPTH = 28
START = 14
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
SHARDS = 4
REPEATS = 3


def write_base_lm(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**SIZES, bos_token_id=None, eos_token_id=None)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    noise = torch.randn(max(shape.numel() for shape in shapes.values())).mul_(0.02).bfloat16()
    names = list(shapes)
    files = {
        name: f"model-{1 + i * SHARDS // len(names):05}-of-{SHARDS:05}.safetensors" for i, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        shard = {
            name: noise[: shapes[name].numel()].view(shapes[name]).clone() for name in names if files[name] == file
        }
        save_file(shard, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def drop_from_page_cache(folder: Path) -> None:
    os.sync()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def proc_field(file: str, field: str) -> int:
    """Return a number that the kernel gives for this process: bytes in io, kB in status."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def seconds_since(wall: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - wall, "CPU seconds": time.process_time() - cpu}


def measure_merge(folder: Path) -> dict[str, float]:
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    from lmms_plam.config import MergeRecipe
    from lmms_plam.merge import merge_into

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLConfig(text_config={**SIZES, "rms_norm_eps": 1e-6, "rope_parameters": rope})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    attentions = [layer.self_attn.to_empty(device="cpu") for layer in model.model.language_model.layers[START:]]
    for attention in attentions:
        for parameter in attention.parameters():
            torch.nn.init.constant_(parameter, 0.01)
    layer_bytes = sum(parameter.nbytes for parameter in attentions[0].parameters())
    nothing = MergeRecipe(start_layer=START, lambda_lm=0, lambda_vlm=1)
    merge_into(model, str(folder), nothing)  # loads the code, reads no weights

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    resident, calls, storage = proc_field("status", "VmRSS"), proc_field("io", "rchar"), proc_field("io", "read_bytes")
    begin = time.perf_counter(), time.process_time()
    report = merge_into(model, str(folder), MergeRecipe(start_layer=START))
    return {
        **seconds_since(*begin),
        "needed": (DEPTH - START) * layer_bytes,
        "read by the report": report.bytes_read,
        "read by system calls": proc_field("io", "rchar") - calls,
        "read from storage": proc_field("io", "read_bytes") - storage,
        "layer": layer_bytes,
        "peak": (proc_field("status", "VmHWM") - resident) * 1024,
    }


def measure_load(folder: Path) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    begin = time.perf_counter(), time.process_time()
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return seconds_since(*begin)


def measure(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def run(parent: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        write_base_lm(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        print(f"base LM of {size / 1e9:.2f} GB in {SHARDS} shards")
        for cache in ("cold", "warm"):
            runs: dict[str, list[dict[str, float]]] = {"merge": [], "load": []}
            for what in ("merge", "load") * REPEATS:
                if cache == "cold":
                    drop_from_page_cache(folder)
                runs[what].append(measure(what, folder))
            merge, load = (min(runs[what], key=lambda run: run["seconds"]) for what in ("merge", "load"))
            print(f"{cache} page cache")
            print(f"  needed {merge['needed'] / 1e6:.1f} MB; read, as a ratio of that:")
            for counter in ("read by the report", "read by system calls", "read from storage"):
                print(f"    {counter}: {merge[counter] / 1e6:.1f} MB, {merge[counter] / merge['needed']:.3f}")
            print(
                f"  peak memory above the loaded VLM {merge['peak'] / 1e6:.1f} MB, "
                f"{merge['peak'] / merge['layer']:.2f} of the largest merged layer's {merge['layer'] / 1e6:.1f} MB"
            )
            for unit in ("seconds", "CPU seconds"):
                print(
                    f"  {unit}: merge {merge[unit]:.2f}, loading the whole base LM {load[unit]:.2f}, "
                    f"{load[unit] / merge[unit]:.1f} times as many"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the temporary shards go; by default the system's temporary folder")
    parser.add_argument("--measure", choices=["merge", "load"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured = {"merge": measure_merge, "load": measure_load}[arguments.measure](Path(arguments.folder))
        print(json.dumps(measured))
    else:
        run(arguments.folder)
