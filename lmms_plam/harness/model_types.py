"""Which of lmms-eval's own backends runs a VLM; a file of its own, since to name one needs none of them."""

from __future__ import annotations

BACKENDS = {
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "internvl": "internvl_hf",
}
"""The VLM's `model_type` in its config.json -> lmms-eval's model type."""
