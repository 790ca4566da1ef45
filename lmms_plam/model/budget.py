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
        beside: variants that run side by side in a layer, with the same weights, have this in common; others run one
            after another in the same work space.
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
    hidden = variant.hidden(depth)
    starts = [hidden.start] if hidden else []
    starts += [own.start] if own is not None else []
    starts += [variant.silent] if variant.silent is not None else []
    start = min(starts, default=depth)
    if hidden and hidden.stop == depth:
        computed = int(batch.prompts.text.sum(dim=1).max())
    elif variant.silent is not None and own is None and not hidden:
        computed = 1
    else:
        computed = batch.length if start < depth else 0
    new = batch.rules.config.max_length - batch.length
    states = (depth - start) * 2 * computed + start * batch.length // SIDE_BY_SIDE + depth * new
    held = 2 * heads * dim * states + computed * text.hidden_size
    work = computed * (4 * text.hidden_size + 3 * text.intermediate_size)
    logits = 3 * torch.float32.itemsize * text.vocab_size
    size = batch.model.dtype.itemsize
    return Need(
        held=answers * (held * size + logits),
        work=answers * work * size,
        beside=own.key(depth - 1) if own is not None else None,
    )


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
