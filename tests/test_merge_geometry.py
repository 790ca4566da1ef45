"""Whether a base LM fits a VLM, in the words of their released config.json files."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from lmms_plam.errors import MergeError
from lmms_plam.merge.geometry import check_geometry, read_config, text_config

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
}
QWEN2 = {
    "model_type": "qwen2",
    **SIZES,
    "rope_theta": 1e6,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "max_window_layers": 4,
}
QWEN2_5_VL = {  # released form: the decoder's fields at the top, the old rope spelling
    **QWEN2,
    "model_type": "qwen2_5_vl",
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}
QWEN3 = {"model_type": "qwen3", **SIZES, "head_dim": 16, "rope_theta": 5e6}
QWEN3_VL = {
    "model_type": "qwen3_vl",
    "text_config": {
        **QWEN3,
        "model_type": "qwen3_vl_text",
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
    },
}
LLAMA = {"model_type": "llama", **SIZES, "num_key_value_heads": 8, "rope_theta": 1e4}
LLAVA = {"model_type": "llava", "text_config": LLAMA}
INTERNVL = {"model_type": "internvl", "text_config": {**QWEN2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}}
INTERNLM2 = {"model_type": "internlm2", **SIZES, "rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        **SIZES,
        "head_dim": 8,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
}


def check(vlm, lm):
    return check_geometry(read_config(vlm), read_config(lm))


@pytest.mark.parametrize(
    ("vlm", "lm"),
    [(QWEN2_5_VL, QWEN2), (QWEN3_VL, QWEN3), (LLAVA, LLAMA), (GEMMA3, GEMMA3), (GEMMA3, GEMMA3["text_config"])],
)
def test_a_vlm_and_its_own_base_lm_agree_without_warnings_m_rope_included(vlm, lm):
    assert check(vlm, lm) == ()


def test_a_base_lm_that_leaves_defaults_out_of_its_config_still_agrees():
    lean = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "rope_theta")}
    assert check(LLAVA, lean) == ()


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("num_hidden_layers", 5, "num_hidden_layers 5 and 4"),
        ("hidden_size", 128, "hidden_size 128 and 64"),
        ("num_attention_heads", 4, "num_attention_heads 4 and 8"),
        ("num_key_value_heads", 4, "num_key_value_heads 4 and 2"),
        ("head_dim", 32, "head_dim 32 and 16"),
    ],
)
def test_a_base_lm_of_other_sizes_is_refused_with_both_values(field, value, shown):
    with pytest.raises(MergeError, match=shown):
        check(QWEN3_VL, {**QWEN3, field: value})


@pytest.mark.parametrize(
    ("vlm", "lm", "shown"),
    [
        (
            QWEN3_VL,
            {**QWEN3, "rope_theta": 1e6},
            "rope_parameters.rope_theta differs: 1000000.0 in the base LM, 5000000.0",
        ),
        (LLAVA, {**LLAMA, "rms_norm_eps": 1e-5}, "rms_norm_eps differs: 1e-05 in the base LM, 1e-06"),
        (QWEN2_5_VL, {**QWEN2, "use_sliding_window": True}, "sliding_window differs: 32768 in the base LM, None"),
        (INTERNVL, QWEN2, "rope_parameters.factor differs: None in the base LM, 2.0"),
        (INTERNVL, QWEN2, "rope_parameters.rope_type differs: default in the base LM, dynamic"),
        (
            LLAVA,
            {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope_type differs: linear in the base LM",
        ),
    ],
)
def test_other_angles_scales_and_windows_are_warned_of_by_name(vlm, lm, shown):
    assert any(shown in warning for warning in check(vlm, lm))


def test_local_and_global_rope_are_compared_apart():
    text = {**GEMMA3["text_config"], "rope_local_base_freq": 5e3}
    assert check(GEMMA3, text) == (
        "rope_parameters.sliding_attention.rope_theta differs: 5000.0 in the base LM, 10000.0 in the VLM",
    )


def test_old_and_new_rope_spellings_mean_the_same():
    new = CONFIG_MAPPING["qwen2"].from_dict(QWEN2).to_dict()
    assert "rope_parameters" in new
    assert check(QWEN2_5_VL, new) == ()


def test_configs_of_remote_code_are_read_as_they_stand():
    vlm = read_config({"model_type": "internvl_chat"})
    vlm.llm_config = read_config(INTERNLM2)
    assert text_config(vlm).num_hidden_layers == 4
    assert check_geometry(vlm, read_config(INTERNLM2)) == ()
