"""Names of decoder tensors: one identity for the VLM's parameter in memory and the base LM's key on disk.

Decoders sit under `model.language_model.`, `model.text_model.`, `language_model.model.`, `model.` or nothing, by model,
transformers version and file. Vision towers have `layers.N.self_attn` too, below prefixes that are none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lmms_plam.errors import UnsupportedError

_PREFIX = r"(?:model\.)?(?:language_model\.)?(?:model\.)?(?:text_model\.)?"
_LAYER = re.compile(rf"{_PREFIX}layers\.(\d+)\.(.+)")
_OUTSIDE = re.compile(rf"{_PREFIX}(?:(embed_tokens|tok_embeddings)|(lm_head|output)|(norm))\.(weight|bias)")

_ATTENTION = r"(?:self_attn|attention|self_attention)\."
_MODULES: tuple[tuple[re.Pattern[str], frozenset[str]], ...] = tuple(
    (re.compile(pattern), frozenset(modules))
    for pattern, modules in (
        (_ATTENTION + r"q_proj\.(?:weight|bias)", ["q"]),
        (_ATTENTION + r"k_proj\.(?:weight|bias)", ["k"]),
        (_ATTENTION + r"v_proj\.(?:weight|bias)", ["v"]),
        (_ATTENTION + r"(?:o_proj|wo|dense)\.(?:weight|bias)", ["o"]),
        (_ATTENTION + r"(?:qkv_proj|wqkv|query_key_value)\.(?:weight|bias)", ["q", "k", "v"]),
        (_ATTENTION + r"[qk]_norm\.weight", ["qk_norms"]),
        (r"(?:mlp|feed_forward)\..+", ["mlp"]),
        (r"(?:input|post_attention|pre_feedforward|post_feedforward)_layernorm\.(?:weight|bias)", ["norms"]),
        (r"(?:attention_norm|ffn_norm|norm)\.(?:weight|bias)", ["norms"]),
        (r"(?:embed_tokens|lm_head)\.(?:weight|bias)", ["embeddings"]),
    )
)


@dataclass(frozen=True, slots=True)
class DecoderTensor:
    """A tensor of the language decoder, whatever its model calls it.

    Attributes:
        layer: its decoder layer, 0-based, or None for the token embedding, the final norm and the head.
        suffix: its name below the layer, such as `self_attn.q_proj.weight`, or `embed_tokens.weight`, `norm.weight`,
            `lm_head.weight`.
    """

    layer: int | None
    suffix: str

    @property
    def modules(self) -> frozenset[str]:
        """The modules of a recipe that it belongs to: one, or q, k and v if fused, or none where it isn't known.

        Query and key norms count as `qk_norms`, which a recipe asks for with its switch of that name.
        """
        return next((modules for pattern, modules in _MODULES if pattern.fullmatch(self.suffix)), frozenset())

    def merged_with(self, depth: int) -> int:
        """The layer whose coefficients it takes: the embedding the first's, final norm and head the last's."""
        if self.layer is not None:
            return self.layer
        return 0 if self.suffix.startswith("embed_tokens") else depth - 1

    def __str__(self) -> str:
        return self.suffix if self.layer is None else f"layers.{self.layer}.{self.suffix}"


def parse_name(name: str) -> DecoderTensor | None:
    """Return what a parameter name or checkpoint key stands for, or None for what lies outside the decoder."""
    if match := _LAYER.fullmatch(name):
        return DecoderTensor(int(match[1]), match[2])
    if match := _OUTSIDE.fullmatch(name):
        embedding, head, _, kind = match.groups()
        module = "embed_tokens" if embedding else "lm_head" if head else "norm"
        return DecoderTensor(None, f"{module}.{kind}")
    return None


def decoder_tensors(names: Iterable[str]) -> dict[DecoderTensor, str]:
    """Return the decoder tensors among the names, in their order, each with its name.

    Raises:
        UnsupportedError: two names stand for the same tensor.
    """
    found: dict[DecoderTensor, str] = {}
    for name in names:
        tensor = parse_name(name)
        if tensor is None:
            continue
        if tensor in found:
            raise UnsupportedError(f"'{found[tensor]}' and '{name}' both look like the decoder's {tensor}")
        found[tensor] = name
    return found
