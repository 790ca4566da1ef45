"""Whether a base LM can be merged into a VLM's decoder, told from the two configs before any weight is read."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from lmms_plam.errors import MergeError

_WITHOUT_EFFECT_ON_TEXT = frozenset({"type", "mrope_section", "mrope_interleaved"})
"""M-RoPE turns a text token by the same angle in all its sections, as plain RoPE does; `type` repeats `rope_type`."""


def read_config(content: dict[str, Any]) -> PretrainedConfig:
    """Turn a config.json into a config with its family's defaults, or as it stands where the family is remote code."""
    family = content.get("model_type")
    if family in CONFIG_MAPPING:
        return CONFIG_MAPPING[family].from_dict(content)
    return PretrainedConfig.from_dict(content)


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the part of a model's config that describes its language decoder."""
    remote = getattr(config, "llm_config", None)  # InternVL's own code
    return config.get_text_config(decoder=True) if remote is None else remote


def check_geometry(vlm: PretrainedConfig, lm: PretrainedConfig) -> tuple[str, ...]:
    """Compare the decoder of a VLM with a base LM.

    Args:
        vlm: config of the whole VLM.
        lm: config of the base LM.

    Returns:
        Warnings, one for each difference of rope, norm epsilon or sliding window: the weights still fit then, but were
        trained to work with other angles, scales or views.

    Raises:
        MergeError: layers, hidden size, heads, key-value heads or head_dim differ; the text names both values.
    """
    vlm, lm = text_config(vlm), text_config(lm)
    sizes_lm, sizes_vlm = _sizes(lm), _sizes(vlm)
    misfits = [
        f"{name} {sizes_lm[name]} and {sizes_vlm[name]}" for name in sizes_vlm if sizes_lm[name] != sizes_vlm[name]
    ]
    if misfits:
        raise MergeError(
            f"the base LM doesn't fit the VLM's decoder (base LM first): {', '.join(misfits)}. "
            "Set base_lm to the model that the VLM grew from"
        )
    traits_lm, traits_vlm = _traits(lm), _traits(vlm)
    names = dict.fromkeys([*traits_vlm, *traits_lm])
    return tuple(
        f"{name} differs: {traits_lm.get(name)} in the base LM, {traits_vlm.get(name)} in the VLM"
        for name in names
        if traits_lm.get(name) != traits_vlm.get(name)
    )


def _sizes(config: PretrainedConfig) -> dict[str, int]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    return {
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or hidden // heads,
    }


def _traits(config: PretrainedConfig) -> dict[str, Any]:
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return {"rms_norm_eps": getattr(config, "rms_norm_eps", None), "sliding_window": window, **_rope(config)}


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """Return the rope settings by name, from `rope_parameters` or the older `rope_theta` and `rope_scaling`.

    Models with local and global attention have a set of settings for each kind, which then stands within the name.
    """
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {f"{kind}.": values for kind, values in scaling.items() if isinstance(values, dict)} or {"": scaling}
    settings: dict[str, Any] = {}
    for kind, values in kinds.items():
        rope_type = values.get("rope_type", values.get("type", "default"))
        plain = {name: value for name, value in values.items() if name not in _WITHOUT_EFFECT_ON_TEXT}
        plain["rope_type"] = "default" if rope_type == "mrope" else rope_type
        plain.setdefault("rope_theta", getattr(config, "rope_theta", None))
        settings |= {f"rope_parameters.{kind}{name}": value for name, value in plain.items()}
    return settings
