"""Small and nasty files of others: each ends in one sentence, or does no harm; none in a traceback."""

from __future__ import annotations

import json
import struct

import pytest
from test_harness_model import plam
from test_merge_apply import qwen_lm, qwen_vlm, recipe

from lmms_plam.config import load_config
from lmms_plam.errors import PlamError
from lmms_plam.merge import Checkpoint, check_probed, merge_into, resolve_start_layer

TEXTS = [
    b"",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{",
    b"{}",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"\x00" * 64,
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"1" * 5_000,
    b"NaN",
]
"""What no JSON file of a model holds."""

KEY = "model.layers.3.self_attn.q_proj.weight"


def entry(dtype="BF16", shape=(16, 16), data_offsets=(0, 512)):
    return {KEY: {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}


CONFIG_FIELDS = [
    *({"model_type": value} for value in (None, 3, [], {}, "", "no_such_family", "qwen2_5_vl", "clip", "mamba")),
    *({"num_hidden_layers": value} for value in (None, -1, 0, "4", 4.5, [4], 10**30)),
    *({"hidden_size": value} for value in (None, 0, "wide", {}, 1e400)),
    *({"num_attention_heads": value} for value in (0, None, "two", [])),
    *({"num_key_value_heads": value} for value in (0, -2, "x", {})),
    *({"head_dim": value} for value in (0, "x", [])),
    *({"rope_scaling": value} for value in (3, "x", [], {"rope_type": 3}, {"rope_type": "none such"}, {"a": {}})),
    *({"rope_parameters": value} for value in (3, [], {"rope_type": {}})),
    *({"rope_theta": value} for value in ("x", [], {})),
    *({"sliding_window": value} for value in ("x", -1, {})),
    *({"quantization_config": value} for value in ("x", [3], {}, {"quant_method": []})),
    *({"tie_word_embeddings": value} for value in ("x", [], 2)),
    *({"text_config": value} for value in (3, [], {}, {"num_hidden_layers": 1}, "x")),
    *({"llm_config": value} for value in (3, [], {}, "x")),
    *({"transformers_weights": value} for value in (3, "", "no.safetensors", "../lm/model.safetensors", "config.json")),
    *({"layer_types": value} for value in (3, [3], ["none such"] * 4)),
]

INDEXES = [
    *({"weight_map": value} for value in (None, 3, "x", [], ["model.safetensors"], {"lm_head.weight": 3})),
    *({"weight_map": {KEY: value}} for value in (None, [], {}, 3, "", ".", "..", "config.json", "x" * 300)),
    *({"weight_map": {key: "lm.safetensors"}} for key in ("", "model.layers.99.mlp", "layers." * 500, "\x00")),
    {"weight_map": {}},
]

HEADERS = [
    *({KEY: value} for value in (None, 3, [], "x", {})),
    *(entry(dtype=value) for value in (None, 3, "", "BF17", "F8_E4M3")),
    *(entry(shape=value) for value in (None, 16, [], [256], ["16", 16], [-16, -16], [1e2, 2.56], [True], [10**40, 16])),
    *(
        entry(data_offsets=value)
        for value in (None, [], [0], [0, 1, 2], [512, 0], [-512, 0], ["0", "512"], [0, 10**40])
    ),
    {"__metadata__": 3},
    {"__metadata__": {"format": 3}},
]

NO_WEIGHTS = [b"", b"1234567", b"\xff" * 8, b"\xff" * 100, struct.pack("<Q", 2**63), b"PK\x03\x04"]

VLM_CONFIGS = [{"model_type": 3}, {"model_type": "qwen2_5_vl", "text_config": 3}]

PATHS = ["no/such/plateau.json", "~nobody-of-that-name/plateau.json", "\x00", "x" * 300, "/"]

PLATEAUS = [
    *({"onset": value} for value in (None, True, 1.5, "3", [], {}, -1, 99, 10**30)),
    {"onset": None, "verdict": {}},
    {"onset": None, "verdict": None},
    *({"onset": 2, "fingerprint": value} for value in (3, [], {"weights": []}, {"weights": {}}, {"weights": 3})),
]


def survives(ask, *arguments):
    """Run something that may refuse, in one sentence."""
    try:
        ask(*arguments)
    except PlamError as error:
        told = str(error)
        assert "\n" not in told
        assert 10 < len(told) < 900
        return told
    return None


def name(value):
    return json.dumps(value)[:60] if isinstance(value, dict) else repr(value[:20])


@pytest.fixture
def lm(tmp_path):
    qwen_lm(tmp_path)
    return tmp_path


def merge(folder, **fields):
    merge_into(qwen_vlm(), str(folder), recipe(start_layer=3, **fields))


@pytest.mark.parametrize("content", [*TEXTS, *CONFIG_FIELDS], ids=name)
def test_a_config_of_a_base_lm(lm, content):
    path = lm / "config.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content}).encode()
    path.write_bytes(content)
    survives(merge, lm)


@pytest.mark.parametrize("content", [*TEXTS, *INDEXES], ids=name)
def test_an_index_of_shards(lm, content):
    (lm / "model.safetensors").rename(lm / "lm.safetensors")
    octets = json.dumps(content).encode() if isinstance(content, dict) else content
    (lm / "model.safetensors.index.json").write_bytes(octets)
    assert survives(merge, lm)


@pytest.mark.parametrize("content", [*TEXTS, *HEADERS], ids=name)
def test_the_header_of_a_safetensors_file(lm, content):
    octets = json.dumps(content).encode() if isinstance(content, dict) else content
    (lm / "model.safetensors").write_bytes(struct.pack("<Q", len(octets)) + octets + b"\x00" * 512)
    assert survives(merge, lm)


@pytest.mark.parametrize("content", NO_WEIGHTS)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_none(lm, file, content):
    (lm / "model.safetensors").unlink()
    (lm / file).write_bytes(content)
    assert survives(merge, lm)


@pytest.mark.parametrize("content", [*TEXTS, *PLATEAUS], ids=name)
def test_a_plateau(tmp_path, content):
    path = tmp_path / "plateau.json"
    path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    told = [survives(resolve_start_layer, str(path), 4), survives(check_probed, recipe(start_layer=str(path)), "abc")]
    assert any(told)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_none(path):
    for ask in (lambda: resolve_start_layer(path, 4), lambda: load_config(path)):
        assert survives(ask)
    assert survives(lambda: Checkpoint(path).config) or path == "/"


@pytest.mark.parametrize("content", [*TEXTS[:9], *VLM_CONFIGS], ids=name)
def test_a_config_of_a_vlm(pairs, tmp_path, content):
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    (vlm / "config.json").write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    assert survives(lambda: plam(pairs["qwen2_5_vl"], tmp_path, vlm=str(vlm)))
