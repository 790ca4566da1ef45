"""Whether a base LM can be merged into a VLM's decoder, told from the two configs before any weight is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import CONFIG_MAPPING, PretrainedConfig

import lmms_plam.babyllava.tower  # noqa: F401  registers our vision tower, which no transformers has
from lmms_plam.errors import CheckpointError, MergeError
from lmms_plam.merge.foreign import complaint

_WITHOUT_EFFECT_ON_TEXT = frozenset({"type", "mrope_section", "mrope_interleaved"})
"""M-RoPE turns a text token by the same angle in all its sections, as plain RoPE does; `type` repeats `rope_type`."""


_Size = Annotated[int, Field(gt=0)]


class _Decoder(BaseModel):
    """What of a decoder's config is compared; a config that came from remote code may hold anything."""

    model_config = ConfigDict(from_attributes=True)

    num_hidden_layers: _Size
    hidden_size: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    rms_norm_eps: float | None = None
    sliding_window: int | None = None
    use_sliding_window: bool | None = True
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None


def read_config(content: dict[str, Any]) -> PretrainedConfig:
    """Turn a config.json into a config with its family's defaults, or as it stands where the family is remote code.

    Raises:
        CheckpointError: transformers can't make a config of it.
    """
    family = content.get("model_type")
    known = isinstance(family, str) and family in CONFIG_MAPPING
    try:
        return (CONFIG_MAPPING[family] if known else PretrainedConfig).from_dict(content)
    except Exception as error:  # each family's config checks itself in its own way
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"config.json can't be read as a model's: {reason}") from error


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the part of a model's config that describes its language decoder."""
    remote = getattr(config, "llm_config", None)  # InternVL's own code
    return config.get_text_config(decoder=True) if remote is None else remote


def check_geometry(vlm: PretrainedConfig, lm: PretrainedConfig, whose: str = "base LM") -> tuple[str, ...]:
    """Compare the decoder of a VLM with a base LM.

    Args:
        vlm: config of the whole VLM.
        lm: config of the base LM, or of an ancestor of both.
        whose: what the latter is called.

    Returns:
        Warnings, one for each difference of rope, norm epsilon or sliding window: the weights still fit then, but were
        trained to work with other angles, scales or views.

    Raises:
        MergeError: layers, hidden size, heads, key-value heads or head_dim differ; the text names both values.
        CheckpointError: a config that lacks them, or holds something else under their names.
    """
    ours, theirs = _decoder(vlm, "VLM"), _decoder(lm, whose)
    sizes_lm, sizes_vlm = _sizes(theirs), _sizes(ours)
    misfits = [
        f"{name} {sizes_lm[name]} and {sizes_vlm[name]}" for name in sizes_vlm if sizes_lm[name] != sizes_vlm[name]
    ]
    if misfits:
        raise MergeError(
            f"the {whose} doesn't fit the VLM's decoder ({whose} first): {', '.join(misfits)}. "
            f"Set {whose.lower().replace(' ', '_')} to the model that the VLM grew from"
        )
    traits_lm, traits_vlm = _traits(theirs), _traits(ours)
    names = dict.fromkeys([*traits_vlm, *traits_lm])
    return tuple(
        f"{name} differs: {traits_lm.get(name)} in the {whose}, {traits_vlm.get(name)} in the VLM"
        for name in names
        if traits_lm.get(name) != traits_vlm.get(name)
    )


def _decoder(config: PretrainedConfig, whose: str) -> _Decoder:
    try:
        return _Decoder.model_validate(text_config(config))
    except ValidationError as error:
        raise CheckpointError(f"the {whose}'s config doesn't describe a decoder ({complaint(error)})") from error


def _sizes(decoder: _Decoder) -> dict[str, int]:
    heads = decoder.num_attention_heads
    return {
        "num_hidden_layers": decoder.num_hidden_layers,
        "hidden_size": decoder.hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": decoder.num_key_value_heads or heads,
        "head_dim": decoder.head_dim or decoder.hidden_size // heads,
    }


def _traits(decoder: _Decoder) -> dict[str, Any]:
    window = decoder.sliding_window if decoder.use_sliding_window else None
    return {"rms_norm_eps": decoder.rms_norm_eps, "sliding_window": window, **_rope(decoder)}


def _rope(decoder: _Decoder) -> dict[str, Any]:
    """Return the rope settings by name, from `rope_parameters` or the older `rope_theta` and `rope_scaling`.

    Models with local and global attention have a set of settings for each kind, which then stands within the name.
    """
    scaling = decoder.rope_parameters or decoder.rope_scaling or {}
    kinds = {f"{kind}.": values for kind, values in scaling.items() if isinstance(values, dict)} or {"": scaling}
    settings: dict[str, Any] = {}
    for kind, values in kinds.items():
        rope_type = values.get("rope_type", values.get("type", "default"))
        plain = {name: value for name, value in values.items() if name not in _WITHOUT_EFFECT_ON_TEXT}
        plain["rope_type"] = "default" if rope_type == "mrope" else rope_type
        plain.setdefault("rope_theta", decoder.rope_theta)
        settings |= {f"rope_parameters.{kind}{name}": value for name, value in plain.items()}
    return settings
