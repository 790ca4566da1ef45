"""How far a VLM's weights are from a language model's: did it grow from that one, and which of several is nearest?

Nobody documents whether Qwen2.5-VL grew from the base or the instruct model. Tuning moves weights by a small part of
their length; weights of another training are at right angles to them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmms_plam.errors import MergeError
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.further import Source
from lmms_plam.merge.names import decoder_tensors
from lmms_plam.merge.plan import MergePlan

UNRELATED = 0.5
"""A cosine below this is no fine-tune's: even the embedded pairs, tuned far, are at .9, another training's at 0."""

_AT_ONCE = 1 << 16
_SAMPLED_ROWS = 16


@dataclass(frozen=True, slots=True)
class LayerDistance:
    """How far a decoder layer is from another model's.

    Attributes:
        layer: 0-based; None for what lies outside the layers.
        distance: length of the difference, as a part of the length of the other model's weights.
        cosine: of the angle between the two, each taken as one vector.
    """

    layer: int | None
    distance: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Lineage:
    """How far a VLM is from a language model.

    Attributes:
        reference: the language model's folder or hub id.
        commit: its commit on the hub; None of a folder.
        distance: as of a layer, over all of them.
        cosine: likewise.
        weights: number of weights looked at.
        layers: by layer, in their order.
    """

    reference: str
    commit: str | None
    distance: float
    cosine: float
    weights: int
    layers: tuple[LayerDistance, ...]

    @property
    def unrelated(self) -> bool:
        """Whether the VLM looks as if it had not grown from this model, nor from one of its kin."""
        return not self.cosine >= UNRELATED

    def in_words(self) -> str:
        """Return one line for people."""
        far = [layer.distance for layer in self.layers]
        line = (
            f"the VLM is {self.distance:.1%} of its length away from {self.reference} ({min(far):.1%} to "
            f"{max(far):.1%} by layer), cosine {self.cosine:.4f}"
        )
        return f"{line}: they look unrelated, is it the model that the VLM grew from?" if self.unrelated else line


@dataclass(slots=True)
class _Sums:
    weights: int = 0
    ours: float = 0
    theirs: float = 0
    between: float = 0
    both: float = 0

    def add(self, vlm: Tensor, lm: Tensor) -> None:
        """Add rows of both, in float32 for a few at a time and then in float64."""
        parts = (torch.split(rows.to(vlm.device).flatten(), _AT_ONCE) for rows in (vlm, lm))
        for ours, theirs in ((a.float(), b.float()) for a, b in zip(*parts, strict=True)):
            difference = ours - theirs
            self.weights += ours.numel()
            self.ours += torch.dot(ours, ours).item()
            self.theirs += torch.dot(theirs, theirs).item()
            self.both += torch.dot(ours, theirs).item()
            self.between += torch.dot(difference, difference).item()

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.weights + other.weights,
            self.ours + other.ours,
            self.theirs + other.theirs,
            self.between + other.between,
            self.both + other.both,
        )

    @property
    def distance(self) -> float:
        return math.sqrt(self.between / self.theirs) if self.theirs else math.nan

    @property
    def cosine(self) -> float:
        length = math.sqrt(self.ours) * math.sqrt(self.theirs)
        return self.both / length if length else math.nan


@dataclass(frozen=True, slots=True)
class _Pair:
    layer: int | None
    vlm: str
    lm: str
    rows: Sequence[tuple[int, int]]


def lineage(vlm: Checkpoint, lm: Checkpoint, modules: frozenset[str]) -> Lineage:
    """Compare all weights of some modules, read a few rows at a time from the files of both.

    Biases and the scales of norms are left out: few as they are, some are so large that they would stand for all.

    Args:
        vlm: the VLM.
        lm: a language model that it may have grown from.
        modules: as recipes name them.

    Raises:
        MergeError: a tensor of another shape, or none of the modules.
        CheckpointError: tensors that are missing, or can't be read.
        UnsupportedError: quantised weights.
    """
    for source in (vlm, lm):
        source.require_unquantised()
    ours, theirs = decoder_tensors(vlm.files), decoder_tensors(lm.files)
    pairs = []
    for tensor, key in ours.items():
        shape = vlm.describe(key).shape if tensor.modules and tensor.modules <= modules else ()
        if len(shape) < 2:
            continue
        if tensor not in theirs:
            if tensor.layer is None:  # a tied head
                continue
            raise MergeError(f"'{lm.reference}' has no tensor for the decoder's {tensor}")
        other = lm.describe(theirs[tensor]).shape
        if other[1:] != shape[1:] or (other != shape and tensor.layer is not None):
            raise MergeError(
                f"'{theirs[tensor]}' of '{lm.reference}' has the shape {list(other)}, the VLM's '{key}' {list(shape)}"
            )
        at_once = max(1, (1 << 21) // math.prod(shape[1:]))
        count = min(shape[0], other[0])
        rows = [(start, min(start + at_once, count)) for start in range(0, count, at_once)]
        pairs.append(_Pair(tensor.layer, key, theirs[tensor], rows))
    if not pairs:
        raise MergeError(f"'{vlm.reference}' has no weights of {', '.join(sorted(modules))} in its decoder")
    return _measure(pairs, vlm, lm)


def sampled_lineage(model: nn.Module, lm: Checkpoint, plan: MergePlan) -> Lineage | None:
    """Compare a few rows of every weight that a plan merges: a look before a merge, which reads next to nothing.

    Args:
        model: the loaded VLM, not merged yet.
        lm: its base LM.
        plan: of the merge.

    Returns:
        None where nothing of the base LM's weights is merged.
    """
    parameters = dict(model.named_parameters())
    names = {name: tensor for tensor, name in decoder_tensors(parameters).items()}
    pairs = []
    for tensor in plan.merged:
        key = tensor.source or (tensor.ancestor if tensor.way.ancestor is None else None)
        if key is None or parameters[tensor.name].dim() < 2:
            continue
        places = [row for start, end in tensor.rows for row in range(start, end)]
        step = max(1, len(places) // _SAMPLED_ROWS)
        pairs.append(_Pair(names[tensor.name].layer, tensor.name, key, [(row, row + 1) for row in places[::step]]))
    return _measure(pairs, _Loaded(parameters), lm) if pairs else None


@dataclass(frozen=True, slots=True)
class _Loaded:
    parameters: Mapping[str, Tensor]
    reference: str = "the VLM"

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        return self.parameters[key].detach()[start:stop]


def _measure(pairs: Sequence[_Pair], vlm: Source, lm: Checkpoint) -> Lineage:
    by_layer: dict[int | None, _Sums] = defaultdict(_Sums)
    for layer, ours, theirs in _read(pairs, vlm, lm):
        by_layer[layer].add(ours, theirs)
    total = _Sums()
    for sums in by_layer.values():
        total = total.plus(sums)
    return Lineage(
        reference=lm.reference,
        commit=lm.place.commit,
        distance=total.distance,
        cosine=total.cosine,
        weights=total.weights,
        layers=tuple(
            LayerDistance(layer, sums.distance, sums.cosine)
            for layer, sums in sorted(by_layer.items(), key=lambda item: math.inf if item[0] is None else item[0])
        ),
    )


def _read(pairs: Sequence[_Pair], vlm: Source, lm: Source) -> Iterator[tuple[int | None, Tensor, Tensor]]:
    for pair in pairs:
        for start, stop in pair.rows:
            yield pair.layer, vlm.rows(pair.vlm, start, stop), lm.rows(pair.lm, start, stop)
