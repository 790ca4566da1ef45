"""What the benchmarks count as FLOPs, against counts by hand, in every kind of attention call."""

from __future__ import annotations

import pytest
import torch
from flops import count_flops
from torch.nn.functional import linear, scaled_dot_product_attention

HEADS, QUERIES, KEYS, WIDTH = 4, 5, 7, 8
ATTENTION = 2 * HEADS * QUERIES * KEYS * WIDTH + 2 * HEADS * QUERIES * KEYS * WIDTH


def states(heads, length):
    return torch.randn(2, heads, length, WIDTH)


@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"is_causal": True},
        {"attn_mask": torch.ones(1, 1, QUERIES, KEYS, dtype=torch.bool)},
        {"attn_mask": torch.zeros(2, 1, QUERIES, KEYS)},
    ],
    ids=["none", "causal", "boolean", "additive"],
)
def test_attention_is_two_products_in_full(key_heads, mask):
    query, key, value = states(HEADS, QUERIES), states(key_heads, KEYS), states(key_heads, KEYS)
    shared = key_heads < HEADS
    with torch.no_grad():
        counted = count_flops(lambda: scaled_dot_product_attention(query, key, value, enable_gqa=shared, **mask))
    assert counted == 2 * ATTENTION, "two prompts"


def test_a_projection_is_two_flops_for_each_of_its_multiply_adds():
    assert count_flops(lambda: linear(torch.randn(3, 5), torch.randn(7, 5), torch.randn(7))) == 2 * 3 * 5 * 7


def test_a_decoder_layer_is_its_projections_and_its_attention():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    width, heads, key_heads, inner, length = 12, 3, 1, 20, 6
    config = Qwen2Config(
        vocab_size=30,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )
    layer = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").eval().model.layers[0]
    one_head = width // heads
    weights = width * (heads + 2 * key_heads + heads) * one_head + 3 * width * inner
    attention = 2 * heads * length * length * one_head
    rotary = torch.ones(1, length, one_head), torch.zeros(1, length, one_head)
    with torch.no_grad():
        counted = count_flops(lambda: layer(torch.randn(1, length, width), position_embeddings=rotary))
    assert counted == 2 * (length * weights + attention)
