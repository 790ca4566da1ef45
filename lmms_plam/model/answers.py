"""Growing the answers of a group of variants: branches, first token, then step by step until each has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lmms_plam.language.border import Passage
from lmms_plam.model.batch import Batch
from lmms_plam.model.branches import Branches, Layout, run_branches
from lmms_plam.model.decoding import DecodingBatch, Lineup, Shelf, ShelfKind, keep_rows
from lmms_plam.model.divergence import divergence
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.reader import Reader
from lmms_plam.model.readout import Given, Readout
from lmms_plam.model.trunk import Trunk
from lmms_plam.model.variants import Node, Tree, Variant, WeightSet


@dataclass(slots=True, eq=False)
class Answer:
    """A variant's answer to one prompt, as it grows.

    Attributes:
        variant: the variant.
        prompt: index of the prompt.
        tokens: new tokens so far.
        logits: raw logits [vocabulary] of each, if they are kept.
        divergence: how far the first token's distribution is from the trunk's, Kullback-Leibler in nats.
        given: by layer, what its tokens have given to vision so far, if that is read; None: nothing.
        readout: what was read of it in the end.
        follows: the tokens that it is led along, for their probability; None: it chooses its own.
        log_probability: of those tokens so far that are scored, in nats.
        is_greedy: whether it would have chosen these itself.
    """

    variant: Variant
    prompt: int
    tokens: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    divergence: float = 0.0
    given: list[Given | None] = field(default_factory=list)
    readout: Readout | None = None
    follows: Passage | None = None
    log_probability: float = 0.0
    is_greedy: bool = True


class Group:
    """Variants that are processed together.

    Args:
        batch: the prompts.
        tree: the variants.
        trunk: the watched prefill.
        layout: the positions by node.
        weights: weight sets by name.
        reader: reads attention, if it is to be read.
    """

    def __init__(
        self,
        batch: Batch,
        tree: Tree,
        trunk: Trunk,
        layout: Layout,
        weights: Mapping[str, WeightSet],
        reader: Reader | None = None,
    ):
        self._batch = batch
        self._tree = tree
        self._trunk = trunk
        self._layout = layout
        self._weights = weights
        self._reader = reader

    def grow(self, answers: Sequence[Answer], keep_logits: bool) -> None:
        """Fill in these answers, of variants of this group, to their ends."""
        self._decode(answers, keep_logits)
        if self._reader is not None:
            for one in answers:
                fed = len(one.tokens) - 1
                one.readout = self._reader.finish(self._tree, one.variant, one.prompt, one.given, fed)
                one.given.clear()

    def _decode(self, answers: Sequence[Answer], keep_logits: bool) -> None:
        batch = self._batch
        branches = run_branches(batch, self._tree, self._trunk, self._layout, self._weights, self._reader)
        live = sorted(answers, key=lambda answer: (answer.variant.weights or "", answer.prompt))
        inputs = batch.next_inputs()
        logits = self._first_logits(live, branches, next(inputs)[1])
        self._diverge(live, logits)
        ids = batch.input_ids[[answer.prompt for answer in live]]
        parts: list[DecodingBatch] | None = None
        while True:
            follow = any(answer.follows is not None for answer in live)
            tokens = _follow(live, logits) if follow else batch.choose(ids, logits, _owners(live))
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            for answer, token, row in zip(live, tokens.tolist(), logits, strict=True):
                answer.tokens.append(token)
                if keep_logits:
                    answer.logits.append(row)
            ended = [_followed(answer) for answer in live] if follow else batch.ended(ids)
            left = [row for row, over in enumerate(ended) if not over]
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

    def _diverge(self, answers: Sequence[Answer], logits: Tensor) -> None:
        """Compare the first token's distributions [answers, vocabulary] with the trunk's."""
        trunk = self._trunk.logits
        found = [divergence(trunk[answer.prompt], row) for answer, row in zip(answers, logits, strict=True)]
        for answer, value in zip(answers, torch.stack(found).tolist(), strict=True):
            answer.divergence = value

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
        prompts, device = self._batch.prompts, self._batch.input_ids.device
        positions = torch.arange(self._batch.length, device=device)
        real, text = positions[prompts.starts[prompt] :], positions[prompts.text[prompt]]
        shelves = [self._shelves(prompt, answers, layer, branches) for layer in range(self._batch.decoder.depth)]
        ledger = None
        if self._reader is not None:
            for answer in answers:
                answer.given = [None] * self._batch.decoder.depth
            ledger = self._reader.ledger(prompt, [answer.given for answer in answers])
        return Lineup(prompt, len(answers), shelves, {"common": real, "whole": real, "text": text}, ledger)

    def _shelves(self, prompt: int, answers: Sequence[Answer], layer: int, branches: Branches) -> list[Shelf]:
        """Collect what these answers may read at a layer."""
        by_kind: dict[ShelfKind, list[tuple[int, Node]]] = {}
        for row, answer in enumerate(answers):
            node = self._tree.at(answer.variant, layer)
            if not node.silent:
                kind: ShelfKind = "text" if node.blind else "whole" if node.returns else "common"
                by_kind.setdefault(kind, []).append((row, node))
        shelves = []
        for kind, owned in by_kind.items():
            nodes = [node for _, node in owned]
            if kind == "common":  # with the same weights, and seeing all along, they are of one node
                nodes = nodes[:1]
            read = [self._layout.read(node, prompt, self._states(node, layer, branches)) for node in nodes]
            states = read[0]
            if len(read) > 1:
                states = torch.cat([keys for keys, _ in read]), torch.cat([values for _, values in read])
            shelves.append(Shelf([row for row, _ in owned], states, kind))
        return shelves

    def _states(self, node: Node, layer: int, branches: Branches) -> KeysValues:
        return self._trunk.states(layer) if node is self._tree.root else branches.states[layer][node]


def _owners(answers: Sequence[Answer]) -> list[tuple[Variant, int]]:
    return [(answer.variant, answer.prompt) for answer in answers]


def _follow(answers: Sequence[Answer], logits: Tensor) -> Tensor:
    """Return the next token that each answer is led along, [answers], and count those that are scored.

    Args:
        answers: all of which follow tokens.
        logits: [answers, vocabulary], float32.
    """
    passages = [answer.follows for answer in answers if answer.follows is not None]
    tokens = torch.tensor(
        [passage.tokens[len(answer.tokens)] for answer, passage in zip(answers, passages, strict=True)],
        device=logits.device,
    )
    found = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0].tolist()
    greedy = (logits.argmax(dim=-1) == tokens).tolist()
    for answer, passage, value, chosen in zip(answers, passages, found, greedy, strict=True):
        if len(answer.tokens) >= passage.start:
            answer.log_probability += value
            answer.is_greedy &= chosen
    return tokens


def _followed(answer: Answer) -> bool:
    return answer.follows is None or len(answer.tokens) == len(answer.follows.tokens)
