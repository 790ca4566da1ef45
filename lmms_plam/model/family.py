"""The family engine: every variant's answer to a prompt batch, from one shared computation inside the model's generate.

The model's own `generate` prepares inputs, logits processors and stopping criteria as for any call; in place of its
decoding loop runs the one here. The prefill of the untouched model is the trunk; branches start from it where variants
part (`branches`); then all answers decode as rows of one batch (`decoding`). Everything is exact: what can't be, is
refused with an `UnsupportedError` (`support`), and `run_plainly` in `reference` takes the long way.

Read-outs of attention would attach to `run_trunk` (prefill) and to `Choir` (decoding), which see every layer's call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import ModelOutput

from lmms_plam.model.anatomy import Decoder, find_decoder, vision_positions
from lmms_plam.model.branches import Branches, Layout, run_branches, what_to_keep
from lmms_plam.model.decoding import Choir, Clock, KeysValues, Lineup, for_rows, keep_rows, read_out
from lmms_plam.model.lanes import Prompts, QueryScope
from lmms_plam.model.support import check_generation, check_request
from lmms_plam.model.trunk import Trunk, run_trunk
from lmms_plam.model.variants import Tree, Variant, WeightSet, check_variants, grow_tree

MEMORY_BUDGET = 4 * 2**30
"""Bytes that branches processed together may take beyond an ordinary run, unless another budget is given."""

_UNTOUCHED = Variant("")


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """The answers of a family.

    Attributes:
        tokens: by variant and prompt, the new tokens, with the end-of-sequence token where there is one.
        trunk: what `model.generate` returns for the untouched model: [prompts, length], prompt and padding included.
        vision_tokens: by prompt, the number of vision tokens; without any, all cuts are the same variant.
        logits: by variant and prompt, the raw logits [new tokens, vocabulary], float32, if asked for.
    """

    tokens: list[list[list[int]]]
    trunk: Tensor
    vision_tokens: list[int]
    logits: list[list[Tensor]] | None = None


def generate_family(
    model: nn.Module,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
    memory_budget: int = MEMORY_BUDGET,
    keep_logits: bool = False,
) -> FamilyResult:
    """Answer a batch of prompts with every variant, greedily, from one shared computation.

    Args:
        model: a vision-language model of transformers, loaded with sdpa or eager attention.
        variants: what to run; names must differ.
        generate_kwargs: the keyword arguments of `model.generate`.
        weights: the weight sets that variants name.
        query_scope: from which queries vision is hidden, see `QueryScope`.
        memory_budget: bytes for branches processed together; what doesn't fit is processed in further groups, each of
            which costs a decoding loop of its own. A variant that alone exceeds it is processed alone.
        keep_logits: also return the logits.

    Raises:
        UnsupportedError: the model or a generation option is none that the engine can apply exactly; it is named.
        ConfigError: variants that can't be meant.
        MergeError: weights that don't fit the model.
    """
    decoder = find_decoder(model)
    sets = {one.name: one for one in weights}
    check_variants(variants, sets, decoder.depth)
    check_request(model, generate_kwargs)

    def loop(
        model: nn.Module,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> FamilyResult:
        check_generation(generation_config, logits_processor, stopping_criteria, model_kwargs)
        rules = _Rules(logits_processor, stopping_criteria, generation_config)
        family = _Family(model, decoder, sets, query_scope, rules, input_ids, model_kwargs)
        return family.answer(variants, memory_budget, keep_logits)

    result: FamilyResult = type(model).generate(model, **generate_kwargs, custom_generate=loop)  # type: ignore[attr-defined]
    return result


@dataclass(frozen=True, slots=True)
class _Rules:
    """How tokens are chosen and when an answer ends, as `generate` has prepared it."""

    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig


@dataclass(slots=True, eq=False)
class _Answer:
    """A variant's answer to one prompt, as it grows."""

    variant: Variant
    prompt: int
    tokens: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


class _Family:
    """A prompt batch and the variants' answers to it, inside one call of `generate`."""

    def __init__(
        self,
        model: Any,
        decoder: Decoder,
        weights: Mapping[str, WeightSet],
        scope: QueryScope,
        rules: _Rules,
        input_ids: Tensor,
        model_kwargs: dict[str, Any],
    ):
        self.model = model
        self.decoder = decoder
        self.weights = weights
        self.rules = rules
        self.input_ids = input_ids
        self.kwargs = {name: value for name, value in model_kwargs.items() if name != "past_key_values"}
        self.kwargs["use_cache"] = True
        padding = model_kwargs.get("attention_mask")
        real = torch.ones_like(input_ids, dtype=torch.bool) if padding is None else padding.bool()
        self.prompts = Prompts(vision_positions(model, input_ids, model_kwargs), real)
        self.layout = Layout(self.prompts, scope)
        self.answers: dict[Variant, dict[int, _Answer]] = {}

    def answer(self, variants: Sequence[Variant], memory_budget: int, keep_logits: bool) -> FamilyResult:
        """Answer with every variant, group by group."""
        prompts = range(len(self.input_ids))
        wanted = [[self._ask(variant, prompt) for prompt in prompts] for variant in variants]
        untouched = [self._ask(_UNTOUCHED, prompt) for prompt in prompts]
        trees = [grow_tree(group, self.weights, self.decoder.depth) for group in self._groups(memory_budget)]
        inputs = self.model.prepare_inputs_for_generation(
            self.input_ids, past_key_values=DynamicCache(), is_first_iteration=True, **self.kwargs
        )
        trunk = run_trunk(self.model, self.decoder, self.prompts, inputs, what_to_keep(trees, self.layout))
        for tree in trees:
            self._decode(tree, trunk, keep_logits)
        return FamilyResult(
            tokens=[[answer.tokens for answer in row] for row in wanted],
            trunk=self._as_generated([answer.tokens for answer in untouched]),
            vision_tokens=self.prompts.vision.sum(dim=1).tolist(),
            logits=[[torch.stack(answer.logits) for answer in row] for row in wanted] if keep_logits else None,
        )

    def _ask(self, variant: Variant, prompt: int) -> _Answer:
        """Return the answer that will be this variant's; variants that don't differ on the prompt have it in common."""
        blind = variant.cut is not None and variant.cut < self.decoder.depth and prompt in self.prompts.seeing
        alike = Variant("", variant.cut if blind else None, variant.weights)
        return self.answers.setdefault(alike, {}).setdefault(prompt, _Answer(alike, prompt))

    def _groups(self, memory_budget: int) -> list[list[Variant]]:
        """Split the variants so that the branches of a group fit the budget; the untouched model takes no branch."""
        groups: list[list[Variant]] = [[_UNTOUCHED]]
        room = memory_budget
        for variant, answers in self.answers.items():
            if variant == _UNTOUCHED:
                continue
            size = len(answers) * self._size(variant)
            if size > room and (len(groups) > 1 or len(groups[0]) > 1):
                groups.append([])
                room = memory_budget
            groups[-1].append(variant)
            room -= size
        return groups

    def _size(self, variant: Variant) -> int:
        """Estimate the bytes that one answer of a variant takes: keys and values, work space of a layer, logits."""
        config = self.decoder.text.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        length = self.input_ids.shape[1]
        computed = length if variant.cut is None else int(self.prompts.text.sum(dim=1).max())
        new = self.rules.config.max_length - length
        states = 2 * self.decoder.depth * heads * dim * (computed + new)
        work = computed * (4 * config.hidden_size + 3 * config.intermediate_size)
        return (states + work) * self.model.dtype.itemsize + 3 * 4 * config.vocab_size

    def _decode(self, tree: Tree, trunk: Trunk, keep_logits: bool) -> None:
        """Answer with the variants of one tree, to the end."""
        depth = self.decoder.depth
        branches = run_branches(tree, trunk, self.layout, self.decoder, self.weights)
        live = [answer for variant in tree.paths for answer in self.answers[variant].values()]
        live.sort(
            key=lambda a: (a.variant.weights or "", a.prompt, -(depth if a.variant.cut is None else a.variant.cut))
        )
        inputs = self._inputs_by_token()
        logits = self._first_logits(live, tree, trunk, branches, next(inputs))
        ids = self.input_ids[[answer.prompt for answer in live]]
        choirs: list[Choir] = []
        while True:
            tokens = self._choose(live, ids, logits)
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            done = self.rules.criteria(ids, None)
            for answer, token, row in zip(live, tokens.tolist(), logits, strict=True):
                answer.tokens.append(token)
                if keep_logits:
                    answer.logits.append(row)
            kept = [row for row, finished in enumerate(done.tolist()) if not finished]
            if not kept:
                return
            if ids.shape[1] == self.input_ids.shape[1] + 1:
                live = [live[row] for row in kept]
                choirs = self._choirs(live, tree, trunk, branches)
                del branches
            elif len(kept) < len(live):
                live = [live[row] for row in kept]
                choirs = keep_rows(choirs, kept)
            tokens, ids = tokens[kept], ids[kept]
            step, sizes = next(inputs), [choir.rows for choir in choirs]
            logits = torch.cat(
                [choir.step(part, step) for choir, part in zip(choirs, tokens.split(sizes), strict=True)]
            )

    def _inputs_by_token(self) -> Iterator[dict[str, Any]]:
        """Arguments of the model's forward for single tokens of the prompts, from the prompts' last token on."""
        kwargs, ids = dict(self.kwargs), self.input_ids
        while True:
            yield self.model.prepare_inputs_for_generation(
                ids, next_sequence_length=1, past_key_values=Clock(ids.shape[1] - 1), is_first_iteration=False, **kwargs
            )
            kwargs = self.model._update_model_kwargs_for_generation(ModelOutput(), kwargs)
            ids = torch.cat([ids, ids[:, -1:]], dim=1)  # which tokens doesn't matter, a row brings its own

    def _first_logits(
        self, live: list[_Answer], tree: Tree, trunk: Trunk, branches: Branches, inputs: Mapping[str, Any]
    ) -> Tensor:
        """Logits [answers, vocabulary] for the first new token: the trunk's own, and the branches' read out."""
        logits = trunk.logits[[answer.prompt for answer in live]]
        branching = [row for row, answer in enumerate(live) if answer.variant != _UNTOUCHED]
        if branching:
            states = []
            for answer in (live[row] for row in branching):
                leaf = tree.paths[answer.variant][-1]
                row = self.layout.row(leaf, answer.prompt)
                states.append(branches.last[leaf][row : row + 1])
            rows = for_rows(inputs, [live[row].prompt for row in branching], len(self.input_ids))
            logits[branching] = read_out(self.model, self.decoder, torch.cat(states), rows)
        return logits

    def _choose(self, live: list[_Answer], ids: Tensor, logits: Tensor) -> Tensor:
        """The next token of each answer. Processors may know a row's prompt: each variant's get the whole batch."""
        if not self.rules.processors:
            return logits.argmax(dim=-1)
        tokens = ids.new_empty(len(live))
        for variant in {answer.variant: None for answer in live}:
            rows = [row for row, answer in enumerate(live) if answer.variant == variant]
            prompts = [live[row].prompt for row in rows]
            batch_ids = ids.new_zeros(len(self.input_ids), ids.shape[1])
            scores = logits.new_zeros(len(self.input_ids), logits.shape[1])
            batch_ids[prompts], scores[prompts] = ids[rows], logits[rows]
            tokens[rows] = self.rules.processors(batch_ids, scores)[prompts].argmax(dim=-1)
        return tokens

    def _choirs(self, live: list[_Answer], tree: Tree, trunk: Trunk, branches: Branches) -> list[Choir]:
        """Line the answers up for decoding, with the keys and values that each may read."""
        choirs = []
        for name, singers in groupby(live, key=lambda answer: answer.variant.weights):
            lineups = [
                self._lineup(prompt, [answer.variant for answer in answers], tree, trunk, branches)
                for prompt, answers in groupby(singers, key=lambda answer: answer.prompt)
            ]
            weights = self.weights[name] if name is not None else None
            choirs.append(Choir(self.model, self.decoder, weights, lineups, len(self.input_ids)))
        return choirs

    def _lineup(self, prompt: int, variants: list[Variant], tree: Tree, trunk: Trunk, branches: Branches) -> Lineup:
        depth = self.decoder.depth
        cuts = [depth if variant.cut is None else variant.cut for variant in variants]
        start = int(self.prompts.real[prompt].int().argmax())
        seen: list[KeysValues | None] = []
        blind: list[KeysValues | None] = []
        for layer in range(depth):
            nodes = [tree.at(variant, layer) for variant in variants]
            both = trunk.states(layer) if nodes[0].parent is None else branches.states[layer][nodes[0]]
            seen.append(None if nodes[0].blind else tuple(states[prompt : prompt + 1, :, start:] for states in both))
            own = [self.layout.text_states(node, prompt, branches.states[layer][node]) for node in nodes if node.blind]
            blind.append(
                (torch.cat([keys for keys, _ in own]), torch.cat([values for _, values in own])) if own else None
            )
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return Lineup(prompt, cuts, seen, positions[start:], blind, positions[self.prompts.text[prompt]])

    def _as_generated(self, answers: list[list[int]]) -> Tensor:
        """The untouched model's sequences as `generate` returns them."""
        width = max(len(tokens) for tokens in answers)
        padding = self.rules.config._pad_token_tensor  # set wherever answers can end early
        padded = [tokens + [padding] * (width - len(tokens)) for tokens in answers]
        return torch.cat([self.input_ids, torch.tensor(padded, device=self.input_ids.device)], dim=1)
