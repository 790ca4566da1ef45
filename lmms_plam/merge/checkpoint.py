"""A model's checkpoint: which of its files hold the weights, and tensors out of them, read only when asked for.

Which files count is decided here alone, for VLM and base LM, and as transformers decides it when it loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from lmms_plam.errors import CheckpointError, UnsupportedError
from lmms_plam.merge.digests import digest_tensors
from lmms_plam.merge.foreign import read_json
from lmms_plam.merge.model_files import ModelFiles
from lmms_plam.merge.shards import PickledShard, Shard, StoredTensor, open_shard

_IN_ORDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Transformers takes the first of these that is there: a whole file before an index of shards, which may be a leftover
of an earlier state, and safetensors before pickles."""

_INDEX_SUFFIX = ".index.json"
_ADAPTER = "adapter_config.json"


class _Index(BaseModel):
    weight_map: dict[str, str]


_CONFIG = TypeAdapter(dict[str, Any])
_INDEX = TypeAdapter(_Index)


class Checkpoint:
    """Lazy access to a model's tensors by their keys on disk.

    Files are looked up when first needed: the config, the index of the shards, then the shards that hold the tensors
    asked for and no others. Use it as a context manager, which closes the shards; it may be entered again, and what it
    then reads a second time must be what it was.

    Args:
        reference: folder of the model, or its id on the hub.
        revision: branch, tag or commit on the hub; by default the main branch.

    Raises:
        ConfigError: a revision of a folder.
    """

    def __init__(self, reference: str, revision: str | None = None) -> None:
        self.reference = reference
        self.place = ModelFiles(reference, revision)
        self._shards: dict[str, Shard] = {}
        self._bytes_read = 0
        self._seen: dict[tuple[str, int, int], str] = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bytes_read = self.bytes_read
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of its config.json.

        Raises:
            UnsupportedError: a LoRA adapter beside the weights, or alone.
            CheckpointError: it is missing or damaged.
        """
        self.require_bare()
        return read_json(self.place.require("config.json"), _CONFIG)

    def require_unquantised(self) -> None:
        """Refuse quantised weights, as the config declares them.

        Raises:
            UnsupportedError: they are quantised; the text names the method.
        """
        parts = [self.config, *(self.config.get(name) for name in ("text_config", "llm_config"))]
        for settings in (part.get("quantization_config") for part in parts if isinstance(part, dict)):
            if settings:
                method = settings.get("quant_method") if isinstance(settings, dict) else None
                raise UnsupportedError(
                    f"the weights of '{self.reference}' are quantised ({method or 'quantization_config'}): merging "
                    "needs the unquantised checkpoint (float16, bfloat16 or float32)"
                )

    def require_bare(self) -> None:
        """Refuse a LoRA adapter.

        Raises:
            UnsupportedError: there is one: transformers would add it to the weights, and a merge reads those alone.
        """
        if self.place.find(_ADAPTER):
            raise UnsupportedError(
                f"'{self.reference}' holds a LoRA adapter ({_ADAPTER}), which transformers adds to the weights when it "
                "loads them: save the model with the adapter merged in (peft's merge_and_unload), or remove that file"
            )

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Name of the file that holds each key, in the files that transformers would load.

        Raises:
            UnsupportedError: a LoRA adapter beside the weights, or shards of a distributed checkpoint.
            CheckpointError: no weights, or a damaged index.
        """
        name, path = self._first
        if name.endswith(_INDEX_SUFFIX):
            return read_json(path, _INDEX).weight_map
        return dict.fromkeys(self._opened(name, path).tensors, name)

    @property
    def index(self) -> str | None:
        """Name of the index of its shards; None of a whole file."""
        name, _ = self._first
        return name if name.endswith(_INDEX_SUFFIX) else None

    @cached_property
    def _first(self) -> tuple[str, Path]:
        """Name and path of the file that transformers would begin with: all weights, or the index of their shards."""
        self.require_bare()
        if any(self.place.folder.glob("shard-?????-model-?????-of-?????.safetensors")):
            raise UnsupportedError(f"'{self.reference}' is a distributed checkpoint: save it with save_pretrained")
        for name in self._candidates():
            path = self.place.find(name)
            if path is not None:
                return name, path
        raise CheckpointError(f"found no weights of '{self.reference}': none of {', '.join(self._candidates())}")

    def _candidates(self) -> tuple[str, ...]:
        stated = self.config.get("transformers_weights") if self.place.find("config.json") else None
        return _IN_ORDER if stated is None else (str(stated),)

    def fetch(self) -> Path:
        """Return a folder with all of its files, those that transformers would load among them."""
        return self.place.fetch(set(self.files.values()))

    @property
    def bytes_read(self) -> int:
        """Bytes read from the shards so far: headers of safetensors files and rows."""
        return self._bytes_read + sum(shard.bytes_read for shard in self._shards.values())

    def describe(self, key: str) -> StoredTensor:
        """Return shape and dtype of a tensor, without reading it.

        Raises:
            CheckpointError: its file is missing, damaged or truncated, or doesn't hold it.
        """
        return self._shard_of(key).tensors[key]

    def span(self, key: str) -> tuple[int, int]:
        """Return where in its file a tensor's bytes lie: the first, and the one after the last.

        Raises:
            CheckpointError: as `describe`.
            UnsupportedError: it is pickled, so that its bytes needn't lie in one piece.
        """
        shard = self._shard_of(key)
        if isinstance(shard, PickledShard):
            raise UnsupportedError(f"'{key}' of '{self.reference}' is pickled: convert the weights to safetensors")
        return shard.span(key)

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Read rows start to stop (first dimension) of a tensor, in its stored dtype, on the CPU.

        Raises:
            CheckpointError: as `describe`, or they were read before and have changed since.
            UnsupportedError: they are quantised.
        """
        shard = self._shard_of(key)
        shard.tensors[key].require_mergeable(key, self.reference)
        rows = shard.rows(key, start, stop)
        (digest,) = digest_tensors({key: rows}).values()
        if self._seen.setdefault((key, start, stop), digest) != digest:
            raise CheckpointError(f"'{key}' of '{self.reference}' has changed since it was first read: start again")
        return rows

    def _shard_of(self, key: str) -> Shard:
        file = self.files[key]
        shard = self._shards.get(file) or self._opened(file, self.place.require(file, f", needed for '{key}'"))
        if key not in shard.tensors:
            raise CheckpointError(f"{file} of '{self.reference}' doesn't hold '{key}', though the index says so")
        return shard

    def _opened(self, file: str, path: Path) -> Shard:
        self._shards[file] = open_shard(path)
        return self._shards[file]
