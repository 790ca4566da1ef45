"""Reading tensors out of one checkpoint file, a block of rows at a time and nothing else of the file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, TypeAdapter
from torch import Tensor

from lmms_plam.errors import CheckpointError, UnsupportedError
from lmms_plam.merge.foreign import parse_json

_SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
MERGEABLE_DTYPES = frozenset(_SAFETENSORS_DTYPES.values())
"""What a merge can compute with; anything else in a weight means quantisation, whose scales lie elsewhere."""


_Count = Annotated[int, Field(ge=0, le=2**63)]


class _Entry(BaseModel, strict=True):
    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


_HEADER = TypeAdapter(dict[str, _Entry | dict[str, str]])
"""Tensors by key, and `__metadata__`."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a file says of a tensor before it is read; `dtype` names it as the file does (BF16, torch.bfloat16, ...)."""

    shape: tuple[int, ...]
    dtype: str
    mergeable: bool

    def require_mergeable(self, key: str, reference: str) -> None:
        """Refuse what no merge can compute with.

        Raises:
            UnsupportedError: a dtype that means quantisation; the text names the tensor.
        """
        if not self.mergeable:
            raise UnsupportedError(
                f"'{key}' of '{reference}' is stored as {self.dtype}; merging needs the unquantised checkpoint "
                "(float16, bfloat16 or float32)"
            )


class SafetensorsShard:
    """A .safetensors file, read at the byte offsets of its header: a memory map's read-ahead would fetch more.

    Attributes:
        tensors: what the file holds, by key.
        bytes_read: bytes read so far, the header included.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):  # keeps the system's own read-ahead, megabytes on some disks, out as well
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        try:
            self.tensors, self._offsets, self._sizes = self._read_header()
        except CheckpointError:
            self._file.close()
            raise
        self.bytes_read = self._file.tell()

    def span(self, key: str) -> tuple[int, int]:
        """Return where in the file a tensor's bytes lie: the first, and the one after the last."""
        first = self._offsets[key]
        return first, first + self._sizes[key]

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Read rows (first dimension) start to stop of a tensor, in its stored dtype, and no byte more."""
        stored = self.tensors[key]
        dtype = _SAFETENSORS_DTYPES[stored.dtype]
        row_shape = stored.shape[1:]
        row_bytes = math.prod(row_shape) * dtype.itemsize
        buffer = torch.empty((stop - start) * row_bytes, dtype=torch.uint8)
        self._file.seek(self._offsets[key] + start * row_bytes)
        view = buffer.numpy().data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise CheckpointError(f"{self._path} ends before '{key}' does; fetch the file again")
            self.bytes_read += count
            view = view[count:]
        return buffer.view(dtype).view(stop - start, *row_shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_header(self) -> tuple[dict[str, StoredTensor], dict[str, int], dict[str, int]]:
        """Return the tensors, where in the file each begins and its bytes, checked against the file's size."""
        size = self._path.stat().st_size
        length = int.from_bytes(self._file.read(8), "little")
        data_offset = 8 + length
        if size < 8 or data_offset > size:
            raise CheckpointError(f"{self._path} is truncated or no safetensors file; fetch it again")
        header = parse_json(self._file.read(length), _HEADER, f"the header of {self._path}")
        tensors, offsets, sizes = {}, {}, {}
        end = 0
        for key, entry in header.items():
            if not isinstance(entry, _Entry):
                continue
            first, last = entry.data_offsets
            dtype = _SAFETENSORS_DTYPES.get(entry.dtype)
            if first > last or (dtype and last - first != math.prod(entry.shape) * dtype.itemsize):
                raise CheckpointError(f"the header of {self._path} is damaged ('{key}' has no room); fetch it again")
            tensors[key] = StoredTensor(tuple(entry.shape), entry.dtype, dtype is not None)
            offsets[key], sizes[key] = data_offset + first, last - first
            end = max(end, data_offset + last)
        if end > size:
            raise CheckpointError(f"{self._path} is truncated: {size:,} bytes of {end:,}; fetch it again")
        return tensors, offsets, sizes


class PickledShard:
    """A .bin file, memory-mapped and opened with the unpickler that loads tensors only, so that it runs no code.

    Attributes:
        tensors: what the file holds, by key.
        bytes_read: bytes of the rows asked for so far; the system may have fetched pages around them.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self._values = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        except Exception as error:  # zip reader and unpickler share no class below this one
            raise CheckpointError(
                f"{path} can't be read as pickled weights: it is truncated, older than torch 1.6's format, or holds "
                f"more than tensors ({type(error).__name__}). Fetch it again or convert it to safetensors"
            ) from error
        self.tensors = {
            key: StoredTensor(tuple(value.shape), str(value.dtype), value.dtype in MERGEABLE_DTYPES)
            for key, value in self._values.items()
        }
        self.bytes_read = 0

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return a view of these rows; the system fetches its pages when they are used."""
        rows = self._values[key][start:stop]
        self.bytes_read += rows.nbytes
        return rows

    def close(self) -> None:
        """Drop the memory map."""
        self._values = {}


Shard = SafetensorsShard | PickledShard


def open_shard(path: Path) -> Shard:
    """Open a checkpoint file by its name.

    Raises:
        CheckpointError: a file that is truncated, or not what its name says.
    """
    try:
        return SafetensorsShard(path) if path.suffix == ".safetensors" else PickledShard(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
