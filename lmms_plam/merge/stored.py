"""A VLM as its checkpoint's headers show it, for plans that are made without loading it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

from lmms_plam.errors import CheckpointError, UnsupportedError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.diagnosis import diagnose
from lmms_plam.merge.geometry import read_config

_BUFFER = re.compile(r"\brotary_emb\.inv_freq$")
"""What old checkpoints store although no model reads it."""


class StoredModel(nn.Module):
    """A VLM's config, and its parameters by their keys on disk: shapes on the meta device, no weights.

    What plans are made of in place of the loaded model, whose names for the same tensors are the same to
    `lmms_plam.merge.names`. No class of the model is needed, so that a VLM whose class is remote code has one too.

    Args:
        vlm: the VLM's checkpoint; the headers of all its files are read.

    Raises:
        CheckpointError: a file that is missing, damaged or truncated.
        UnsupportedError: keys that tell of an adapter, a wrapper or quantised weights.
    """

    def __init__(self, vlm: Checkpoint) -> None:
        super().__init__()
        told = diagnose(vlm.files)
        if told:
            raise UnsupportedError(f"'{vlm.reference}' can't be merged as it is stored: {told}")
        self.config = read_config(vlm.config)
        self._stored = {
            key: nn.Parameter(torch.empty(vlm.describe(key).shape, device="meta"), requires_grad=False)
            for key in sorted(vlm.files, key=_natural)
            if not _BUFFER.search(key)
        }

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield keys and parameters, layer 9 before layer 10."""
        yield from self._stored.items()

    def get_parameter(self, target: str) -> nn.Parameter:
        """Return a parameter by its key.

        Raises:
            CheckpointError: there is none.
        """
        if target not in self._stored:
            raise CheckpointError(f"the VLM's checkpoint has no '{target}'")
        return self._stored[target]


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]
