"""Merging a base LM into a loaded VLM, one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import MergeError
from lmms_plam.merge.blocks import Block, read_blocks
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.combine import combination
from lmms_plam.merge.further import Further, FurtherFiles, Source
from lmms_plam.merge.plan import MergedTensor, MergePlan, Way, plan_merge


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
        bytes_read: bytes read from the weight files of base LM and ancestor.
        bytes_merged: bytes of the VLM's weights that were written.
        warnings: what fits but deserves a look, a sentence each.
        way: the method, and what it takes.
        ancestor_commit: the ancestor's commit on the hub; None of a folder, and where the recipe names no ancestor.
        fisher: how the Fisher information was estimated; None where the method takes none.
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
    way: Way
    ancestor_commit: str | None
    fisher: Mapping[str, Any] | None

    def summary(self) -> str:
        """Return one line for people."""
        ends = self.merged[0].coefficients, self.merged[-1].coefficients
        shares = dict.fromkeys(f"{pair.lm:.3g} base LM + {pair.vlm:.3g} VLM" for pair in ends)
        return (
            f"merged {len(self.merged)} tensors ({self.bytes_merged / 1e6:,.1f} MB: {', '.join(self.modules)}) in "
            f"decoder layers {self.start_layer} to {self.end_layer - 1} of {self.depth}, "
            f"{' to '.join(shares)}{self.way.in_words()}; read "
            f"{self.bytes_read / 1e6:,.1f} MB of {self.base_lm}; kept {len(self.kept)} decoder tensors"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON can hold them; the way to merge stands once, not with every tensor."""
        return {**asdict(self), "merged": tuple(tensor.to_dict() for tensor in self.merged)}


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
    source = base_lm if isinstance(base_lm, Checkpoint) else Checkpoint(base_lm)
    with source, FurtherFiles.of(recipe) as further:
        plan = plan_merge(model, source, recipe, vocabulary, further)
        bytes_merged = 0
        for tensor in plan.merged:
            vlm = model.get_parameter(tensor.name).detach()
            for rows, block in _merged_blocks(vlm, source, tensor, further):
                vlm[rows] = block
                bytes_merged += block.nbytes
        ancestor = further.ancestor
        return MergeReport(
            base_lm=source.reference,
            base_lm_commit=source.place.commit,
            start_layer=plan.layers.start,
            end_layer=plan.layers.stop,
            depth=plan.depth,
            modules=plan.modules,
            merged=plan.merged,
            kept=plan.kept,
            bytes_read=source.bytes_read + (ancestor.bytes_read if ancestor else 0),
            bytes_merged=bytes_merged,
            warnings=plan.warnings,
            way=Way.of(recipe),
            ancestor_commit=ancestor.place.commit if ancestor else None,
            fisher=further.fisher.about if further.fisher else None,
        )


def merged_tensors(
    model: nn.Module, source: Checkpoint, plan: MergePlan, further: Further[Source, Source] | None = None
) -> Iterator[tuple[MergedTensor, Tensor]]:
    """Compute the merged tensors one by one, leaving the model as it is.

    Args:
        model: the VLM.
        source: the base LM.
        plan: what is merged.
        further: what else the plan's recipe names; it may be left out where that is nothing.

    Raises:
        MergeError: a tensor holds NaN or Inf, or the merged one overflows its dtype.
        CheckpointError: a file that can't be read to its end.
    """
    for tensor in plan.merged:
        yield tensor, merge_tensor(model.get_parameter(tensor.name).detach(), source, tensor, further)


def merge_tensor(
    vlm: Tensor,
    source: Source,
    tensor: MergedTensor,
    further: Further[Source, Source] | None = None,
    *,
    known_finite: bool = False,
) -> Tensor:
    """Return one merged tensor, leaving the VLM's as it is; see `merged_tensors`.

    Where it was merged before and is known to hold no NaN and no Inf, nobody looks again, for which a GPU would have to
    be waited for.
    """
    merged = vlm.clone()
    for rows, block in _merged_blocks(vlm, source, tensor, further or Further(), known_finite):
        merged[rows] = block
    return merged


def _merged_blocks(
    vlm: Tensor,
    source: Source,
    tensor: MergedTensor,
    further: Further[Source, Source],
    known_finite: bool = False,
) -> Iterator[tuple[slice, Tensor]]:
    """Compute a merged tensor a few rows at a time; those rows of the VLM's may be overwritten before the next."""
    if (tensor.way.ancestor and not further.ancestor) or (tensor.information and not further.fisher):
        raise MergeError(f"'{tensor.name}' is merged by {tensor.way.method}, whose further sources weren't opened")
    passes = partial(read_blocks, vlm, source, tensor, further)
    merge = combination(tensor, passes)
    for block in passes():
        merged = merge(block)
        if not known_finite and not _is_finite(merged):
            raise MergeError(_explain(block, tensor, source, further))
        yield block.rows, merged


def _is_finite(tensor: Tensor) -> bool:
    low, high = tensor.aminmax()  # NaN passes through; many times faster than isfinite() in 16 bits
    return math.isfinite(low) and math.isfinite(high)


def _explain(block: Block, tensor: MergedTensor, source: Source, further: Further[Source, Source]) -> str:
    read = ((block.lm, tensor.source, source), (block.ancestor, tensor.ancestor, further.ancestor or source))
    for rows, key, place in read:
        if key is not None and rows is not None and not _is_finite(rows):
            return f"'{key}' of '{place.reference}' holds NaN or Inf; fetch that checkpoint again"
    if not _is_finite(block.vlm):
        return f"the VLM's '{tensor.name}' holds NaN or Inf; fetch its checkpoint again"
    for rows, key in zip(block.information, tensor.information, strict=True):
        if not _is_finite(rows):
            return f"'{key}' of '{tensor.way.fisher}' holds NaN or Inf; run `plam fisher` again"
    return f"the merged '{tensor.name}' overflows {block.vlm.dtype}; lower the coefficients or load the VLM in bfloat16"
