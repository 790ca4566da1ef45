"""The largest changes of a tensor, told from the rest without holding the tensor: TIES trims so (arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_LOW_BITS = 15
_HIGH = 1 << 16
_LOW = 1 << _LOW_BITS
_MAGNITUDE = 0x7FFFFFFF
"""A float32 without its sign, read as an integer, orders as magnitudes do: 16 bits of it, then the other 15."""

_Passes = Callable[[], Iterable[Sequence[Tensor]]]


def thresholds(passes: _Passes, density: float) -> tuple[float, ...]:
    """Return for each of several tensors the size of its smallest change that stays.

    max(1, int(density * n)) of n changes stay, as in mergekit (peft lets all go where int(density * n) is 0). Where
    more are of the smallest size that stays, all of them do, so that no order of rows has a say; peft and mergekit keep
    just so many, whichever their sorting puts first.

    It reads the tensors twice, counting, and holds a few rows and the counts.

    Args:
        passes: each call begins a pass over the rows of the changes, in float32: for some rows, one tensor each.
        density: the part that stays, above 0 and up to 1.
    """
    high = _count(passes, lambda _, bits: bits >> _LOW_BITS, _HIGH)
    numbers = [int(counts.sum()) for counts in high]
    found = [_find(counts, max(1, int(density * n))) for counts, n in zip(high, numbers, strict=True)]

    def within(which: int, bits: Tensor) -> Tensor:
        return bits[bits >> _LOW_BITS == found[which][0]] & (_LOW - 1)

    low = _count(passes, within, _LOW)
    bits = [(top << _LOW_BITS) | _find(counts, rest)[0] for (top, rest), counts in zip(found, low, strict=True)]
    return tuple(torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist())


def trim(change: Tensor, threshold: float) -> Tensor:
    """Return the changes of at least this size, 0 for the others."""
    return change.masked_fill(change.abs() < threshold, 0)


def _count(passes: _Passes, select: Callable[[int, Tensor], Tensor], bins: int) -> list[Tensor]:
    totals: list[Tensor] = []
    for changes in passes():
        for which, change in enumerate(changes):
            bits = change.contiguous().view(torch.int32).flatten() & _MAGNITUDE
            counts = torch.bincount(select(which, bits), minlength=bins).cpu()
            if which == len(totals):
                totals.append(counts)
            else:
                totals[which] += counts
    return totals


def _find(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the bin of the rank-th largest, counted from 1, and its rank within that bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    own = len(counts) - 1 - place
    return own, rank - int(above[place] - counts[own])
