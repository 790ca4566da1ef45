"""Copies of large files with some of their bytes replaced, and comparisons of two such files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

_BLOCK = 1 << 22
_AT_ONCE = 1 << 26
"""Bytes: of a copy through memory, and of one that the system makes by itself between two looks at the clock."""

_NO_SUCH_COPY = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}

Advance = Callable[[int], None]
"""Is told how many bytes are done since it was last told."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A range of a file's bytes, and what computes the tensor that comes in their place.

    Attributes:
        key: the tensor's key.
        start: its first byte.
        stop: the byte after its last.
        make: returns the tensor, of as many bytes.
    """

    key: str
    start: int
    stop: int
    make: Callable[[], Tensor]


def copy_replacing(source: Path, target: Path, replacements: Iterable[Replacement], advance: Advance) -> None:
    """Write a copy of a file, with ranges of it replaced; what stays is copied by the system where it can.

    Args:
        source: the file.
        target: where the copy goes.
        replacements: in the order of the file, without overlaps.
        advance: is told of the bytes written.
    """
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        done = 0
        for one in replacements:
            _copy(old, new, done, one.start, advance)
            _write(new, _octets(one.make()))
            advance(one.stop - one.start)
            done = one.stop
        _copy(old, new, done, source.stat().st_size, advance)


def first_difference(one: Path, other: Path, ranges: Iterable[tuple[int, int]], advance: Advance) -> int | None:
    """Return the first byte within the ranges in which two files differ; None where they are equal there."""
    with one.open("rb", buffering=0) as ours, other.open("rb", buffering=0) as theirs:
        for start, stop in ranges:
            for at in range(start, stop, _BLOCK):
                count = min(_BLOCK, stop - at)
                left, right = _read(ours, at, count), _read(theirs, at, count)
                if left != right:
                    return at + next(
                        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), len(left)
                    )
                advance(count)
    return None


def holds(path: Path, replacement: Replacement) -> bool:
    """Whether a file holds the bytes of a replacement."""
    made = _octets(replacement.make())
    with path.open("rb", buffering=0) as file:
        for at in range(0, len(made), _BLOCK):
            part = made[at : at + _BLOCK]
            if _read(file, replacement.start + at, len(part)) != part.tobytes():
                return False
    return True


def between(spans: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that lie outside of spans, which are in its order."""
    done = 0
    for start, stop in spans:
        if start > done:
            yield done, start
        done = stop
    if size > done:
        yield done, size


def _octets(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes as a safetensors file holds them."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _copy(old: BinaryIO, new: BinaryIO, start: int, stop: int, advance: Advance) -> None:
    """Append bytes start to stop of one file to another."""
    by_system = hasattr(os, "copy_file_range")
    while start < stop:
        count = 0
        if by_system:
            try:
                count = os.copy_file_range(old.fileno(), new.fileno(), min(stop - start, _AT_ONCE), start)
            except OSError as error:  # between file systems, say
                if error.errno not in _NO_SUCH_COPY:
                    raise
            by_system = count > 0
        if not by_system:
            block = _read(old, start, min(stop - start, _BLOCK))
            count = len(block)
            if not count:
                raise OSError(errno.EIO, "ends before it should", old.name)
            _write(new, memoryview(block))
        start += count
        advance(count)


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    """Read so many bytes, fewer only at the file's end."""
    parts = []
    while count:
        part = os.pread(file.fileno(), count, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        count -= len(part)
    return b"".join(parts)


def _write(file: BinaryIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]
