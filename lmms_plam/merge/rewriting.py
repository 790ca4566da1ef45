"""Copies of large files with some of their bytes replaced, and comparisons of two such files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Bytes of a piece: what is held of a file at once, and copied before a tensor that is ready is written."""

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


_Begun = list[tuple[Replacement, "Future[Tensor]"]]
"""The replacement that is being made, with what waits for it; empty after the last."""


def copy_replacing(source: Path, target: Path, replacements: Sequence[Replacement], advance: Advance) -> None:
    """Write a copy of a file, with ranges of it replaced; what stays is copied by the system where it can.

    A thread beside computes; this one alone writes, since two that write to one file wait for each other.

    Args:
        source: the file.
        target: where the copy goes.
        replacements: in the order of the file, without overlaps.
        advance: is told of the bytes written.
    """
    size = source.stat().st_size
    rest = between(((one.start, one.stop) for one in replacements), size)
    todo = iter(replacements)
    with (
        source.open("rb", buffering=0) as old,
        target.open("wb", buffering=0) as new,
        ThreadPoolExecutor(1) as beside,
    ):

        def begin() -> _Begun:
            return [(one, beside.submit(one.make)) for one in islice(todo, 1)]

        new.truncate(size)
        begun = begin()
        for at, stop in _pieces(rest):
            _copy(old, new, at, stop)
            advance(stop - at)
            if begun and begun[0][1].done():
                begun = _put(new, *begun[0], begin, advance)
        while begun:
            begun = _put(new, *begun[0], begin, advance)


def _put(new: FileIO, one: Replacement, made: Future[Tensor], begin: Callable[[], _Begun], advance: Advance) -> _Begun:
    """Write a replacement that has been made, while the next one is."""
    tensor = made.result()
    begun = begin()
    _write(new, _octets(tensor), one.start)
    advance(one.stop - one.start)
    return begun


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


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges of bytes into short ones."""
    for start, stop in ranges:
        for at in range(start, stop, _BLOCK):
            yield at, min(at + _BLOCK, stop)


def _copy(old: FileIO, new: FileIO, at: int, stop: int) -> None:
    """Copy a range of bytes to the same place of another file."""
    while at < stop:
        count = _copy_by_system(old, new, at, stop - at) if hasattr(os, "copy_file_range") else 0
        if not count:
            block = _read(old, at, stop - at)
            count = len(block)
            if not count:
                raise OSError(errno.EIO, "ends before it should", old.name)
            _write(new, memoryview(block), at)
        at += count


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
