"""Merges of every shipped family, bit for bit against plain numpy on the files' bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from lmms_plam.config import MergeRecipe
from lmms_plam.merge import merge_into

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder as float32, which holds 16-bit floats exactly; no code of the package takes part."""
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        data = 8 + int.from_bytes(content[:8], "little")
        for key, entry in json.loads(content[8:data]).items():
            if key != "__metadata__":
                begin, end = (data + offset for offset in entry["data_offsets"])
                tensors[key] = from_bits(content[begin:end], entry["dtype"]).reshape(entry["shape"])
    for path in sorted(folder.glob("*.bin")):
        tensors |= {key: value.float().numpy() for key, value in torch.load(path, weights_only=True).items()}
    return tensors


def from_bits(content: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, {"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)


def to_bits(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Round float32 to the 16 bits of a dtype, to nearest, ties to even."""
    if dtype == torch.float16:
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def stored_bits(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().contiguous().view(torch.uint16).numpy()


def in_file(tensors: dict[str, np.ndarray], tail: str) -> np.ndarray:
    """The one decoder tensor whose key ends so, whatever stands before it."""
    keys = [key for key in tensors if f".{key}".endswith(f".{tail}") and "vis" not in key and "projector" not in key]
    if tail == "lm_head.weight" and not keys:  # tied
        return in_file(tensors, "embed_tokens.weight")
    (key,) = keys
    return tensors[key]


def decoder_tail(name: str) -> str | None:
    """`layers.3.self_attn.q_proj.weight` from the name of a parameter in memory, None outside the decoder."""
    return name if name == "lm_head.weight" else name.partition("language_model.")[2] or None


def layer_of(tail: str, depth: int) -> int:
    if tail.startswith("layers."):
        return int(tail.split(".")[1])
    return 0 if tail == "embed_tokens.weight" else depth - 1


def load(pair) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(pair.vlm, dtype="auto")


def check(pair, recipe: dict, coefficients) -> None:
    """Merge and compare every parameter; `coefficients` gives (lambda_lm, lambda_vlm) by layer and tail, or None."""
    model = load(pair)
    depth = model.config.get_text_config().num_hidden_layers
    before = {name: stored_bits(parameter).copy() for name, parameter in model.named_parameters()}
    lm, vlm = read_folder(pair.base_lm), read_folder(pair.vlm)
    report = merge_into(model, str(pair.base_lm), MergeRecipe.model_validate(recipe))
    merged = set()
    for name, parameter in model.named_parameters():
        tail = decoder_tail(name)
        expected = before[name].copy()
        if tail and (lambdas := coefficients(layer_of(tail, depth), depth, tail)):
            merged.add(name)
            a, b = (np.float32(value) for value in lambdas)
            w_lm, w_vlm = in_file(lm, tail), in_file(vlm, tail)
            rows = min(len(w_lm), len(w_vlm))
            scaled = b * w_vlm[:rows]
            expected[:rows] = to_bits(a * w_lm[:rows] + scaled if a else scaled, parameter.dtype)  # 0 + -0.0 is 0.0
        assert np.array_equal(stored_bits(parameter), expected), name
    assert merged
    assert {tensor.name for tensor in report.merged} == merged


def test_one_zero_over_all_layers_gives_the_base_lms_attention_exactly(pair):
    model = load(pair)
    lm = read_folder(pair.base_lm)
    merge_into(model, str(pair.base_lm), MergeRecipe(start_layer=0, lambda_lm=1, lambda_vlm=0))
    compared = 0
    for name, parameter in model.named_parameters():
        tail = decoder_tail(name)
        if tail and any(module in tail for module in ATTENTION):
            values = parameter.detach().float().numpy()
            assert np.array_equal(values.view(np.uint32), in_file(lm, tail).view(np.uint32)), name
            compared += 1
    assert compared >= 4 * model.config.get_text_config().num_hidden_layers


def test_zero_one_changes_no_bit_of_the_model(pair):
    model = load(pair)
    before = {name: stored_bits(parameter).copy() for name, parameter in model.named_parameters()}
    recipe = {"modules": "all", "qk_norms": True, "start_layer": 0, "lambda_lm": 0, "lambda_vlm": 1}
    report = merge_into(model, str(pair.base_lm), MergeRecipe.model_validate(recipe))
    assert len(report.merged) == sum(decoder_tail(name) is not None for name in before)
    for name, parameter in model.named_parameters():
        assert np.array_equal(stored_bits(parameter), before[name]), name


def test_plams_recipe_gives_what_numpy_gives_on_the_files(pair):
    def late_attention(layer, depth, tail):
        return (0.4, 0.7) if layer >= 2 and any(module in tail for module in ATTENTION) else None

    check(pair, {"start_layer": 2, "lambda_lm": 0.4, "lambda_vlm": 0.7}, late_attention)


def test_a_scheduled_merge_of_the_whole_decoder_gives_what_numpy_gives_on_the_files(pair):
    def grown(layer, depth, tail):
        if "q_norm" in tail or "k_norm" in tail:
            return None
        r = math.log(1 + layer) / math.log(depth)
        a = 0.6 * r / (0.6 * r + 0.4)
        return a, 1 - a

    recipe = {"modules": "all", "start_layer": 0, "schedule": "loglinear", "lambda_lm": 0.6, "lambda_vlm": 0.4}
    check(pair, recipe, grown)


def test_layer_norms_are_the_norms_but_the_final_one(pair):
    merged = [
        {tensor.name for tensor in merge_into(load(pair), str(pair.base_lm), MergeRecipe(modules=modules)).merged}
        for modules in ("norms", "layer_norms")
    ]
    assert {decoder_tail(name) for name in merged[0] - merged[1]} == {"norm.weight"}
    assert merged[1] < merged[0]


def test_the_shipped_families_warn_of_nothing_that_is_not_there(pair):
    report = merge_into(load(pair), str(pair.base_lm), MergeRecipe(start_layer=0))
    expected = {"internvl": {"rope_parameters.rope_type", "rope_parameters.factor"}}.get(pair.family, set())
    assert {warning.split(" differs")[0] for warning in report.warnings} == expected
