"""Checkpoints as people have them: leftovers of earlier states, wrappers' prefixes, no head, quantised weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def copied(source: Path, target: Path) -> Path:
    """Copy a checkpoint's folder, its weights as one file however they were."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    write(target, {key: value for path in source.glob("*.safetensors") for key, value in load_file(path).items()})
    return target


def write(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Rewrite the weights of a folder."""
    write(folder, change(load_file(folder / "model.safetensors")))
    return folder


def edit_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file, made if missing."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def others(tensors: Tensors, seed: int = 5) -> Tensors:
    """Return other weights of the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator).to(value.dtype) for key, value in tensors.items()}


def write_shards(folder: Path, tensors: Tensors) -> list[Path]:
    """Write an index and two shards, whatever lies beside them; return the shards."""
    names = sorted(tensors)
    half = len(names) // 2
    files = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, keys in files.items():
        save_file({key: tensors[key] for key in keys}, folder / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in files.items() for key in keys}
    edit_json(folder / "model.safetensors.index.json", metadata={}, weight_map=weight_map)
    return [folder / file for file in files]


def stale_shards(source: Path, target: Path) -> Path:
    """A whole file beside the index and shards of an earlier state."""
    folder = copied(source, target)
    write_shards(folder, others(load_file(folder / "model.safetensors")))
    return folder


def index_without_shards(source: Path, target: Path) -> Path:
    """A whole file beside an index whose shards are gone."""
    folder = copied(source, target)
    for shard in write_shards(folder, load_file(folder / "model.safetensors")):
        shard.unlink()
    return folder


def prefixed(source: Path, target: Path, prefix: str = "base_model.model.") -> Path:
    """Saved from a wrapper around the model."""
    return edit(copied(source, target), lambda tensors: {f"{prefix}{key}": value for key, value in tensors.items()})


def without(source: Path, target: Path, suffix: str) -> Path:
    """Saved without some of its tensors."""
    return edit(copied(source, target), lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(suffix)})


def with_adapter(source: Path, target: Path) -> Path:
    """A LoRA adapter saved into the model's own folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    folder = copied(source, target)
    auto = AutoModelForImageTextToText if "vlm" in source.name else AutoModelForCausalLM
    model = get_peft_model(auto.from_pretrained(folder), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


def fp8(source: Path, target: Path) -> Path:
    """Block-wise FP8, as official releases store their decoder."""

    def quantise(tensors: Tensors, block: int = 8) -> Tensors:
        out = {}
        for key, value in tensors.items():
            if "language_model.layers" in key and key.endswith("proj.weight"):
                rows, columns = value.shape
                blocks = value.float().view(rows // block, block, columns // block, block)
                scale = blocks.abs().amax((1, 3)) / 448
                out[key] = (blocks / scale[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn)
                out[f"{key}_scale_inv"] = scale
            else:
                out[key] = value
        return out

    folder = edit(copied(source, target), quantise)
    method = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [8, 8]}
    edit_json(folder / "config.json", quantization_config={**method, "modules_to_not_convert": ["lm_head", "visual"]})
    return folder


def packed(source: Path, target: Path, method: str, *, declared: bool = True) -> Path:
    """The tensors that GPTQ, AWQ or bitsandbytes keep instead of weights."""
    parts = {
        "gptq": {"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16, "g_idx": torch.int32},
        "awq": {"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16},
        "bitsandbytes": {"weight": torch.uint8, "weight.absmax": torch.float32, "weight.quant_map": torch.float32},
    }[method]

    def quantise(tensors: Tensors) -> Tensors:
        out = {}
        for key, value in tensors.items():
            if "layers" in key and key.endswith("proj.weight"):
                out |= {
                    f"{key.removesuffix('weight')}{name}": torch.ones(8, dtype=dtype) for name, dtype in parts.items()
                }
            else:
                out[key] = value
        return out

    folder = edit(copied(source, target), quantise)
    if declared:
        edit_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    return folder
