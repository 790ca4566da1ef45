"""Which variants are processed together, so that what they take beyond an ordinary run stays within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch

from lmms_plam.model.batch import Batch
from lmms_plam.model.decoding import SIDE_BY_SIDE
from lmms_plam.model.variants import Variant, WeightSet


@dataclass(frozen=True, slots=True)
class Need:
    """What a variant's answers take, in bytes, by estimate.

    Attributes:
        held: keys and values, in prefill and copied for decoding, hidden states and logits.
        work: a layer's work space in prefill.
        beside: variants that have this in common, what tells their last layer's weights from others, are taken to run
            side by side in all layers; others one after another, in the same work space.
    """

    held: int
    work: int
    beside: Hashable


def estimate(batch: Batch, variant: Variant, weights: Mapping[str, WeightSet], answers: int) -> Need:
    """Estimate what so many answers of a variant take."""
    text, depth = batch.decoder.text.config, batch.decoder.depth
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    own = weights[variant.weights] if variant.weights is not None else None
    first = own.start if own is not None else depth
    computed = [_positions(batch, variant, first, layer) for layer in range(depth)]
    new = batch.rules.config.max_length - batch.length
    states = 2 * sum(computed) + computed.count(0) * batch.length // SIDE_BY_SIDE + depth * new
    held = 2 * heads * dim * states + max(computed) * text.hidden_size
    work = max(computed) * (4 * text.hidden_size + 3 * text.intermediate_size)
    logits = 3 * torch.float32.itemsize * text.vocab_size
    size = batch.model.dtype.itemsize
    return Need(
        held=answers * (held * size + logits),
        work=answers * work * size,
        beside=own.key(depth - 1) if own is not None else None,
    )


def _positions(batch: Batch, variant: Variant, first: int, layer: int) -> int:
    """Return how many positions a variant computes by itself in a layer; `first` is the first with own weights."""
    depth, length = batch.decoder.depth, batch.length
    hidden = variant.hidden(depth)
    if variant.silent is not None and layer >= variant.silent:
        return 1
    if hidden and layer >= hidden.start:
        return batch.prompts.most_text if hidden.stop == depth else length
    return length if layer >= first else 0


def group(needs: Mapping[Variant, Need], budget: int) -> list[list[Variant]]:
    """Split variants, in order, so that groups of two or more take so many bytes at most."""
    groups: list[list[Variant]] = [[]]
    held, work = 0, Counter[Hashable]()
    for variant, need in needs.items():
        held += need.held
        work[need.beside] += need.work
        if held + max(work.values()) > budget and groups[-1]:
            groups.append([])
            held, work = need.held, Counter({need.beside: need.work})
        groups[-1].append(variant)
    return groups
