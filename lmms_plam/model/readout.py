"""Reading attention off while the model runs: what a prompt's text and an answer's tokens give to vision tokens.

Nothing of the model is changed, and its own attention computes the answers. Of the queries asked for, scores against
all keys are computed a second time, in float32 and a group of heads at a time; of their softmax the columns of vision
tokens are used and what is left is thrown away, so that the matrix of all queries never exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lmms_plam.model.host import Attention

SINK = 20.0
"""How many times its root mean square a hidden state exceeds in a sink's dimensions (Kang et al., arXiv 2503.03321)."""


_AT_ONCE = 1 << 19
"""Scores that are held at once: beyond that, one key head after another."""


@dataclass(frozen=True, slots=True)
class VisionAttention:
    """What some query tokens give to a prompt's n vision tokens, by layer; tensors are float32 on the CPU.

    Attributes:
        mass: [layers, heads] the attention that falls on vision, mean over the query tokens.
        entropy: [layers, heads] entropy of the attention within vision (renormalised), mean over the query tokens that
            give vision any, in units of log n: 1 is spread evenly, 0 on one token. NaN where there is none, or n is 1.
        focus: [layers, heads] the share of the smallest set of vision tokens that holds half of what all query tokens
            give to vision. NaN where they give nothing.
        map: [layers, n] what each vision token gets, mean over heads and query tokens.
    """

    mass: Tensor
    entropy: Tensor
    focus: Tensor
    map: Tensor


@dataclass(frozen=True, slots=True)
class Readout:
    """What was read off while a prompt was answered.

    Attributes:
        instruction: of the prompt's text behind its last vision token, in prefill.
        response: of the answer's tokens that were read to choose the next one: all but the last; None if there is no
            such token.
        sinks: bool [layers, n], the vision tokens that are attention sinks: in the dimensions in which the hidden state
            of the prompt's first token entering this layer exceeds `SINK` times its root mean square, theirs does too.
            They are told in the model as loaded, and taken for the same in all variants.
    """

    instruction: VisionAttention
    response: VisionAttention | None
    sinks: Tensor


class LayerAttention(NamedTuple):
    """What some query tokens give to n vision tokens in one layer: the fields of `VisionAttention`, without layers."""

    mass: Tensor
    entropy: Tensor
    focus: Tensor
    map: Tensor


class Given(NamedTuple):
    """What groups of query tokens give to n vision tokens in one layer, summed over a group's tokens.

    Attributes:
        weights: [groups, heads, n].
        entropy: [groups, heads], in units of log n.
        counted: [groups, heads] how many tokens give vision any attention.
    """

    weights: Tensor
    entropy: Tensor
    counted: Tensor

    def of(self, group: int) -> Given:
        """Return one group's."""
        return Given(*(part[group : group + 1] for part in self))

    def plus(self, other: Given | None) -> Given:
        """Add what further tokens of the same groups give."""
        return self if other is None else Given(*(one + two for one, two in zip(self, other, strict=True)))

    def average(self, tokens: int) -> LayerAttention:
        """Return means of a single group, of so many tokens."""
        weights = self.weights[0] / tokens
        mass, entropy = weights.sum(dim=-1), self.entropy[0] / self.counted[0]
        before = weights.sort(dim=-1, descending=True).values.cumsum(dim=-1)
        needed = 1 + (before < mass[:, None] / 2).sum(dim=-1)
        focus = (needed / weights.shape[-1]).where(mass > 0, torch.nan)
        return LayerAttention(mass.cpu(), entropy.cpu(), focus.cpu(), weights.mean(dim=0).cpu())


def nothing(heads: int, vision: int) -> LayerAttention:
    """Return what there is to say where vision is hidden, or gets no attention at all."""
    unknown = torch.full((heads,), torch.nan)
    return LayerAttention(torch.zeros(heads), unknown, unknown, torch.zeros(vision))


def given_to(
    attention: Attention, query: Tensor, key: Tensor, mask: Tensor | None, columns: Tensor, groups: int = 1
) -> Given:
    """Compute what query tokens give to vision tokens.

    Args:
        attention: the layer's own.
        query: [heads, queries, dim], the queries group by group, as many in each.
        key: [key heads, keys, dim].
        mask: [queries, keys], boolean or additive; None: causal, the queries are the last of the keys.
        columns: [n], where among the keys vision tokens are.
        groups: number of groups.
    """
    queries, keys, per_key = query.shape[1], key.shape[1], len(query) // len(key)
    spread = torch.tensor(float(len(columns))).log()  # of one token alone 0, so that its entropy is unknown
    first, last = int(columns[0]), int(columns[-1])
    where = slice(first, last + 1) if last - first < len(columns) else columns  # a slice copies nothing
    at_once = max(1, _AT_ONCE // (per_key * queries * keys))
    found = []
    for start in range(0, len(key), at_once):
        own, part = key[start : start + at_once], query[start * per_key : (start + at_once) * per_key]
        scores = attention.scores(part.reshape(len(own), -1, part.shape[-1]), own).view(-1, queries, keys)
        if mask is None:
            scores[..., -queries:].masked_fill_(~_causal(queries, key.device), -torch.inf)
        elif mask.dtype == torch.bool:
            scores.masked_fill_(~mask, -torch.inf)
        else:
            scores += mask
        weights = scores.softmax(dim=-1)[..., where]
        del scores
        mass = weights.sum(dim=-1)
        counted = mass > 0
        within = (torch.special.entr(weights).sum(dim=-1) / mass + mass.log()).clamp(min=0)
        entropy = within.where(counted & (spread > 0), 0) / spread  # rounding would make the one token's infinite
        sums = (value.unflatten(1, (groups, -1)).sum(dim=2).transpose(0, 1) for value in (weights, entropy, counted))
        found.append(tuple(sums))
    return Given(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def _causal(count: int, device: torch.device) -> Tensor:
    return torch.ones(count, count, dtype=torch.bool, device=device).tril()


def find_sinks(hidden: Tensor, first: int, vision: Tensor) -> Tensor:
    """Say which vision tokens of a prompt are attention sinks, as `Readout` defines them.

    Args:
        hidden: [length, width], the hidden states that enter a layer.
        first: position of the prompt's first token.
        vision: [n], positions of its vision tokens.

    Returns:
        bool [n].
    """
    states = hidden[vision]
    size = torch.linalg.vector_norm(hidden[first], dtype=torch.float32) / hidden.shape[-1] ** 0.5
    dims = (hidden[first].abs() >= SINK * size).nonzero().flatten()
    sizes = torch.linalg.vector_norm(states, dim=-1, dtype=torch.float32) / hidden.shape[-1] ** 0.5
    found: Tensor = (states[:, dims].abs() >= SINK * sizes[:, None]).any(dim=-1)
    return found


def stacked(layers: Iterable[LayerAttention]) -> VisionAttention:
    """Join what was read off layer by layer."""
    return VisionAttention(*(torch.stack(parts) for parts in zip(*layers, strict=True)))
