"""The family engine: every variant's answer to a prompt batch, from one shared computation inside the model's generate.

The model's own `generate` prepares inputs, logits processors and stopping criteria as for any call; only its decoding
loop is replaced. The prefill of the untouched model is the trunk (`trunk`); branches start from it where variants part
(`branches`, `lanes`); then all answers decode as rows of one batch (`decoding`, `answers`). Everything is exact: what
can't be is refused with an `UnsupportedError` (`support`), and `run_plainly` in `reference` goes the long way.
On the way, what they give to vision may be read off (`reader`, `readout`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from lmms_plam.errors import UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model.answers import Answer, Group
from lmms_plam.model.batch import Batch, Rules
from lmms_plam.model.branches import Layout, what_to_keep
from lmms_plam.model.budget import estimate, group
from lmms_plam.model.host import CACHE, find_decoder
from lmms_plam.model.lanes import AUTHORS, QueryScope
from lmms_plam.model.likelihood import Score
from lmms_plam.model.reader import Reader
from lmms_plam.model.readout import Readout
from lmms_plam.model.support import check_generation, check_request
from lmms_plam.model.trunk import run_trunk
from lmms_plam.model.variants import Variant, WeightSet, check_variants, grow_tree

MEMORY_BUDGET = 4 * 2**30
"""Bytes that branches processed together may take beyond an ordinary run, unless another budget is given."""

_UNTOUCHED = Variant("")


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """The answers of a family.

    Attributes:
        tokens: by variant and prompt, the new tokens, with the end-of-sequence token where there is one.
        trunk: what `model.generate` returns for the untouched model: [prompts, length], prompt and padding included.
            Its prefill is the model's own, bit for bit; its later tokens are decoded beside those of the variants,
            which in low precision may round otherwise, as in any other batch.
        vision_tokens: by prompt, the number of vision tokens; without any, all cuts are the same variant.
        logits: by variant and prompt, the raw logits [new tokens, vocabulary], float32, if asked for.
        divergence: by variant and prompt, how far the first token's distribution is from the untouched model's,
            Kullback-Leibler in nats; None where nobody measured it.
        readouts: by variant and prompt, the attention to vision, if it was to be read; None for a prompt without.
        first: the untouched model's raw logits of the first new token [prompts, vocabulary], float32; None where
            nobody kept them.
        scores: by variant, prompt and continuation, its log-probability, if continuations were given; then `tokens` and
            the rest are those of each prompt's first, and `trunk` holds the prompts and one token.
    """

    tokens: list[list[list[int]]]
    trunk: Tensor
    vision_tokens: list[int]
    logits: list[list[Tensor]] | None = None
    divergence: list[list[float]] | None = None
    readouts: list[list[Readout | None]] | None = None
    scores: list[list[list[Score]]] | None = None
    first: Tensor | None = None


def generate_family(
    model: PreTrainedModel,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
    memory_budget: int = MEMORY_BUDGET,
    keep_logits: bool = False,
    read_attention: bool = False,
    continuations: Sequence[Sequence[Passage]] | None = None,
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
        read_attention: also return what prompts and answers give to vision.
        continuations: by prompt, texts whose probability is asked, instead of answers of the variants' own.

    Raises:
        UnsupportedError: the model or a generation option is none that the engine can apply exactly; it is named.
        ConfigError: variants that can't be meant.
        MergeError: weights that don't fit the model.
    """
    decoder = find_decoder(model)
    sets = {one.name: one for one in weights}
    check_variants(variants, sets, decoder.depth)
    check_request(model, decoder, generate_kwargs)
    if query_scope in AUTHORS:
        raise UnsupportedError(f"the authors' masking ('{query_scope}') shares nothing between cuts")
    if whole := [one.name for one in variants if one.weights is not None and sets[one.weights].outside]:
        raise UnsupportedError(f"variant '{whole[0]}' changes more than decoder layers, so that it shares nothing")
    if read_attention and query_scope == "last":
        raise UnsupportedError("with vision hidden from the last token alone, the attention of others can't be read")
    if read_attention and (silent := [one.name for one in variants if one.silent is not None]):
        raise UnsupportedError(f"variant '{silent[0]}' silences attention, so that there is none to read")
    if both := [one.name for one in variants if one.silent is not None and one.hidden(decoder.depth)]:
        raise UnsupportedError(
            f"variant '{both[0]}' hides vision and silences attention, which the engine can't combine"
        )

    def loop(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> FamilyResult:
        rules = Rules(logits_processor, stopping_criteria, generation_config)
        check_generation(rules, model_kwargs.get(CACHE))
        batch = Batch(model, decoder, input_ids, model_kwargs, rules)
        reader = Reader(decoder, batch.prompts) if read_attention else None
        return _answer_all(batch, variants, sets, query_scope, memory_budget, keep_logits, reader, continuations)

    result: FamilyResult = type(model).generate(model, **generate_kwargs, custom_generate=loop)
    return result


def _answer_all(
    batch: Batch,
    variants: Sequence[Variant],
    weights: Mapping[str, WeightSet],
    scope: QueryScope,
    memory_budget: int,
    keep_logits: bool,
    reader: Reader | None,
    continuations: Sequence[Sequence[Passage]] | None,
) -> FamilyResult:
    """Answer all prompts with every variant, group by group."""
    answers: dict[Variant, dict[tuple[int, int], Answer]] = {}
    followed: Sequence[Sequence[Passage | None]] = [[None]] * len(batch) if continuations is None else continuations

    def ask(variant: Variant) -> list[list[Answer]]:
        """Return, by prompt, the answers that will be this variant's; variants alike on a prompt have them in common.

        There is one for each continuation, or one.
        """
        own = []
        hidden = variant.hidden(batch.decoder.depth)
        for prompt in range(len(batch)):
            silent = variant.silent if variant.silent != batch.decoder.depth else None
            alike = Variant("", weights=variant.weights, silent=silent)
            if hidden and prompt in batch.prompts.seeing:
                alike = replace(alike, cut=hidden.start, until=hidden.stop)
            known = answers.setdefault(alike, {})
            own.append(
                [
                    known.setdefault((prompt, place), Answer(alike, prompt, follows=passage))
                    for place, passage in enumerate(followed[prompt])
                ]
            )
        return own

    untouched = ask(_UNTOUCHED)
    asked = [ask(variant) for variant in variants]
    layout = Layout(batch.prompts, scope)
    needs = {variant: estimate(batch, variant, weights, len(own)) for variant, own in answers.items()}
    trees = [grow_tree(variants, weights, batch.decoder.depth) for variants in group(needs, memory_budget)]
    trunk = run_trunk(batch, what_to_keep(trees, layout), reader)
    for tree in trees:
        wanted = [answer for variant in tree.paths for answer in answers[variant].values()]
        Group(batch, tree, trunk, layout, weights, reader).grow(wanted, keep_logits)
    firsts = [[answer for answer, *_ in own] for own in asked]
    return FamilyResult(
        tokens=[[answer.tokens for answer in own] for own in firsts],
        trunk=batch.sequences([own[0].tokens[: 1 if own[0].follows else None] for own in untouched]),
        vision_tokens=batch.prompts.vision.sum(dim=1).tolist(),
        logits=[[torch.stack(answer.logits) for answer in own] for own in firsts] if keep_logits else None,
        divergence=[[answer.divergence for answer in own] for own in firsts],
        readouts=None if reader is None else [[answer.readout for answer in own] for own in firsts],
        first=trunk.logits,
        scores=[
            [[Score(answer.log_probability, answer.is_greedy) for answer in own] for own in prompts]
            for prompts in asked
        ]
        if continuations is not None
        else None,
    )
