"""`plam merge` on a synthetic Qwen2.5-VL of more than 4 GB in two shards, against three other ways to such a folder.

Writes two checkpoints under the released key names (bfloat16, random weights) into a temporary folder, which is deleted
afterwards: the VLM, and one of the same form whose decoder serves as the base LM. Then each in a fresh process:

* `cp`: `cp -r` of the VLM, what no export can be faster than;
* `plam`: `plam merge`, all layers' q, k, v, o;
* `load and save`: from_pretrained of the VLM, the same merge in memory, save_pretrained;
* `mergekit`: `mergekit-yaml`, linear over the same tensors; it takes VLMs on both sides. Left out without --mergekit.

All are measured in turns and the fastest of each kept, CPU seconds beside, for busy machines. Memory is the process's
peak, and for `plam` also what it takes beyond the code that it has loaded: torch's alone is half a gigabyte. The other
outputs are compared with `plam`'s.

Linux only (/proc). Run: python benchmarks/export.py [--folder DIR] [--mergekit PATH/OF/mergekit-yaml]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARDS = 2
TEXT = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
ROPE = {"type": "mrope", "mrope_section": [16, 24, 24]}
VISION = {"depth": 2, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}


def write_checkpoint(folder: Path, layers: int, seed: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    folder.mkdir()
    content = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "bfloat16",
        "num_hidden_layers": layers,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_scaling": ROPE,
        "vision_config": VISION,
        **TEXT,
    }
    (folder / "config.json").write_text(json.dumps(content))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(**content), dtype=torch.bfloat16)
    shapes = {_released(name): parameter.shape for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    total = sum(shape.numel() for shape in shapes.values())
    shards: list[list[str]] = [[] for _ in range(SHARDS)]
    done = 0
    for name, shape in shapes.items():
        shards[done * SHARDS // total].append(name)
        done += shape.numel()
    index = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        tensors = {name: torch.randn(shapes[name], generator=generator).mul_(0.02).bfloat16() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    listed = {"metadata": {"total_size": 2 * total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    _write_tokenizer(folder)


def _released(name: str) -> str:
    for new, old in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _write_tokenizer(folder: Path) -> None:
    """What every checkpoint has, and mergekit asks for."""
    from lmms_plam.paths import PACKAGE

    for path in (PACKAGE / "digits" / "vlm").glob("*.json*"):
        if path.name != "config.json":
            shutil.copy(path, folder)


def mergekit_recipe(vlm: Path, base: Path) -> str:
    lines = ["merge_method: linear", "dtype: bfloat16", "models:"]
    for path, share in ((vlm, 0.5), (base, 0.5)):
        other = 1.0 if path == vlm else 0.0
        lines += [
            f"  - model: {path}",
            "    parameters:",
            "      weight:",
            f"        - filter: self_attn\n          value: {share}",
        ]
        lines += [f"        - value: {other}"]
    return "\n".join([*lines, "parameters:", "  normalize: false", ""])


def peak() -> int:
    """Return this process's peak of resident memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def plam(vlm: Path, base: Path, out: Path) -> dict[str, float]:
    """Run the command; what its code takes is what is resident when a plan of digits has been made."""
    import contextlib
    import io

    from lmms_plam.cli import main

    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        main(["merge", "config=digits", "--out", str(out.with_name("look")), "--dry-run"])
        code = resident()
        loaded = time.perf_counter() - begin
        arguments = [f"vlm={vlm}", f"base_lm={base}", "merge.start_layer=0"]
        if main(["merge", "config=digits", *arguments, "--out", str(out)]):
            raise SystemExit("plam merge failed")
    return {"peak": peak(), "beyond its code": peak() - code, "of it, loading code": loaded}


def load_and_save(vlm: Path, base: Path, out: Path) -> dict[str, float]:
    import torch
    from transformers import AutoModelForImageTextToText

    from lmms_plam.config import MergeRecipe
    from lmms_plam.merge import merge_into

    model = AutoModelForImageTextToText.from_pretrained(vlm, dtype=torch.bfloat16)
    merge_into(model, str(base), MergeRecipe(start_layer=0))
    model.save_pretrained(out, max_shard_size="2GB")
    return {"peak": peak()}


def measured(command: list[str], variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a process to its end: seconds, CPU seconds, peak memory as the kernel counts it, and what it prints last."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    lines = [line for line in output.splitlines() if line.startswith("{")]
    told = {"seconds": seconds, "CPU seconds": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    return told | (json.loads(lines[-1]) if lines else {})


def differing(ours: Path, theirs: Path) -> tuple[int, int]:
    """Return how many tensors of two folders differ, of how many, by parameter and not by file."""
    import torch
    from safetensors import safe_open

    def opened(folder: Path) -> dict[str, Any]:
        files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        return {_released(key): (file, key) for file in files for key in file.keys()}  # noqa: SIM118

    left, right = opened(ours), opened(theirs)
    missing = left.keys() ^ right.keys()
    unequal = [
        key
        for key in left.keys() & right.keys()
        if not torch.equal(*(file.get_tensor(name) for file, name in (left[key], right[key])))
    ]
    return len(missing) + len(unequal), len(left)


def run(parent: str | None, layers: int, repeats: int, mergekit: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        vlm, base = folder / "vlm", folder / "base"
        for seed, path in enumerate((vlm, base)):
            command = [
                sys.executable,
                __file__,
                "--do",
                "write",
                str(path),
                "--layers",
                str(layers),
                "--seed",
                str(seed),
            ]
            subprocess.run(command, check=True)
        size = sum(path.stat().st_size for path in vlm.iterdir())
        print(f"VLM of {size / 1e9:.2f} GB in {SHARDS} shards, {layers} decoder layers", flush=True)
        recipe = folder / "recipe.yml"
        recipe.write_text(mergekit_recipe(vlm, base))
        ours = [sys.executable, __file__, "--do"]
        ways: dict[str, list[str]] = {
            "cp": ["cp", "-r", str(vlm), str(folder / "cp")],
            "plam": [*ours, "plam", str(vlm), str(base), str(folder / "plam")],
            "load and save": [*ours, "load", str(vlm), str(base), str(folder / "load and save")],
        }
        if mergekit:
            ways["mergekit"] = [mergekit, str(recipe), str(folder / "mergekit")]
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for turn in range(repeats):
            for way, command in ways.items():
                out = folder / way
                shutil.rmtree(out, ignore_errors=True)
                os.sync()  # what another has written is not written back on this one's time
                found[way].append(measured(command))
                seconds = found[way][-1]["seconds"]
                print(f"  turn {turn + 1}, {way}: {seconds:.2f} s", file=sys.stderr, flush=True)
                if turn == 0 and way not in ("cp", "plam"):
                    command = [*ours, "compare", str(folder / "plam"), str(out)]
                    differ, of = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                    shards = len(list(out.glob("*.safetensors")))
                    print(f"{way}: {differ} of {of} tensors differ from plam's; {shards} shards", flush=True)
                if way == "plam":
                    merged = json.loads((out / "plam.json").read_text())["merged"]
                if turn > 0 or way != "plam":
                    shutil.rmtree(out)
            shutil.rmtree(folder / "plam", ignore_errors=True)
        best = {way: min(runs, key=lambda one: one["seconds"]) for way, runs in found.items()}
        print(f"{len(merged)} tensors merged")
        for way, one in best.items():
            of_cp, of_plam = (one["seconds"] / best[other]["seconds"] for other in ("cp", "plam"))
            print(
                f"{way}: {one['seconds']:.2f} s ({one['CPU seconds']:.2f} of the CPU), {of_cp:.2f} times cp's, "
                f"{of_plam:.2f} times plam's; peak memory {one['peak'] / 1e6:,.0f} MB, {one['peak'] / size:.1%} of "
                "the checkpoint"
            )
        plams = best["plam"]
        print(
            f"plam beyond its code: {plams['beyond its code'] / 1e6:,.0f} MB, {plams['beyond its code'] / size:.1%}; "
            f"{plams['of it, loading code']:.2f} s of its time go to loading code"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the temporary folder goes, with room for four checkpoints")
    parser.add_argument("--layers", type=int, default=28, help="decoder layers, 0.155 GB each (28)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (3)")
    parser.add_argument("--mergekit", help="path of mergekit-yaml, in an environment of its own")
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do is None:
        run(arguments.folder, arguments.layers, arguments.repeats, arguments.mergekit)
    else:
        what, *paths = arguments.do
        if what == "write":
            write_checkpoint(Path(paths[0]), arguments.layers, arguments.seed)
        else:
            print(json.dumps({"plam": plam, "load": load_and_save, "compare": differing}[what](*map(Path, paths))))
