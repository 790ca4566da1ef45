"""The branches: what variants compute for themselves in prefill, started from the trunk, many side by side.

At each layer, the branches that run with the same weights on the same positions go through `layer.forward` as one
batch, with the trunk's own arguments taken at their positions. So rotary positions, masks, norms and mixtures stay the
model's, and no code here knows a model family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.anatomy import Decoder
from lmms_plam.model.lanes import Lane, Prompts, QueryScope, last_only, text_lane
from lmms_plam.model.trunk import Keep, Trunk
from lmms_plam.model.variants import Node, Tree, WeightSet, installed


KeysValues = tuple[Tensor, Tensor]


class _Handover(Exception):  # noqa: N818 - a signal, not an error
    """Raised by the cache once it has the keys and values: the rest of the call isn't needed."""


@dataclass(slots=True)
class _LayerCache:
    """What a decoder layer sees as its cache in prefill: it puts borrowed keys and values before the branch's own.

    Attributes:
        borrowed: keys and values to put first, None for none.
        stop: give up the call once keys and values are known.
        held: the joined keys and values; given beforehand, they're handed out and nothing is stored.
    """

    borrowed: KeysValues | None = None
    stop: bool = False
    held: KeysValues | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.held is None:
            if self.borrowed is not None:
                copies = len(keys) // len(self.borrowed[0])
                keys = torch.cat([self.borrowed[0].repeat(copies, 1, 1, 1), keys], dim=2)
                values = torch.cat([self.borrowed[1].repeat(copies, 1, 1, 1), values], dim=2)
            self.held = keys, values
        if self.stop:
            raise _Handover
        return self.held


@dataclass(frozen=True, slots=True)
class Branches:
    """What the branches' prefill leaves behind.

    Attributes:
        states: by layer and node, keys and values, each [prompts of its lane, heads, length, dim].
        last: by leaf node, the hidden states [prompts of its lane, 1, width] that the last layer returns for the
            prompts' last position.
    """

    states: list[dict[Node, KeysValues]]
    last: dict[Node, Tensor]


class Layout:
    """Which positions each node of a family computes.

    Args:
        prompts: the batch.
        scope: from which queries vision is hidden.
    """

    def __init__(self, prompts: Prompts, scope: QueryScope):
        self.prompts = prompts
        self.scope = scope
        self._lanes: dict[bool, Lane] = {}

    def lane(self, node: Node) -> Lane | None:
        """Return the lane of a blind node; None for one that sees: it computes every position of every prompt."""
        if not node.blind:
            return None
        borrowing = all(variant.weights is None for variant in node.variants)
        if not borrowing and self.scope == "last":
            raise UnsupportedError("query scope 'last' for variants with replaced weights")
        if borrowing not in self._lanes:
            self._lanes[borrowing] = text_lane(self.prompts, self.scope, borrowing)
        return self._lanes[borrowing]

    def row(self, node: Node, prompt: int) -> int:
        """Return the row of a prompt in the tensors of a node."""
        return self.prompts.seeing.index(prompt) if node.blind else prompt

    def text_states(self, node: Node, prompt: int, states: KeysValues) -> KeysValues:
        """Keys and values [1, heads, text length, dim] of a prompt's text in a blind node, without padding."""
        lane, row = self.lane(node), self.row(node, prompt)
        assert lane is not None
        keys, values = (part[row : row + 1] for part in states)
        real = lane.keys_real[row]
        return (keys, values) if real.all() else (keys[:, :, real], values[:, :, real])

    def entrance(self, node: Node) -> tuple[str, Callable[[Tensor], Tensor]]:
        """Name and selection of the hidden states with which a node starts, out of all positions."""
        lane = self.lane(node)
        return ("all", lambda states: states) if lane is None else (f"lane {id(lane)}", lane.take)


def what_to_keep(trees: list[Tree], layout: Layout) -> Keep:
    """Say which hidden states of the trunk the branches of these trees will start from."""
    keep: dict[int, dict[str, Callable[[Tensor], Tensor]]] = {}
    for tree in trees:
        for node in tree.nodes:
            if node.parent is tree.nodes[0]:
                name, selection = layout.entrance(node)
                keep.setdefault(node.start, {})[name] = selection
    return keep


def run_branches(
    tree: Tree, trunk: Trunk, layout: Layout, decoder: Decoder, weights: Mapping[str, WeightSet]
) -> Branches:
    """Compute everything of a family's prefill that the trunk hasn't.

    Args:
        tree: the family; its root is the trunk.
        trunk: the watched prefill.
        layout: the positions by node.
        decoder: the model's decoder.
        weights: weight sets by name.
    """
    for node in tree.nodes[1:]:
        if not node.blind and any(node.start <= layer < node.end - 1 for layer in trunk.added):
            raise UnsupportedError(
                f"weight set '{node.weights}' starts at layer {node.start}, where this model still adds vision features "
                f"to the states (after layer {max(trunk.added)})"
            )
    hidden: dict[Node, Tensor] = {}
    states: list[dict[Node, KeysValues]] = []
    for index, layer in enumerate(decoder.layers):
        for node in tree.nodes[1:]:
            if node.start == index:
                hidden[node] = _enter(node, tree, trunk, layout, hidden)
        batches: dict[tuple[Node | Lane, str | None], list[Node]] = {}
        for node in [node for node in hidden if index < node.end]:
            name = node.weights if node.weights is not None and index in weights[node.weights].layers else None
            batches.setdefault((layout.lane(node) or node, name), []).append(node)
        entering, hidden = hidden, {}
        states.append({})
        for (_, name), nodes in batches.items():
            with installed(weights[name] if name is not None else None, {index: layer}):
                output, keys, values = _run_layer(
                    layer, torch.cat([entering[node] for node in nodes]), layout.lane(nodes[0]), index, trunk, decoder
                )
            parts = (tensor.chunk(len(nodes)) for tensor in (output, keys, values))
            for node, part, key, value in zip(nodes, *parts, strict=True):
                hidden[node] = part
                states[index][node] = key, value
    return Branches(states, hidden)


def _enter(node: Node, tree: Tree, trunk: Trunk, layout: Layout, hidden: Mapping[Node, Tensor]) -> Tensor:
    """The hidden states with which a node starts: its parent's, at its own positions."""
    parent = node.parent
    assert parent is not None
    name, selection = layout.entrance(node)
    if parent is tree.nodes[0]:
        return trunk.entering[node.start][name]
    return hidden[parent] if parent.blind else selection(hidden[parent])


def _run_layer(
    layer: nn.Module, hidden: Tensor, lane: Lane | None, index: int, trunk: Trunk, decoder: Decoder
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a decoder layer on branches side by side; of the last layer, only what the next token needs.

    Returns:
        Hidden states, keys (with the borrowed ones before them) and values.
    """
    if lane is None:
        arguments, borrowed = trunk.arguments[index], None
    else:
        eager = hidden.dtype if decoder.attention == "eager" else None
        arguments = lane.arguments(trunk.arguments[index], len(hidden) // len(lane.prompts), eager)
        keys, values = trunk.states(index)
        borrowed = (lane.borrow(keys), lane.borrow(values)) if lane.borrowed.numel() else None
    cache = _LayerCache(borrowed)
    if index == decoder.depth - 1 and hidden.shape[1] > 1:
        cache.stop = True
        with suppress(_Handover):
            layer.forward(hidden, past_key_values=cache, **arguments)
        cache.stop = False
        hidden, arguments = hidden[:, -1:], last_only(arguments)
    output = layer.forward(hidden, past_key_values=cache, **arguments)
    assert cache.held is not None
    return output, *cache.held
