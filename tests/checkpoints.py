"""Tiny random checkpoints in the released layout: a VLM of every shipped family with its processor, and its base LM.

Folders look to their readers as the released ones do: config.json, key names on disk, dtype, tied or untied head, spare
vocabulary rows, one file or shards, pickles for Vicuna. Weights are seeded and spread so that answers depend on the
prompt and its images.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tiny_configs import LAYERS, WORDS, lm_config, vlm_config
from tiny_processors import tiny_processor, tiny_tokenizer
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

_SEED = 1  # one under which the answers of all families differ between questions and between images

Layout = Literal["single", "sharded", "pickled"]


@dataclass(frozen=True, slots=True)
class Family:
    """What a family adds to its config: the backend that runs it, its base LM, how its keys are called on disk."""

    backend: str
    lm: str
    lm_layout: Layout
    on_disk: tuple[tuple[str, str], ...]
    backend_args: dict[str, int] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)


_QWEN_KEYS = ((r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model."))
_LLAVA_KEYS = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
    (r"^model\.", ""),
)
_INTERNVL_KEYS = (*_LLAVA_KEYS[:2], (r"^model\.", ""))
_FEW_PIXELS = {"min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28}
_QWEN_GENERATION = {"do_sample": True, "temperature": 1e-6}

_FAMILIES = {
    "qwen2_vl": Family("qwen2_vl", "qwen2", "sharded", _QWEN_KEYS, _FEW_PIXELS, _QWEN_GENERATION),
    "qwen2_5_vl": Family(
        "qwen2_5_vl", "qwen2", "single", _QWEN_KEYS, _FEW_PIXELS, {**_QWEN_GENERATION, "repetition_penalty": 1.05}
    ),
    "qwen3_vl": Family("qwen3_vl", "qwen3", "sharded", (), {"min_pixels": 4 * 32 * 32, "max_pixels": 16 * 32 * 32}),
    "llava": Family("llava_hf", "llama", "pickled", _LLAVA_KEYS),
    "llava_onevision": Family("llava_hf", "qwen2", "sharded", _LLAVA_KEYS),
    "internvl": Family("internvl_hf", "qwen2", "single", _INTERNVL_KEYS, {"max_patches": 2}),
}
FAMILIES = tuple(_FAMILIES)
"""The shipped families, by their config's `model_type`."""


@dataclass(frozen=True, slots=True)
class TinyPair:
    """A VLM and its base LM as folders.

    Attributes:
        family: the VLM's `model_type`.
        backend: lmms-eval's model type that runs it.
        vlm: its folder, with processor.
        base_lm: the base LM's folder, with tokenizer.
        backend_args: arguments of the backend under which an image becomes few tokens; without them it works too.
    """

    family: str
    backend: str
    vlm: Path
    base_lm: Path
    backend_args: dict[str, int]


def build_pair(family: str, folder: Path) -> TinyPair:
    """Write a family's VLM and base LM below the folder."""
    traits = _FAMILIES[family]
    vlm, base_lm = folder / "vlm", folder / "base_lm"
    build_vlm(family, vlm)
    build_base_lm(traits.lm, base_lm, traits.lm_layout)
    return TinyPair(family, traits.backend, vlm, base_lm, dict(traits.backend_args))


def build_vlm(family: str, folder: Path) -> None:
    """Write a VLM: config, weights in one file under the released names, processor."""
    traits = _FAMILIES[family]
    content = vlm_config(family, tiny_tokenizer(family).convert_tokens_to_ids)
    _write_config(folder, content, {"pad_token_id": tiny_tokenizer(family).pad_token_id} | traits.generation)
    tiny_processor(family).save_pretrained(folder)
    model = _random_model(AutoModelForImageTextToText, AutoConfig.from_pretrained(folder), seed=family)
    save_weights(_weights(model, _dtype(content), traits.on_disk), folder)


def build_base_lm(kind: str, folder: Path, layout: Layout = "single") -> None:
    """Write a base LM, "qwen2", "qwen3" or "llama": config, weights, tokenizer."""
    content = lm_config(kind)
    _write_config(folder, content)
    tiny_tokenizer(kind).save_pretrained(folder)
    model = _random_model(AutoModelForCausalLM, AutoConfig.from_pretrained(folder), seed=f"base {kind}")
    save_weights(_weights(model, _dtype(content)), folder, layout)


def tiny_model(family: str, layers: int = LAYERS, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build a random VLM in memory, for code that takes models and not files; "gemma3" is known besides `FAMILIES`."""
    content = vlm_config(family, tiny_tokenizer(family).convert_tokens_to_ids, layers)
    config = AutoConfig.for_model(**content)
    return _random_model(AutoModelForImageTextToText, config, seed=family).to(dtype).eval()


def save_weights(tensors: dict[str, Tensor], folder: Path, layout: Layout = "single", shards: int = 3) -> None:
    """Write tensors as one safetensors file, as safetensors shards, or as pickled shards, with their index.

    Shards are filled in the tensors' order to equal sizes, so that a layer may straddle two.
    """
    if layout == "single":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    stem, suffix = ("model", "safetensors") if layout == "sharded" else ("pytorch_model", "bin")
    index: dict[str, str] = {}
    for number, part in enumerate(_parts(tensors, shards), start=1):
        name = f"{stem}-{number:05d}-of-{shards:05d}.{suffix}"
        index |= dict.fromkeys(part, name)
        if layout == "sharded":
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(content, indent=2))


def _parts(tensors: dict[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    total = sum(tensor.nbytes for tensor in tensors.values())
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    done = 0
    for name, tensor in tensors.items():
        parts[done * count // total][name] = tensor
        done += tensor.nbytes
    yield from parts


def _write_config(folder: Path, content: dict[str, Any], generation: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content, indent=2))
    tokens = {name: content[name] for name in ("bos_token_id", "eos_token_id") if name in content}
    (folder / "generation_config.json").write_text(json.dumps(tokens | (generation or {}), indent=2))


def _dtype(content: dict[str, Any]) -> torch.dtype:
    return getattr(torch, content.get("torch_dtype", "bfloat16"))


def _weights(
    model: PreTrainedModel, dtype: torch.dtype, on_disk: tuple[tuple[str, str], ...] = ()
) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for pattern, replacement in on_disk:
            if re.search(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        tensors[name] = tensor.to(dtype).contiguous()
    return tensors


def _random_model(kind: Any, config: PretrainedConfig, seed: str) -> PreTrainedModel:
    model = kind.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()) + _SEED)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(_random(name, parameter.shape, generator))
    head, end = model.get_output_embeddings().weight.data, config.get_text_config().eos_token_id
    head[max(WORDS, end + 1) :] = 0  # image placeholders and spare rows are never said
    head[end] *= 3  # so that answers end at different lengths
    return model


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return noise * 0.3
    if len(shape) == 1:
        return 1 + 0.1 * noise  # scales of norms
    if "embed_tokens" in name:
        loudness = torch.randn(shape[0], 1, generator=generator).mul(0.3).exp()
        return 0.1 * noise * loudness  # small beside what layers add, else a tied head repeats the last token
    if "position" in name:
        return noise
    if "lm_head" in name:  # some tokens louder than others: near-ties, which rounding decides, become rare
        noise = noise * torch.randn(shape[0], 1, generator=generator).mul(0.3).exp()
    fan_in = shape[1:].numel()
    gain = 2 if "q_proj" in name else 1  # attention that attends to something
    return noise * gain * fan_in**-0.5
