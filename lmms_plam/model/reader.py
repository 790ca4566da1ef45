"""Whose attention is read in a family: of trunk, branches and answers, which queries are asked and where vision is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from lmms_plam.model.host import Attention, Decoder
from lmms_plam.model.lanes import Lane, Prompts
from lmms_plam.model.readout import Given, LayerAttention, Readout, find_sinks, given_to, nothing, stacked
from lmms_plam.model.variants import Node, Tree, Variant


class Ledger:
    """Where what answers to one prompt give to its vision tokens is written down, as long as they grow.

    Args:
        vision: [n], where vision tokens are among the keys.
        given: by answer and layer, what its tokens have given so far; None: nothing.
    """

    def __init__(self, vision: Tensor, given: Sequence[list[Given | None]]):
        self._vision = vision
        self._given = list(given)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other answers."""
        self._given = [self._given[row] for row in rows]

    def read(
        self, layer: int, rows: Sequence[int], attention: Attention, query: Tensor, key: Tensor, mask: Tensor | None
    ) -> None:
        """Read a layer of the next token of some answers.

        Args:
            layer: its index.
            rows: the answers.
            attention: the layer's own.
            query: [1, heads, answers, dim] where keys are common to the answers, else [answers, heads, 1, dim].
            key: [1 or answers, key heads, keys, dim].
            mask: [1, 1, answers or 1, keys], boolean or additive; None: all visible.
        """
        own = None if mask is None else mask[0, 0]
        parts = [
            given_to(attention, *pair, own, self._vision, pair[0].shape[1]) for pair in zip(query, key, strict=True)
        ]
        places = [(part, group) for part in parts for group in range(len(part.weights))]
        for row, (part, group) in zip(rows, places, strict=True):
            self._given[row][layer] = part.of(group).plus(self._given[row][layer])


class Reader:
    """Reads attention to vision off a family's shared computation, of those prompts that have vision tokens.

    Args:
        decoder: the model's.
        prompts: what the positions of the prompts hold.

    Attributes:
        tail: how many of the last positions hold all text behind vision, of whatever prompt.
    """

    def __init__(self, decoder: Decoder, prompts: Prompts):
        self._heads: int = decoder.text.config.num_attention_heads
        self._depth = decoder.depth
        self._starts = prompts.starts
        self._vision = {prompt: prompts.vision[prompt].nonzero().flatten() for prompt in prompts.seeing}
        self._behind = {prompt: prompts.vision.shape[1] - 1 - int(own[-1]) for prompt, own in self._vision.items()}
        self.tail = max(self._behind.values(), default=1)
        self._sinks: dict[int, list[Tensor]] = defaultdict(list)
        self._trunk: dict[int, list[LayerAttention]] = defaultdict(list)
        self._branches: dict[tuple[Node, int], dict[int, LayerAttention]] = defaultdict(dict)

    def find_sinks(self, hidden: Tensor) -> None:
        """Find the sinks in hidden states [prompts, length, width] that enter the trunk's next layer."""
        for prompt, vision in self._vision.items():
            self._sinks[prompt].append(find_sinks(hidden[prompt], self._starts[prompt], vision).cpu())

    def read_trunk(self, attention: Attention, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Read the trunk's next layer.

        Args:
            attention: the layer's own.
            query: [prompts, heads, length, dim].
            key: [prompts, key heads, length, dim].
            mask: [prompts or 1, 1, length, length], boolean or additive; None: causal.
        """
        for prompt, columns in self._vision.items():
            self._trunk[prompt].append(self._read(prompt, prompt, attention, query, key, mask, columns))

    def read_branches(
        self,
        layer: int,
        nodes: Sequence[Node],
        lane: Lane | None,
        attention: Attention,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
    ) -> None:
        """Read a layer of nodes that are computed side by side.

        Args:
            layer: its index.
            nodes: the nodes; their rows come node by node.
            lane: which positions they hold; None: all of all prompts.
            attention: the layer's own.
            query: [rows, heads, queries, dim], in the last layer at least those of the tail.
            key: [rows, key heads, keys, dim].
            mask: [rows or 1, 1, queries, keys], boolean or additive; None: causal.
        """
        prompts = range(len(self._starts)) if lane is None else lane.prompts.tolist()
        for index, prompt in enumerate(prompts):
            if prompt in self._vision:
                vision = self._vision[prompt]
                columns = vision if lane is None else lane.places(index, vision)
                for place, node in enumerate(nodes):
                    row = place * len(prompts) + index
                    self._branches[node, prompt][layer] = (
                        nothing(self._heads, len(vision))
                        if columns is None
                        else self._read(row, prompt, attention, query, key, mask, columns)
                    )

    def _read(
        self,
        row: int,
        prompt: int,
        attention: Attention,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        vision: Tensor,
    ) -> LayerAttention:
        """Read a row's text behind vision, which are its last queries."""
        count = self._behind[prompt]
        own = None if mask is None else mask[row if len(mask) > 1 else 0, 0, -count:]
        return given_to(attention, query[row, :, -count:], key[row], own, vision).average(count)

    def ledger(self, prompt: int, given: Sequence[list[Given | None]]) -> Ledger | None:
        """Return a ledger for answers to a prompt; None for one without vision."""
        if prompt not in self._vision:
            return None
        return Ledger(self._vision[prompt] - self._starts[prompt], given)  # answers read no padding

    def finish(
        self, tree: Tree, variant: Variant, prompt: int, given: Sequence[Given | None], tokens: int
    ) -> Readout | None:
        """Join what was read of an answer.

        Args:
            tree: the variant's family.
            variant: who answered.
            prompt: to what.
            given: by layer, what the answer's tokens have given to vision; None: nothing.
            tokens: how many of them.

        Returns:
            None for a prompt without vision.
        """
        if prompt not in self._vision:
            return None
        nodes = [tree.at(variant, layer) for layer in range(self._depth)]
        instruction = stacked(
            self._trunk[prompt][layer] if node is tree.root else self._branches[node, prompt][layer]
            for layer, node in enumerate(nodes)
        )
        empty = nothing(self._heads, len(self._vision[prompt]))
        response = stacked(empty if own is None else own.average(tokens) for own in given) if tokens else None
        return Readout(instruction, response, torch.stack(self._sinks[prompt]))
