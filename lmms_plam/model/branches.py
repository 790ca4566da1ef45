"""The branches: what variants compute for themselves in prefill, started from the trunk, many side by side.

At each layer, the branches that run with the same weights on the same positions go through `layer.forward` as one
batch, with the trunk's own arguments taken at their positions. So rotary positions, masks, norms and experts stay the
model's, and no code here knows a model family.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.batch import Batch
from lmms_plam.model.host import Attention, attention_replaced, attention_silenced
from lmms_plam.model.lanes import KeysValues, Lane, Prompts, QueryScope, last_few, last_positions, lay_out
from lmms_plam.model.reader import Reader
from lmms_plam.model.trunk import Keep, Trunk
from lmms_plam.model.variants import Node, Tree, WeightSet, installed


class Layout:
    """Which positions each node of a family computes, and in which rows.

    Args:
        prompts: the batch.
        scope: from which queries vision is hidden.
    """

    def __init__(self, prompts: Prompts, scope: QueryScope):
        self._prompts = prompts
        self._scope = scope
        self._lanes: dict[tuple[bool, bool], Lane] = {}
        self._last = last_positions(prompts, scope)
        self._columns: dict[tuple[Lane, bool], list[Tensor | None]] = {}

    def lane(self, node: Node) -> Lane | None:
        """Return a node's lane; None where everything is read: it computes every position of every prompt."""
        if node.silent:
            return self._last
        if not (node.blind or node.returns):
            return None
        if node.parent is not None and (inherited := self.lane(node.parent)) is not None:
            return inherited
        borrowing = all(variant.weights is None for variant in node.variants)
        if not borrowing and self._scope == "last":
            raise UnsupportedError("query scope 'last' for variants with replaced weights")
        kind = borrowing, node.returns
        if kind not in self._lanes:
            self._lanes[kind] = lay_out(self._prompts, self._scope, *kind)
        return self._lanes[kind]

    def row(self, node: Node, prompt: int) -> int:
        """Return the row of a prompt among those of a node."""
        return prompt if self.lane(node) in (None, self._last) else self._prompts.seeing.index(prompt)

    def read(self, node: Node, prompt: int, states: KeysValues) -> KeysValues:
        """Keys and values [1, heads, positions, dim] that answers to a prompt read, out of those of a node."""
        row, lane = self.row(node, prompt), self.lane(node)
        keys, values = (part[row : row + 1] for part in states)
        if lane is None:
            start = self._prompts.starts[prompt]
            return keys[:, :, start:], values[:, :, start:]
        if (lane, node.blind) not in self._columns:
            self._columns[lane, node.blind] = lane.columns(node.blind)
        columns = self._columns[lane, node.blind][row]
        return (keys, values) if columns is None else (keys[:, :, columns], values[:, :, columns])

    def entrance(self, node: Node) -> Callable[[Tensor], Tensor]:
        """Return the selection of a node's states from those of all positions."""
        lane = self.lane(node)
        return lane.take if lane is not None else lambda states: states


def what_to_keep(trees: Sequence[Tree], layout: Layout) -> Keep:
    """Say which of the trunk's hidden states the branches of these trees start from: by layer and lane."""
    keep: dict[int, dict[object, Callable[[Tensor], Tensor]]] = {}
    for tree in trees:
        for node in tree.nodes:
            if node.parent is tree.root:
                keep.setdefault(node.start, {})[layout.lane(node)] = layout.entrance(node)
    return keep


@dataclass(frozen=True, slots=True)
class Branches:
    """What the branches' prefill leaves behind.

    Attributes:
        states: by layer and node, keys and values; which row is whose, the layout tells.
        last: by leaf node, the hidden states [rows, 1, width] that the last layer returns for the last position.
    """

    states: list[dict[Node, KeysValues]]
    last: dict[Node, Tensor]


def run_branches(
    batch: Batch,
    tree: Tree,
    trunk: Trunk,
    layout: Layout,
    weights: Mapping[str, WeightSet],
    reader: Reader | None = None,
) -> Branches:
    """Compute all of a family's prefill that the trunk hasn't.

    Args:
        batch: the prompts.
        tree: the family; its root is the trunk.
        trunk: the watched prefill.
        layout: the positions by node.
        weights: weight sets by name.
        reader: reads attention, if it is to be read.

    Raises:
        UnsupportedError: a decoder layer that doesn't take part as the engine knows it.
        MergeError: weights that don't fit the model.
    """
    hidden: dict[Node, Tensor] = {}
    states: list[dict[Node, KeysValues]] = []
    for index, layer in enumerate(batch.decoder.layers):
        for node in tree.nodes[1:]:
            if node.start == index:
                hidden[node] = _enter(node, tree, trunk, layout, hidden)
        together: dict[tuple[Lane | Node, bool, bool, Hashable], list[Node]] = {}
        for node in hidden:
            if index < node.end:
                own = node.weights(index, weights)
                key = own.key(index) if own is not None else None
                together.setdefault((layout.lane(node) or node, node.blind, node.silent, key), []).append(node)
        entering, hidden = hidden, {}
        states.append({})
        for nodes in together.values():
            rows = torch.cat([entering[node] for node in nodes])
            silent = {index: slice(None)} if nodes[0].silent else {}
            with installed(nodes[0].weights(index, weights), {index: layer}), attention_silenced(batch.decoder, silent):
                output, both = _run_layer(batch, index, rows, nodes, layout, trunk, reader)
            parts = (tensor.chunk(len(nodes)) for tensor in (output, *both))
            for node, state, keys, values in zip(nodes, *parts, strict=True):
                hidden[node] = _with_added(state, trunk.added.get(index), node, layout)
                states[index][node] = keys, values
    return Branches(states, hidden)


def _enter(node: Node, tree: Tree, trunk: Trunk, layout: Layout, hidden: Mapping[Node, Tensor]) -> Tensor:
    """Return the hidden states with which a node starts: its parent's, at its own positions."""
    if node.parent is None or node.parent is tree.root:
        return trunk.entering[node.start][layout.lane(node)]
    return hidden[node.parent] if layout.lane(node.parent) else layout.entrance(node)(hidden[node.parent])


def _with_added(states: Tensor, added: Tensor | None, node: Node, layout: Layout) -> Tensor:
    """Add to a layer's result what the model adds to vision tokens behind it, for a node that computes them."""
    if added is None or node.silent or (node.blind and not node.returns):
        return states
    return (states.float() + layout.entrance(node)(added)).to(states.dtype)


class _HandoverError(Exception):
    """Raised by the cache once it has the keys and values, to leave a call of which nothing else is needed."""


@dataclass(slots=True)
class _LayerCache:
    """What a decoder layer sees as its cache in prefill: it puts borrowed keys and values before the rows' own.

    Attributes:
        borrowed: keys and values to put first.
        hand_over: leave the call once keys and values are known.
        held: the joined keys and values, once they are known.
    """

    borrowed: KeysValues | None
    hand_over: bool = False
    held: KeysValues | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> KeysValues:
        if self.held is None:
            if self.borrowed is not None:
                copies = len(keys) // len(self.borrowed[0])
                keys = torch.cat([self.borrowed[0].repeat(copies, 1, 1, 1), keys], dim=2)
                values = torch.cat([self.borrowed[1].repeat(copies, 1, 1, 1), values], dim=2)
            self.held = keys, values
        if self.hand_over:
            raise _HandoverError
        return self.held


def _run_layer(
    batch: Batch,
    index: int,
    hidden: Tensor,
    nodes: Sequence[Node],
    layout: Layout,
    trunk: Trunk,
    reader: Reader | None,
) -> tuple[Tensor, KeysValues]:
    """Run a decoder layer on branches side by side; of the last layer, only what the next token and a reader need.

    Returns:
        Hidden states, of the last layer only those of the last position, and keys and values, borrowed ones included.
    """
    layer: nn.Module = batch.decoder.layers[index]
    arguments, borrowed = trunk.arguments[index], None
    lane = layout.lane(nodes[0])
    if lane is not None:
        eager = hidden.dtype if batch.decoder.attention == "eager" else None
        arguments = lane.arguments(arguments, nodes[0].blind, len(hidden) // len(lane.prompts), eager)
        borrowed = lane.borrow(trunk.states(index))
    cache = _LayerCache(borrowed)
    last = index == batch.decoder.depth - 1
    tail = 1 if reader is None else reader.tail
    if last and hidden.shape[1] > tail:
        cache.hand_over = True
        with suppress(_HandoverError):
            layer.forward(hidden, **{trunk.cache_name: cache}, **arguments)
        cache.hand_over = False
        hidden, arguments = hidden[:, -tail:], last_few(arguments, tail, hidden.shape[1], hidden.device)

    def read(
        layer: int, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        if reader is not None:
            reader.read_branches(layer, nodes, lane, attention, query, key, mask)
        return attention(query, key, value, mask)

    with attention_replaced(batch.decoder, read, [index]) if reader is not None else nullcontext():
        output: Tensor = layer.forward(hidden, **{trunk.cache_name: cache}, **arguments)
    if cache.held is None:
        raise UnsupportedError(f"{type(layer).__name__} doesn't hand its keys and values to the cache")
    return output[:, -1:] if last else output, cache.held
