"""Growing the answers of a group of variants: branches, first token, then step by step until each has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        places = {name: self._place(name) for name in {answer.variant.weights for answer in answers}}
        live = sorted(answers, key=lambda answer: (places[answer.variant.weights], answer.prompt))
        followed = [answer.follows.tokens for answer in live if answer.follows is not None]
        counts = self._at_once(followed) if followed else None
        inputs = batch.next_inputs(counts)
        logits = self._first_logits(live, branches, next(inputs)[1])
        self._diverge(live, logits)
        if counts is None:
            self._speak(live, branches, logits, inputs, keep_logits)
        else:
            self._lead(live, branches, logits, zip(counts, inputs, strict=True), keep_logits)

    def _place(self, name: str | None) -> tuple[bool, str, str]:
        """Return what sorts answers by weights: those are neighbours that share a forward, and the last layer in it."""
        if name is None:
            return False, "", ""
        weights = self._weights[name]
        return not self._by_rows(weights), str(weights.key(self._batch.decoder.depth - 1)), name

    def _at_once(self, followed: Sequence[Sequence[int]]) -> list[int]:
        """Return how many of the tokens that answers are led along to read at a time; nobody asks what follows all."""
        most = max(1, _LOGIT_BYTES // (len(followed) * self._trunk.logits[0].nbytes))
        read = max(map(len, followed)) - 1
        return [min(most, read - first) for first in range(0, read, most)]

    def _speak(
        self, live: list[Answer], branches: Branches, logits: Tensor, inputs: Iterator[_Inputs], keep_logits: bool
    ) -> None:
        """Let answers grow to their ends, from the logits [answers, vocabulary] of their first tokens."""
        batch = self._batch
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

    def _lead(
        self,
        live: Sequence[Answer],
        branches: Branches,
        logits: Tensor,
        steps: Iterable[tuple[int, _Inputs]],
        keep_logits: bool,
    ) -> None:
        """Lead answers along the tokens that they follow, from the logits [answers, vocabulary] of their first ones.

        Args:
            live: all of which follow tokens.
            branches: where they start from.
            logits: of their first tokens.
            steps: how many tokens to read at a time, and the arguments of the model's forward on them.
            keep_logits: also keep the logits.
        """
        _follow(live, logits[:, None], 0, keep_logits)
        parts = self._line_up(live, branches)
        del branches
        first = 0
        for count, inputs in steps:
            tokens = torch.tensor([_part(answer, first, count) for answer in live], device=logits.device)
            _follow(live, _step(parts, tokens, *inputs), first + 1, keep_logits)
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
        """Arrange answers for decoding, by weights and then by prompt; all share a forward that can."""
        parts: list[list[Lineup]] = []
        for (name, prompt), answers in groupby(live, key=lambda answer: (answer.variant.weights, answer.prompt)):
            weights = self._weights[name] if name else None
            lineup = self._lineup(prompt, weights, list(answers), branches)
            before = parts[-1][-1].weights if parts else None
            if parts and (weights is before or (self._by_rows(weights) and self._by_rows(before))):
                parts[-1].append(lineup)
            else:
                parts.append([lineup])
        return [DecodingBatch(self._batch, lineups) for lineups in parts]

    def _by_rows(self, weights: WeightSet | None) -> bool:
        return weights is None or runs_by_rows(weights, self._batch.decoder.by_index())

    def _lineup(self, prompt: int, weights: WeightSet | None, answers: Sequence[Answer], branches: Branches) -> Lineup:
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
        return Lineup(prompt, weights, len(answers), shelves, {"common": real, "whole": real, "text": text}, ledger)

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
