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
from lmms_plam.model.decoding import SIDE_BY_SIDE, DecodingBatch, Lineup, Shelf, ShelfKind, keep_rows
from lmms_plam.model.divergence import divergence
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.reader import Reader
from lmms_plam.model.readout import Given, Readout
from lmms_plam.model.rows import runs_by_rows
from lmms_plam.model.trunk import Trunk
from lmms_plam.model.variants import Node, Tree, Variant, WeightSet

_LOGIT_BYTES = 2**29
"""What the logits of tokens that are read at once may take, float32."""

_Inputs = tuple[int, dict[str, Any]]
"""The position of tokens that are read, and the arguments of the model's forward on them."""


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
        self._alone: dict[str, bool] = {}

    def grow(self, answers: Sequence[Answer], keep_logits: bool) -> None:
        """Fill in these answers, of variants of this group, to their ends."""
        self._decode(answers, keep_logits)
        if self._reader is not None:
            for one in answers:
                fed = len(one.tokens) - 1
                one.readout = self._reader.finish(self._tree, one.variant, one.prompt, one.given, fed)
                one.given.clear()

    def _decode(self, answers: Sequence[Answer], keep_logits: bool) -> None:
        live = sorted(answers, key=self._order)
        followed = [answer.follows.tokens for answer in live if answer.follows is not None]
        if followed:
            self._lead(live, self._at_once(followed), keep_logits)
        else:
            self._speak(live, keep_logits)

    def _start(self, live: Sequence[Answer], inputs: Mapping[str, Any]) -> tuple[Branches, Tensor]:
        """Compute what answers start from, and the logits [answers, vocabulary] of their first tokens."""
        branches = run_branches(self._batch, self._tree, self._trunk, self._layout, self._weights, self._reader)
        logits = self._first_logits(live, branches, inputs)
        self._diverge(live, logits)
        return branches, logits

    def _is_alone(self, answer: Answer) -> bool:
        """Whether its weights need a forward of their own."""
        name = answer.variant.weights
        if name is not None and name not in self._alone:
            self._alone[name] = not runs_by_rows(self._weights[name], self._batch.decoder.by_index())
        return name is not None and self._alone[name]

    def _order(self, answer: Answer) -> tuple[bool, str, int, str, int]:
        """Return what sorts answers, so that neighbours run with the same tensors in as many layers as may be."""
        if answer.variant.weights is None:
            return False, "", 0, "", answer.prompt
        weights = self._weights[answer.variant.weights]
        last = weights.key(self._batch.decoder.depth - 1)
        return self._is_alone(answer), "" if last is None else str(last), weights.start, weights.name, answer.prompt

    def _at_once(self, followed: Sequence[Sequence[int]]) -> list[int]:
        """Return how many of the tokens that answers are led along to read at a time; nobody asks what follows all."""
        most = max(1, _LOGIT_BYTES // (len(followed) * self._trunk.logits[0].nbytes))
        read = max(map(len, followed)) - 1
        return [min(most, read - first) for first in range(0, read, most)]

    def _speak(self, live: list[Answer], keep_logits: bool) -> None:
        """Let answers grow to their ends."""
        batch = self._batch
        inputs = batch.next_inputs()
        branches, logits = self._start(live, next(inputs)[1])
        ids = batch.input_ids[[answer.prompt for answer in live]]
        parts: list[DecodingBatch] | None = None
        while True:
            tokens = batch.choose(ids, logits, _owners(live))
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            for answer, token, row in zip(live, tokens.tolist(), logits, strict=True):
                answer.tokens.append(token)
                if keep_logits:
                    answer.logits.append(row)
            left = [row for row, over in enumerate(batch.ended(ids)) if not over]
            if not left:
                return
            if len(left) < len(live):
                live, tokens, ids = [live[row] for row in left], tokens[left], ids[left]
                parts = keep_rows(parts, left) if parts is not None else None
            if parts is None:
                parts = self._line_up(live, branches)
                del branches  # what is still needed of it, the lineups hold
            logits = _step(parts, tokens[:, None], *next(inputs))[:, -1]

    def _lead(self, live: Sequence[Answer], counts: Sequence[int], keep_logits: bool) -> None:
        """Lead answers along the tokens that they follow, so many at a time."""
        inputs = self._batch.next_inputs(counts)
        branches, logits = self._start(live, next(inputs)[1])
        _follow(live, logits[:, None], 0, keep_logits)
        parts = self._line_up(live, branches)
        del branches  # as above
        first = 0
        for count, step in zip(counts, inputs, strict=True):
            tokens = torch.tensor([_part(answer, first, count) for answer in live], device=logits.device)
            _follow(live, _step(parts, tokens, *step), first + 1, keep_logits)
            first += count

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
        """Arrange answers for decoding: all share a forward whose weights can, each other set has one of its own."""
        parts = []
        for _, own in groupby(live, key=lambda answer: answer.variant.weights if self._is_alone(answer) else None):
            answers = list(own)
            prompts = [answer.prompt for answer in answers]
            weights = [self._weights[name] if (name := answer.variant.weights) else None for answer in answers]
            lineups = [
                self._lineup(prompt, [answer for answer in answers if answer.prompt == prompt], branches)
                for prompt in dict.fromkeys(prompts)
            ]
            parts.append(DecodingBatch(self._batch, lineups, prompts, weights))
        return parts

    def _lineup(self, prompt: int, answers: Sequence[Answer], branches: Branches) -> Lineup:
        """Collect the keys and values that answers to one prompt may read."""
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
        shelves: dict[tuple[ShelfKind, Node | None, int], list[tuple[int, Node]]] = {}
        for row, answer in enumerate(answers):
            node = self._tree.at(answer.variant, layer)
            if not node.silent:
                kind: ShelfKind = "text" if node.blind else "whole" if node.returns else "common"
                key = (kind, node, row // SIDE_BY_SIDE) if kind == "common" else (kind, None, 0)
                shelves.setdefault(key, []).append((row, node))
        return [self._shelf(kind, prompt, owned, layer, branches) for (kind, *_), owned in shelves.items()]

    def _shelf(
        self, kind: ShelfKind, prompt: int, owned: Sequence[tuple[int, Node]], layer: int, branches: Branches
    ) -> Shelf:
        nodes = [node for _, node in (owned[:1] if kind == "common" else owned)]
        read = [self._layout.read(node, prompt, self._states(node, layer, branches)) for node in nodes]
        states = read[0]
        if len(read) > 1:
            states = torch.cat([keys for keys, _ in read]), torch.cat([values for _, values in read])
        return Shelf([row for row, _ in owned], states, kind)

    def _states(self, node: Node, layer: int, branches: Branches) -> KeysValues:
        return self._trunk.states(layer) if node is self._tree.root else branches.states[layer][node]


def _owners(answers: Sequence[Answer]) -> list[tuple[Variant, int]]:
    return [(answer.variant, answer.prompt) for answer in answers]


def _step(parts: Sequence[DecodingBatch], tokens: Tensor, position: int, inputs: Mapping[str, Any]) -> Tensor:
    """Read tokens [answers, tokens] from this position on; return logits [answers, tokens, vocabulary]."""
    shares = tokens.split_with_sizes([part.rows for part in parts])
    return torch.cat([part.step(share, position, inputs) for part, share in zip(parts, shares, strict=True)])


def _part(answer: Answer, first: int, count: int) -> list[int]:
    """Return some of the tokens that an answer follows; beyond its end any."""
    tokens = answer.follows.tokens[first : first + count] if answer.follows is not None else ()
    return [*tokens, *[0] * (count - len(tokens))]


def _follow(answers: Sequence[Answer], logits: Tensor, first: int, keep_logits: bool) -> None:
    """Add tokens to answers that are led, and count those that are scored.

    Args:
        answers: all of which follow tokens.
        logits: [answers, tokens, vocabulary], float32; beyond an answer's end they mean nothing.
        first: the first token's place in the answers.
        keep_logits: also keep the logits.
    """
    for answer, rows in zip(answers, logits, strict=True):
        assert answer.follows is not None
        tokens = answer.follows.tokens[first : first + len(rows)]
        answer.tokens.extend(tokens)
        if keep_logits:
            answer.logits.extend(rows[: len(tokens)])
        scored = tokens[max(0, answer.follows.start - first) :]
        if scored:
            own = rows[len(tokens) - len(scored) : len(tokens)]
            due = torch.tensor(scored, device=own.device)
            answer.log_probability += float(own.log_softmax(dim=-1).gather(1, due[:, None]).double().sum())
            answer.is_greedy &= bool((own.argmax(dim=-1) == due).all())
