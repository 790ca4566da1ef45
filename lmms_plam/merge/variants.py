"""The untouched VLM's weights beside a merged model's, read from the files, and what of weights variants can share.

A merge writes into the loaded VLM and keeps no copy. What another variant needs of the layers that were merged is read
again, from the VLM's own checkpoint, when a comparison asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

from lmms_plam.errors import CheckpointError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_tensors
from lmms_plam.merge.names import DecoderTensor, decoder_tensors, parse_name

BASE = "base"
"""What the untouched VLM is called among the variants."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts(Generic[T]):
    """Tensors of a decoder, or what is known of them, sorted by what of them variants can share.

    Attributes:
        layers: by decoder layer and parameter name within the layer.
        outside: those outside of the layers (embedding, final norm, head), by the model's parameter name.
    """

    layers: dict[int, dict[str, T]]
    outside: dict[str, T]

    @classmethod
    def of(cls, tensors: Mapping[str, T]) -> Parts[T]:
        """Sort tensors of a decoder, by parameter name."""
        parts: Parts[T] = cls({}, {})
        for name, value in tensors.items():
            place = parse_name(name)
            if place is None or place.layer is None:
                parts.outside[name] = value
            else:
                parts.layers.setdefault(place.layer, {})[place.suffix] = value
        return parts


def untouched_tensors(
    model: nn.Module, vlm: Checkpoint, names: Iterable[str], digests: Mapping[str, str]
) -> dict[str, Tensor]:
    """Read a merged VLM's tensors as they were before, by parameter name, in the loaded dtype and on its device.

    Args:
        model: the merged VLM.
        vlm: the checkpoint that it was loaded from.
        names: parameters of its decoder.
        digests: what `digest_tensors` said of the loaded model before the merge, by parameter name.

    Raises:
        CheckpointError: a tensor that can't be read, or isn't what was loaded.
    """
    stored = decoder_tensors(vlm.files)
    tensors = {name: _read(name, stored, vlm, model) for name in names}
    for name, digest in digest_tensors(tensors).items():
        if digest != digests[name]:
            raise CheckpointError(
                f"'{name}' in the files of '{vlm.reference}' isn't what the backend loaded: the files have changed, or "
                "the backend reads others; run the untouched VLM by itself (`--model_args merge=none`)"
            )
    return tensors


def _read(name: str, stored: Mapping[DecoderTensor, str], vlm: Checkpoint, model: nn.Module) -> Tensor:
    parameter, tensor = model.get_parameter(name), parse_name(name)
    if tensor is None or tensor not in stored:
        raise CheckpointError(f"'{vlm.reference}' has no tensor for '{name}', which the loaded model has")
    rows = vlm.rows(stored[tensor], 0, parameter.shape[0])
    return rows.to(parameter.device, parameter.dtype)
