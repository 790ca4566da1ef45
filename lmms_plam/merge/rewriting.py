"""Copies of large files with some of their bytes replaced, and comparisons of two such files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Event

import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Bytes of a piece: little enough that copying and computing, which write to one file, don't wait for each other."""

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


def copy_replacing(source: Path, target: Path, replacements: Sequence[Replacement], advance: Advance) -> None:
    """Write a copy of a file, with ranges of it replaced; what stays is copied beside, by the system where it can.

    Args:
        source: the file.
        target: where the copy goes.
        replacements: in the order of the file, without overlaps.
        advance: is told of the bytes written, by two threads.
    """
    size = source.stat().st_size
    rest = list(between(((one.start, one.stop) for one in replacements), size))
    ended = Event()
    with (
        source.open("rb", buffering=0) as old,
        target.open("wb", buffering=0) as new,
        ThreadPoolExecutor(1) as beside,
    ):
        new.truncate(size)
        copied = beside.submit(_copy, old, new, rest, advance, ended)
        try:
            for one in replacements:
                _write(new, _octets(one.make()), one.start)
                advance(one.stop - one.start)
                if copied.done():
                    copied.result()  # a full disk, before more is computed for it
            copied.result()
        finally:
            ended.set()


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


def _copy(old: FileIO, new: FileIO, ranges: Iterable[tuple[int, int]], advance: Advance, ended: Event) -> None:
    """Copy ranges of bytes to the same places of another file."""
    by_system = hasattr(os, "copy_file_range")
    for at, stop in ranges:
        while at < stop and not ended.is_set():
            count = 0
            if by_system:
                count = _copy_by_system(old, new, at, min(stop - at, _BLOCK))
                by_system = count > 0
            if not by_system:
                block = _read(old, at, min(stop - at, _BLOCK))
                count = len(block)
                if not count:
                    raise OSError(errno.EIO, "ends before it should", old.name)
                _write(new, memoryview(block), at)
            at += count
            advance(count)


def _copy_by_system(old: FileIO, new: FileIO, at: int, count: int) -> int:
    """Return how many bytes were copied; none where the system can't, as between some file systems."""
    try:
        return os.copy_file_range(old.fileno(), new.fileno(), count, at, at)
    except OSError as error:
        if error.errno in _NO_SUCH_COPY:
            return 0
        raise


def _read(file: FileIO, at: int, count: int) -> bytes:
    """Read so many bytes, fewer only at the file's end."""
    parts = []
    while count:
        part = os.pread(file.fileno(), count, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
        count -= len(part)
    return b"".join(parts)


def _write(file: FileIO, content: memoryview, at: int) -> None:
    while content:
        count = os.pwrite(file.fileno(), content, at)
        content = content[count:]
        at += count
