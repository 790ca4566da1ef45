"""Merging a base LM into a loaded VLM, one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import MergeError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.methods import linear
from lmms_plam.merge.plan import MergedTensor, MergePlan, plan_merge

_READ_AT_ONCE = 1 << 21
_MERGED_AT_ONCE = 1 << 15
"""Elements: few system calls, small working copies. On the CPU torch merges so few without its thread pool, whose
waiting costs more than it gains where cores are shared, and in memory that stays in its cache."""


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did.

    Attributes:
        base_lm: the base LM's folder or hub id.
        base_lm_commit: its commit on the hub; None of a folder.
        start_layer: first merged decoder layer, 0-based.
        end_layer: first layer above it that was not merged.
        depth: number of decoder layers.
        modules: kinds of tensors that were merged, as recipes name them.
        merged: every merged tensor with its source and coefficients.
        kept: names of the decoder's other parameters, which are as they were.
        bytes_read: bytes read from the base LM's weight files.
        bytes_merged: bytes of the VLM's weights that were written.
        warnings: what fits but deserves a look, a sentence each.
    """

    base_lm: str
    base_lm_commit: str | None
    start_layer: int
    end_layer: int
    depth: int
    modules: tuple[str, ...]
    merged: tuple[MergedTensor, ...]
    kept: tuple[str, ...]
    bytes_read: int
    bytes_merged: int
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """Return one line for people."""
        ends = self.merged[0].coefficients, self.merged[-1].coefficients
        shares = dict.fromkeys(f"{pair.lm:.3g} base LM + {pair.vlm:.3g} VLM" for pair in ends)
        return (
            f"merged {len(self.merged)} tensors ({self.bytes_merged / 1e6:,.1f} MB: {', '.join(self.modules)}) in "
            f"decoder layers {self.start_layer} to {self.end_layer - 1} of {self.depth}, {' to '.join(shares)}; read "
            f"{self.bytes_read / 1e6:,.1f} MB of {self.base_lm}; kept {len(self.kept)} decoder tensors"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON can hold them."""
        return asdict(self)


def merge_into(
    model: nn.Module, base_lm: str | Checkpoint, recipe: MergeRecipe, vocabulary: Mapping[str, int] | None = None
) -> MergeReport:
    """Merge a base LM into a loaded VLM, in place, as a recipe says.

    Whether the two fit is settled before the first write. The weights' values are checked as they are read, since
    reading twice or keeping copies would cost what this function is there to save: when NaN or Inf turns up, what came
    before it has been merged, and the model must be dropped. A second merge starts from the merged weights.

    Args:
        model: a transformers VLM in float16, bfloat16 or float32, on any devices.
        base_lm: the base LM; as text, its folder or hub id.
        recipe: what to merge, where and how much.
        vocabulary: as in `plan_merge`.

    Raises:
        ConfigError, MergeError, CheckpointError, UnsupportedError: as `plan_merge`, and MergeError for NaN, Inf or an
            overflow of the VLM's dtype, naming the tensor.
    """
    with base_lm if isinstance(base_lm, Checkpoint) else Checkpoint(base_lm) as source:
        plan = plan_merge(model, source, recipe, vocabulary)
        bytes_merged = 0
        for tensor in plan.merged:
            vlm = model.get_parameter(tensor.name).detach()
            for rows, block in _merged_blocks(vlm, source, tensor):
                vlm[rows] = block
                bytes_merged += block.nbytes
        return MergeReport(
            base_lm=source.reference,
            base_lm_commit=source.place.commit,
            start_layer=plan.layers.start,
            end_layer=plan.layers.stop,
            depth=plan.depth,
            modules=plan.modules,
            merged=plan.merged,
            kept=plan.kept,
            bytes_read=source.bytes_read,
            bytes_merged=bytes_merged,
            warnings=plan.warnings,
        )


def merged_tensors(model: nn.Module, source: Checkpoint, plan: MergePlan) -> Iterator[tuple[MergedTensor, Tensor]]:
    """Compute the merged tensors one by one, leaving the model as it is.

    Raises:
        MergeError: a tensor holds NaN or Inf, or the merged one overflows its dtype.
        CheckpointError: a file that can't be read to its end.
    """
    for tensor in plan.merged:
        yield tensor, merge_tensor(model.get_parameter(tensor.name).detach(), source, tensor)


class Source(Protocol):
    """Where rows of the base LM's tensors come from: its checkpoint, or what was read of it before."""

    reference: str

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows start to stop (first dimension) of a tensor, in its stored dtype."""


def merge_tensor(vlm: Tensor, source: Source, tensor: MergedTensor) -> Tensor:
    """Return one merged tensor, leaving the VLM's as it is; see `merged_tensors`."""
    merged = vlm.clone()
    for rows, block in _merged_blocks(vlm, source, tensor):
        merged[rows] = block
    return merged


def _merged_blocks(vlm: Tensor, source: Source, tensor: MergedTensor) -> Iterator[tuple[slice, Tensor]]:
    """Compute a merged tensor a few rows at a time; those rows of the VLM's may be overwritten before the next."""
    pair, width = tensor.coefficients, vlm[0].numel()
    read_at_once = max(1, _READ_AT_ONCE // width)
    at_once = max(1, _MERGED_AT_ONCE // width) if vlm.device.type == "cpu" else read_at_once
    ranges = [
        (first, min(first + read_at_once, end))
        for start, end in tensor.rows
        for first in range(start, end, read_at_once)
    ]
    for first, last in ranges:
        read = source.rows(tensor.source, first, last).to(vlm.device) if tensor.source else vlm[first:last]
        for start, lm in zip(range(first, last, at_once), torch.split(read, at_once), strict=True):
            rows = slice(start, start + len(lm))
            merged = linear(lm, vlm[rows], pair.lm, pair.vlm)
            if not _is_finite(merged):
                raise MergeError(_explain(lm, vlm[rows], tensor, source.reference))
            yield rows, merged


def _is_finite(tensor: Tensor) -> bool:
    low, high = tensor.aminmax()  # NaN passes through; many times faster than isfinite() in 16 bits
    return math.isfinite(low) and math.isfinite(high)


def _explain(lm: Tensor, vlm: Tensor, tensor: MergedTensor, base_lm: str) -> str:
    if tensor.source and not _is_finite(lm):
        return f"'{tensor.source}' of '{base_lm}' holds NaN or Inf; fetch that checkpoint again"
    if not _is_finite(vlm):
        return f"the VLM's '{tensor.name}' holds NaN or Inf; fetch its checkpoint again"
    return f"the merged '{tensor.name}' overflows {vlm.dtype}; lower the coefficients or load the VLM in bfloat16"
