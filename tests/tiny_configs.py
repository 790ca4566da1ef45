"""The released config.json of every family, scaled down: few narrow layers, few tokens an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WORDS = 400
"""Tokens that a VLM shares with its base LM: bytes and merges, and Llama's <unk>, <s>, </s>."""

LM_ROWS = 448
"""Rows of a Qwen base LM's embedding, more than its tokens, as released."""

PATCH = 14
LLAVA_IMAGE = 4 * PATCH
ONEVISION_IMAGE = 3 * PATCH
ONEVISION_GRID = [[height * ONEVISION_IMAGE, width * ONEVISION_IMAGE] for height in (1, 2) for width in (1, 2)]
INTERNVL_IMAGE = 4 * PATCH

LAYERS = 5
HIDDEN = 64

_DECODER = {
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
_QWEN2 = {
    **_DECODER,
    "bos_token_id": WORDS,
    "eos_token_id": WORDS + 2,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "vocab_size": LM_ROWS,
}
_QWEN3 = {
    **_DECODER,
    "attention_bias": False,
    "bos_token_id": WORDS,
    "eos_token_id": WORDS + 2,
    "head_dim": 24,  # not hidden size / heads, as released
    "rms_norm_eps": 1e-6,
    "rope_theta": 5e6,
    "tie_word_embeddings": True,
    "vocab_size": LM_ROWS,
}
_LLAMA = {
    **_DECODER,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": WORDS,
}
_QWEN_VISION = {"in_chans": 3, "spatial_merge_size": 2, "temporal_patch_size": 2}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": PATCH,
}


def lm_config(kind: str, layers: int = LAYERS) -> dict[str, Any]:
    """Return the config.json of a base LM: "qwen2", "qwen3" or "llama"."""
    shape, architecture = {
        "qwen2": (_QWEN2, "Qwen2ForCausalLM"),
        "qwen3": (_QWEN3, "Qwen3ForCausalLM"),
        "llama": (_LLAMA, "LlamaForCausalLM"),
    }[kind]
    dtype = "float16" if kind == "llama" else "bfloat16"
    start = {"architectures": [architecture], "model_type": kind, "torch_dtype": dtype}
    return start | shape | {"num_hidden_layers": layers}


def vlm_config(family: str, token: Callable[[str], int], layers: int = LAYERS) -> dict[str, Any]:
    """Return the config.json of a VLM in the released layout: flat for Qwen2(.5)-VL, nested for the others.

    Args:
        family: one of `tiny_processors`' families, or "gemma3".
        token: the id of a special token, by its text.
        layers: decoder layers.
    """
    return _VLM_CONFIGS[family](token, layers)


def _qwen_vl_tokens(token: Callable[[str], int]) -> dict[str, int]:
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def _qwen2_vl(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        **_QWEN2,
        **_qwen_vl_tokens(token),
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "num_hidden_layers": layers,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "torch_dtype": "bfloat16",
        "vision_config": {
            **_QWEN_VISION,
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": HIDDEN,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
        },
    }


def _qwen2_5_vl(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        **_qwen2_vl(token, layers),
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vision_config": {
            **_QWEN_VISION,
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "tokens_per_second": 2,
            "window_size": 4 * PATCH,
        },
    }


def _qwen3_vl(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 4, 4]}
    return {
        **_qwen_vl_tokens(token),
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": {
            **_QWEN3,
            "dtype": "bfloat16",
            "model_type": "qwen3_vl_text",
            "num_hidden_layers": layers,
            "rope_scaling": rope,
        },
        "tie_word_embeddings": True,
        "vision_config": {
            "deepstack_visual_indexes": [0, 1, 2],
            "depth": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "in_channels": 3,
            "intermediate_size": 48,
            "model_type": "qwen3_vl",
            "num_heads": 2,
            "num_position_embeddings": 64,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _llava(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": token("<image>"),
        "model_type": "llava",
        "pad_token_id": token("<pad>"),
        "projector_hidden_act": "gelu",
        "text_config": {
            **_LLAMA,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": layers,
            "vocab_size": LM_ROWS,  # more rows than Vicuna's
        },
        "torch_dtype": "float16",
        "vision_config": {
            **_TOWER,
            "image_size": LLAVA_IMAGE,
            "model_type": "clip_vision_model",
            "projection_dim": 32,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _llava_onevision(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_grid_pinpoints": ONEVISION_GRID,
        "image_token_index": token("<image>"),
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": {
            **_QWEN2,
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "vocab_size": LM_ROWS - 32,  # fewer rows than Qwen2's
        },
        "torch_dtype": "bfloat16",
        "video_token_index": token("<video>"),
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {
            **_TOWER,
            "image_size": ONEVISION_IMAGE,
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def _internvl(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": (INTERNVL_IMAGE // PATCH // 2) ** 2,
        "image_token_id": token("<IMG_CONTEXT>"),
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {
            **_QWEN2,
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic"},
            "vocab_size": token("<video>") + 1,  # no spare rows: fewer than Qwen2.5's
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            **_TOWER,
            "attention_bias": True,
            "image_size": [INTERNVL_IMAGE, INTERNVL_IMAGE],
            "model_type": "internvl_vision",
            "patch_size": [PATCH, PATCH],
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _gemma3(token: Callable[[str], int], layers: int) -> dict[str, Any]:
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "image_token_index": LM_ROWS - 1,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": {
            **_DECODER,
            "bos_token_id": WORDS,
            "eos_token_id": WORDS + 2,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["full_attention" if layer % 3 == 2 else "sliding_attention" for layer in range(layers)],
            "model_type": "gemma3_text",
            "num_hidden_layers": layers,
            "query_pre_attn_scalar": 16,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "vocab_size": LM_ROWS,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            **_TOWER,
            "image_size": LLAVA_IMAGE,
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
    }


_VLM_CONFIGS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "gemma3": _gemma3,
}
