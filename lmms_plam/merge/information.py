"""Files of Fisher information, as `plam fisher` writes them and merges read them, some rows at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmms_plam.errors import CheckpointError, ConfigError
from lmms_plam.files import replacing, sought_in
from lmms_plam.merge.names import DecoderTensor
from lmms_plam.merge.shards import SafetensorsShard, StoredTensor

FORMAT = "lmms-plam fisher 1"

Whose = Literal["vlm", "base_lm"]


def fisher_key(whose: Whose, tensor: DecoderTensor) -> str:
    """Return what a Fisher file calls a decoder tensor: the same whatever the model calls it."""
    return f"{whose}.{tensor}"


def write_fisher(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a Fisher file, through a temporary one.

    Args:
        path: where.
        tensors: by `fisher_key`, in float32, at least 0.
        about: how they were estimated, as JSON can hold it.
    """
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with replacing(path) as unfinished:
        save_file(whole, unfinished, metadata={"format": FORMAT, "about": json.dumps(about)})


class FisherFile:
    """A file of Fisher information.

    Attributes:
        reference: its path.
        about: how it was estimated.

    Raises:
        ConfigError: no such file, or one of another kind.
        CheckpointError: it is truncated or damaged.
    """

    def __init__(self, path: str) -> None:
        self.reference = path
        self._path = Path(os.path.expanduser(path))
        if not self._path.is_file():
            raise ConfigError(f"fisher '{path}' is no file{sought_in(path)}: `plam fisher` writes one")
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"fisher '{path}' can't be read as a safetensors file ({error})") from error
        if metadata.get("format") != FORMAT:
            raise ConfigError(f"fisher '{path}' is no file of Fisher information: `plam fisher` writes one")
        self.about: dict[str, Any] = json.loads(metadata.get("about", "{}"))
        self._shard: SafetensorsShard | None = None

    def describe(self, key: str) -> StoredTensor:
        """Return shape and dtype of a tensor.

        Raises:
            CheckpointError: it isn't there, or isn't float32; the text names it.
        """
        stored = self._opened.tensors.get(key)
        if stored is None:
            raise CheckpointError(
                f"fisher '{self.reference}' has nothing of {key}: it was estimated for other layers or modules; run "
                "`plam fisher` for this recipe"
            )
        if stored.dtype != "F32":
            raise CheckpointError(f"fisher '{self.reference}' holds {key} as {stored.dtype}, not as F32")
        return stored

    def require_shape(self, key: str, shape: torch.Size | tuple[int, ...]) -> None:
        """Refuse information about a tensor of another shape.

        Raises:
            CheckpointError: as `describe`, or the shapes differ.
        """
        found = self.describe(key).shape
        if found != tuple(shape):
            raise CheckpointError(
                f"fisher '{self.reference}' is of another model: its {key} has the shape {list(found)}, the weight "
                f"{list(shape)}"
            )

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Read rows start to stop (first dimension) of a tensor, in float32, on the CPU."""
        return self._opened.rows(key, start, stop)

    def close(self) -> None:
        """Close the file; it is opened again when asked."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    @property
    def _opened(self) -> SafetensorsShard:
        if self._shard is None:
            self._shard = SafetensorsShard(self._path)
        return self._shard
