"""Which tensor a name stands for, in the released key names of every shipped family."""

from __future__ import annotations

import pytest

from lmms_plam.errors import UnsupportedError
from lmms_plam.merge.names import DecoderTensor, decoder_tensors, parse_name

DECODER_PREFIXES = {
    "model.layers.": "Qwen2, Llama and Vicuna; released Qwen2-VL and Qwen2.5-VL",
    "layers.": "a base model saved without its head",
    "model.language_model.layers.": "released Qwen3-VL; every family but SmolVLM in memory",
    "language_model.model.layers.": "released LLaVA, InternVL and Gemma3; InternVL2.5 in memory",
    "model.text_model.layers.": "SmolVLM and Idefics3, released and in memory",
}

SUFFIXES = {
    "self_attn.q_proj.weight": {"q"},
    "self_attn.q_proj.bias": {"q"},
    "self_attn.k_proj.bias": {"k"},
    "self_attn.v_proj.weight": {"v"},
    "self_attn.o_proj.weight": {"o"},
    "self_attn.q_norm.weight": {"qk_norms"},
    "self_attn.k_norm.weight": {"qk_norms"},
    "self_attn.qkv_proj.weight": {"q", "k", "v"},
    "attention.wqkv.weight": {"q", "k", "v"},
    "attention.wo.weight": {"o"},
    "self_attention.query_key_value.bias": {"q", "k", "v"},
    "self_attention.dense.weight": {"o"},
    "mlp.gate_proj.weight": {"mlp"},
    "mlp.experts.down_proj": {"mlp"},
    "feed_forward.w2.weight": {"mlp"},
    "input_layernorm.weight": {"norms"},
    "post_attention_layernorm.weight": {"norms"},
    "pre_feedforward_layernorm.weight": {"norms"},
    "post_feedforward_layernorm.weight": {"norms"},
    "attention_norm.weight": {"norms"},
    "ffn_norm.weight": {"norms"},
    # of no known kind, and so refused wherever they would be merged
    "self_attn.rotary_emb.inv_freq": set(),
    "self_attn.q_proj.qweight": set(),
    "self_attn.q_proj.lora_A.default.weight": set(),
    "linear_attn.in_proj_qkv.weight": set(),
}

OUTSIDE_THE_LAYERS = {
    "model.embed_tokens.weight": ("embed_tokens.weight", {"embeddings"}, 0),
    "model.language_model.embed_tokens.weight": ("embed_tokens.weight", {"embeddings"}, 0),
    "language_model.model.tok_embeddings.weight": ("embed_tokens.weight", {"embeddings"}, 0),
    "model.text_model.norm.weight": ("norm.weight", {"norms"}, 11),
    "language_model.model.norm.weight": ("norm.weight", {"norms"}, 11),
    "lm_head.weight": ("lm_head.weight", {"embeddings"}, 11),
    "language_model.lm_head.weight": ("lm_head.weight", {"embeddings"}, 11),
    "language_model.output.weight": ("lm_head.weight", {"embeddings"}, 11),
}

NOT_THE_DECODER = [
    "model.visual.blocks.3.attn.qkv.weight",
    "visual.blocks.3.attn.qkv.weight",
    "model.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight",
    "vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight",
    "model.vision_tower.encoder.layer.3.attention.q_proj.weight",
    "model.vision_model.encoder.layers.3.self_attn.q_proj.weight",
    "vision_model.encoder.layers.3.norm1.weight",
    "model.audio_tower.layers.3.self_attn.q_proj.weight",
    "model.multi_modal_projector.linear_1.weight",
    "model.multi_modal_projector.norm.weight",
    "model.connector.modality_projection.proj.weight",
    "model.vision_tower.vision_model.embeddings.patch_embedding.weight",
    "model.image_newline",
    "mlp1.0.weight",
]


@pytest.mark.parametrize("prefix", DECODER_PREFIXES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_decoder_tensors_are_recognised_under_every_prefix(prefix, suffix):
    tensor = parse_name(f"{prefix}17.{suffix}")
    assert tensor == DecoderTensor(17, suffix)
    assert tensor.modules == SUFFIXES[suffix]
    assert tensor.merged_with(depth=28) == 17


@pytest.mark.parametrize("name", OUTSIDE_THE_LAYERS)
def test_embedding_goes_with_the_first_layer_and_final_norm_and_head_with_the_last(name):
    suffix, modules, layer = OUTSIDE_THE_LAYERS[name]
    tensor = parse_name(name)
    assert tensor == DecoderTensor(None, suffix)
    assert tensor.modules == modules
    assert tensor.merged_with(depth=12) == layer


@pytest.mark.parametrize("name", NOT_THE_DECODER)
def test_vision_towers_and_projectors_are_never_the_decoder(name):
    assert parse_name(name) is None


def test_two_names_for_one_tensor_are_refused():
    names = ["model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(UnsupportedError, match=r"'model\.layers.* and 'language_model.* both look like"):
        decoder_tensors(names)
