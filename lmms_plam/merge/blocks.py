"""The tensors of one merge, a few rows at a time: of the VLM, the base LM, and what else the method reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmms_plam.merge.further import Further, Source
from lmms_plam.merge.plan import MergedTensor
from lmms_plam.merge.vocabulary import Rows

_READ_AT_ONCE = 1 << 21
_MERGED_AT_ONCE = 1 << 15
_MERGED_AT_ONCE_ELSEWHERE = 1 << 23
"""Elements: few system calls, small working copies. On the CPU torch merges so few without its thread pool, whose
waiting costs more than it gains where cores are shared, and in memory that stays in its cache. On a GPU what counts is
how many kernels are launched."""


@dataclass(frozen=True, slots=True)
class Block:
    """The same rows of all tensors of a merge.

    Attributes:
        rows: which.
        start: place of their first weight in the whole tensor, counted along its rows.
        vlm: the VLM's, in its dtype, as all are on its device.
        lm: the base LM's; the VLM's where nothing of the base LM's is read.
        ancestor: the ancestor's; None where the method has none.
        information: diagonals of the Fisher information of VLM and base LM, in float32; none where it isn't read.
    """

    rows: slice
    start: int
    vlm: Tensor
    lm: Tensor
    ancestor: Tensor | None
    information: tuple[Tensor, ...]


def read_blocks(vlm: Tensor, source: Source, tensor: MergedTensor, further: Further[Source, Source]) -> Iterator[Block]:
    """Pass over the rows that are merged; those of the VLM's may be overwritten before the next are asked for.

    Args:
        vlm: the VLM's tensor.
        source: the base LM.
        tensor: what is merged.
        further: what else the method reads; where it has an ancestor and this has none, the base LM is the ancestor.
    """
    ancestor = further.ancestor or source
    width = vlm[0].numel()
    merged = _MERGED_AT_ONCE if vlm.device.type == "cpu" else _MERGED_AT_ONCE_ELSEWHERE
    at_once = max(1, merged // width)
    for first, last in _ranges(tensor.rows, width, max(_READ_AT_ONCE, merged)):

        def read(place: Source, key: str) -> tuple[Tensor, ...]:
            return torch.split(_read(place, key, ((first, last),), width).to(vlm.device), at_once)  # noqa: B023

        own = torch.split(vlm[first:last], at_once)
        theirs = read(source, tensor.source) if tensor.source is not None else own
        before = read(ancestor, tensor.ancestor) if tensor.ancestor is not None else None
        information = [read(further.fisher, key) for key in tensor.information if further.fisher is not None]
        row = first
        for index, rows in enumerate(own):
            yield Block(
                rows=slice(row, row + len(rows)),
                start=row * width,
                vlm=rows,
                lm=theirs[index],
                ancestor=before[index] if before else None,
                information=tuple(parts[index] for parts in information),
            )
            row += len(rows)


def read_whole(source: Source, key: str, shape: Sequence[int]) -> Tensor:
    """Read a tensor in the blocks that a merge reads, so that a checkpoint sees whether it has changed since."""
    return _read(source, key, ((0, shape[0]),), math.prod(shape[1:]))


def _read(source: Source, key: str, rows: Rows, width: int) -> Tensor:
    parts = [source.rows(key, first, last) for first, last in _ranges(rows, width, _READ_AT_ONCE)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _ranges(rows: Rows, width: int, elements: int) -> Iterator[tuple[int, int]]:
    most = max(1, _READ_AT_ONCE // width) * max(1, elements // _READ_AT_ONCE)  # what is read twice is read alike
    for start, end in rows:
        for first in range(start, end, most):
            yield first, min(first + most, end)
