"""A base LM's checkpoint, in a folder or on the hub, of which only the tensors asked for are fetched and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

from lmms_plam.errors import CheckpointError
from lmms_plam.merge.shards import Shard, StoredTensor, open_shard

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # each alone, or in shards that its index names


class Checkpoint:
    """Lazy access to a language model's tensors by their keys on disk.

    Files are looked up when first needed: the config, the index of the shards, then the shards that hold the tensors
    asked for and no others. Use it as a context manager, which closes the shards.

    Args:
        reference: folder of the model, or its id on the hub.
        revision: branch, tag or commit on the hub; by default the main branch.
    """

    def __init__(self, reference: str, revision: str | None = None) -> None:
        self.reference = reference
        self._revision = revision
        self._folder = Path(reference) if Path(reference).is_dir() else None
        self._shards: dict[str, Shard] = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of its config.json."""
        return self._read_json(self._require("config.json"))

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Name of the file that holds each key, safetensors before pickled ones."""
        for single in _WEIGHT_FILES:
            if index := self._find(f"{single}.index.json"):
                files = self._read_json(index).get("weight_map")
                if not isinstance(files, dict):
                    raise CheckpointError(f"{index} names no weights (it has no weight_map); fetch it again")
                return files
            if path := self._find(single):
                shard = self._shards[single] = open_shard(path)
                return dict.fromkeys(shard.tensors, single)
        raise CheckpointError(
            f"found no weights of '{self.reference}': neither {' nor '.join(_WEIGHT_FILES)}, nor an index of shards"
        )

    @property
    def bytes_read(self) -> int:
        """Bytes read from the shards so far: headers of safetensors files and rows."""
        return sum(shard.bytes_read for shard in self._shards.values())

    def describe(self, key: str) -> StoredTensor:
        """Return shape and dtype of a tensor, without reading it.

        Raises:
            CheckpointError: its file is missing, damaged or truncated, or doesn't hold it.
        """
        return self._shard_of(key).tensors[key]

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Read rows start to stop (first dimension) of a tensor, in its stored dtype, on the CPU."""
        return self._shard_of(key).rows(key, start, stop)

    def _shard_of(self, key: str) -> Shard:
        file = self.files[key]
        if file not in self._shards:
            self._shards[file] = open_shard(self._require(file, f", needed for '{key}'"))
        if key not in self._shards[file].tensors:
            raise CheckpointError(f"{file} of '{self.reference}' doesn't hold '{key}', though the index says so")
        return self._shards[file]

    def _require(self, file: str, purpose: str = "") -> Path:
        if path := self._find(file):
            return path
        if self._folder:
            raise CheckpointError(f"{self._folder} has no {file}{purpose}; fetch the model again")
        raise CheckpointError(
            f"'{self.reference}' is no folder here, and its {file}{purpose} is neither on the hub nor, "
            "offline, in the cache"
        )

    def _find(self, file: str) -> Path | None:
        if self._folder:
            path = self._folder / file
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(self.reference, file, revision=self._revision))
        except EntryNotFoundError:
            return None
        except Exception as error:  # the hub's errors have no base class of their own; a full disk ends here too
            raise CheckpointError(
                f"'{self.reference}' is no folder here, and its {file} can't be fetched from the hub: "
                + " ".join(str(error).split())
            ) from error

    @staticmethod
    def _read_json(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} is damaged: it holds no JSON object; fetch it again")
        return content
