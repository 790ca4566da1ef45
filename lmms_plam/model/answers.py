"""Growing the answers of a group of variants: branches, first token, then step by step until each has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lmms_plam.model.batch import Batch
from lmms_plam.model.branches import Branches, Layout, run_branches
from lmms_plam.model.decoding import DecodingBatch, Lineup, keep_rows
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.trunk import Trunk
from lmms_plam.model.variants import Tree, Variant, WeightSet


@dataclass(slots=True, eq=False)
class Answer:
    """A variant's answer to one prompt, as it grows.

    Attributes:
        variant: the variant.
        prompt: index of the prompt.
        tokens: new tokens so far.
        logits: raw logits [vocabulary] of each, if they are kept.
    """

    variant: Variant
    prompt: int
    tokens: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


class Group:
    """Variants that are processed together.

    Args:
        batch: the prompts.
        tree: the variants.
        trunk: the watched prefill.
        layout: the positions by node.
        weights: weight sets by name.
    """

    def __init__(self, batch: Batch, tree: Tree, trunk: Trunk, layout: Layout, weights: Mapping[str, WeightSet]):
        self._batch = batch
        self._tree = tree
        self._trunk = trunk
        self._layout = layout
        self._weights = weights

    def grow(self, answers: Sequence[Answer], keep_logits: bool) -> None:
        """Fill in these answers, of variants of this group, to their ends."""
        batch = self._batch
        branches = run_branches(batch, self._tree, self._trunk, self._layout, self._weights)
        live = sorted(answers, key=lambda answer: (answer.variant.weights or "", answer.prompt, -self._cut(answer)))
        inputs = batch.next_inputs()
        logits = self._first_logits(live, branches, next(inputs)[1])
        ids = batch.input_ids[[answer.prompt for answer in live]]
        parts: list[DecodingBatch] | None = None
        while True:
            tokens = batch.choose(ids, logits, [(answer.variant, answer.prompt) for answer in live])
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            for answer, token, row in zip(live, tokens.tolist(), logits, strict=True):
                answer.tokens.append(token)
                if keep_logits:
                    answer.logits.append(row)
            left = [row for row, ended in enumerate(batch.ended(ids)) if not ended]
            if not left:
                return
            if len(left) < len(live):
                live, tokens, ids = [live[row] for row in left], tokens[left], ids[left]
                parts = keep_rows(parts, left) if parts is not None else None
            if parts is None:
                parts = self._line_up(live, branches)
                del branches  # what is still needed of it, the lineups hold
            (position, step), sizes = next(inputs), [part.rows for part in parts]
            shares = tokens.split_with_sizes(sizes)
            logits = torch.cat([part.step(share, position, step) for part, share in zip(parts, shares, strict=True)])

    def _cut(self, answer: Answer) -> int:
        return self._batch.decoder.depth if answer.variant.cut is None else answer.variant.cut

    def _first_logits(self, live: Sequence[Answer], branches: Branches, inputs: Mapping[str, Any]) -> Tensor:
        """Logits [answers, vocabulary] for the first new token: the trunk's own, and the branches' read out."""
        logits = self._trunk.logits[[answer.prompt for answer in live]]
        rows, states = [], []
        for index, answer in enumerate(live):
            leaf = self._tree.paths[answer.variant][-1]
            if leaf is not self._tree.root:
                row = self._layout.row(leaf, answer.prompt)
                rows.append(index)
                states.append(branches.last[leaf][row : row + 1])
        if rows:
            inputs = self._batch.for_rows(inputs, [live[index].prompt for index in rows])
            logits[rows] = self._batch.read_out(torch.cat(states), inputs)
        return logits

    def _line_up(self, live: Sequence[Answer], branches: Branches) -> list[DecodingBatch]:
        """Arrange answers for decoding, by weights and then by prompt."""
        parts = []
        for name, answers in groupby(live, key=lambda answer: answer.variant.weights):
            by_prompt = groupby(answers, key=lambda answer: answer.prompt)
            lineups = [self._lineup(prompt, list(row), branches) for prompt, row in by_prompt]
            parts.append(DecodingBatch(self._batch, self._weights[name] if name else None, lineups))
        return parts

    def _lineup(self, prompt: int, answers: Sequence[Answer], branches: Branches) -> Lineup:
        """Collect the keys and values that answers to one prompt, of the same weights, may read."""
        start = self._batch.prompts.starts[prompt]
        seen: list[KeysValues | None] = []
        blind: list[KeysValues | None] = []
        for layer in range(self._batch.decoder.depth):
            nodes = [self._tree.at(answer.variant, layer) for answer in answers]
            first = nodes[0]
            keys, values = self._trunk.states(layer) if first is self._tree.root else branches.states[layer][first]
            row = slice(prompt, prompt + 1)
            seen.append(None if first.blind else (keys[row, :, start:], values[row, :, start:]))
            own = [self._layout.text_states(node, prompt, branches.states[layer][node]) for node in nodes if node.blind]
            blind.append(
                (torch.cat([keys for keys, _ in own]), torch.cat([values for _, values in own])) if own else None
            )
        positions = torch.arange(self._batch.length, device=self._batch.input_ids.device)
        cuts = [self._cut(answer) for answer in answers]
        text = positions[self._batch.prompts.text[prompt]]
        return Lineup(prompt, cuts, seen, positions[start:], blind, text)
