"""The same variants the plain way, one run of the model each: what the family engine is tested against.

`run_plainly` hides vision by rewriting attention masks (`masks`), for what the engine refuses: it costs a whole run for
each variant, and any way of generating will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmms_plam.errors import UnsupportedError
from lmms_plam.language.border import Passage
from lmms_plam.model.divergence import divergence, first_logits
from lmms_plam.model.family import FamilyResult
from lmms_plam.model.follow import follow
from lmms_plam.model.host import attention_silenced, find_decoder, vision_positions
from lmms_plam.model.lanes import AUTHORS, QueryScope
from lmms_plam.model.likelihood import Score
from lmms_plam.model.masks import damaged, masked
from lmms_plam.model.plainread import PlainReader
from lmms_plam.model.support import setting
from lmms_plam.model.variants import Variant, WeightSet, check_variants, installed_whole


def run_plainly(
    model: PreTrainedModel,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
    keep_logits: bool = False,
    read_attention: bool = False,
    trunk: FamilyResult | None = None,
) -> FamilyResult:
    """Answer a batch of prompts with every variant, by one call of `model.generate` each.

    Args:
        model: a vision-language model of transformers, loaded with sdpa or eager attention.
        variants: what to run; names must differ.
        generate_kwargs: the keyword arguments of `model.generate`; sampling, beams and processors are all its own.
        weights: the weight sets that variants name.
        query_scope: from which queries vision is hidden.
        keep_logits: also return the logits; for greedy decoding.
        read_attention: also return what prompts and answers give to vision; for greedy decoding.
        trunk: other variants' answers to these prompts, with the untouched model's; left out, or to read attention,
            this is asked first.

    Raises:
        UnsupportedError: a model whose vision tokens can't be hidden by masks, or whose attention can't be read; it is
            named.
        ConfigError: variants that can't be meant.
        MergeError: weights that don't fit the model.
    """
    decoder = find_decoder(model)
    sets = {one.name: one for one in weights}
    check_variants(variants, sets, decoder.depth)
    input_ids = generate_kwargs.get("input_ids", generate_kwargs.get("inputs"))
    if input_ids is None:
        raise UnsupportedError("vision tokens can be told only with input_ids among the arguments of generate")
    vision = vision_positions(model, input_ids, generate_kwargs)
    generate = type(model).generate
    kept = {"return_dict_in_generate": True, "output_logits": True} if keep_logits else {}
    reader = _reader(model, vision, generate_kwargs) if read_attention else None
    if trunk is None or reader is not None:
        sinks = reader.finding_sinks() if reader is not None else nullcontext()
        with sinks, first_logits(model, len(input_ids)) as keep:
            untouched = generate(model, **generate_kwargs, **kept)
        expected = keep()
    else:
        untouched, expected = trunk.trunk, trunk.first
    tokens, logits, readouts, diverged = [], [], [], list[list[float]]()
    for variant in variants:
        output, found, hidden = untouched, expected, variant.hidden(decoder.depth)
        silent = range(decoder.depth if variant.silent is None else variant.silent, decoder.depth)
        if hidden or silent or variant.weights is not None or reader is not None:
            chosen = sets[variant.weights] if variant.weights is not None else None
            with (
                installed_whole(chosen, model, decoder.by_index()),
                _hiding(model, vision, hidden, query_scope),
                attention_silenced(decoder, dict.fromkeys(silent, slice(None))),
                reader.reading() if reader is not None else nullcontext(list) as read,
                first_logits(model, len(input_ids)) as keep,
            ):
                output = generate(model, **generate_kwargs, **kept)
            readouts.append(read())
            found = keep()
        if expected is not None and found is not None:
            diverged.append(divergence(expected, found).tolist())
        sequences = getattr(output, "sequences", output)
        tokens.append([_ended(row, model, generate_kwargs) for row in sequences[:, input_ids.shape[1] :].tolist()])
        if keep_logits:
            steps = torch.stack(output.logits, dim=1).float()
            logits.append([row[: len(own)] for row, own in zip(steps, tokens[-1], strict=True)])
    return FamilyResult(
        tokens,
        untouched,
        vision.sum(dim=1).tolist(),
        logits if keep_logits else None,
        divergence=diverged if len(diverged) == len(variants) else None,
        readouts=readouts if read_attention else None,
        first=expected,
    )


def follow_plainly(
    model: PreTrainedModel,
    variants: Sequence[Variant],
    generate_kwargs: Mapping[str, Any],
    continuations: Sequence[Sequence[Passage]],
    *,
    weights: Sequence[WeightSet] = (),
    query_scope: QueryScope = "all",
) -> FamilyResult:
    """Score continuations with every variant, by one call of `model.generate` for each variant and continuation.

    Args:
        model: as in `run_plainly`.
        variants: as in `run_plainly`.
        generate_kwargs: the keyword arguments of `model.generate`.
        continuations: by prompt, texts whose probability is asked.
        weights: the weight sets that variants name.
        query_scope: from which queries vision is hidden.

    Raises:
        UnsupportedError, ConfigError, MergeError: as `run_plainly`.
    """
    decoder = find_decoder(model)
    sets = {one.name: one for one in weights}
    check_variants(variants, sets, decoder.depth)
    input_ids = generate_kwargs["input_ids"]
    vision = vision_positions(model, input_ids, generate_kwargs)
    scores: list[list[list[Score]]] = []
    for variant in variants:
        silent = range(decoder.depth if variant.silent is None else variant.silent, decoder.depth)
        scores.append([[] for _ in continuations])
        with (
            installed_whole(sets[variant.weights] if variant.weights is not None else None, model, decoder.by_index()),
            _hiding(model, vision, variant.hidden(decoder.depth), query_scope),
            attention_silenced(decoder, dict.fromkeys(silent, slice(None))),
        ):
            for place in range(max(map(len, continuations))):
                led = [own[min(place, len(own) - 1)] for own in continuations]
                found = follow(partial(type(model).generate, model), generate_kwargs, led)
                for own, passages, score in zip(scores[-1], continuations, found, strict=True):
                    if place < len(passages):
                        own.append(score)
    trunk = torch.cat([input_ids, input_ids[:, -1:]], dim=1)
    return FamilyResult([], trunk, vision.sum(dim=1).tolist(), scores=scores)


def _reader(model: PreTrainedModel, vision: Tensor, generate_kwargs: Mapping[str, Any]) -> PlainReader:
    padding = generate_kwargs.get("attention_mask")
    real = torch.ones_like(vision) if padding is None else padding.bool()
    ends = setting(model, generate_kwargs, "eos_token_id")
    ends = ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    return PlainReader(model, vision, real, ends)


def _hiding(model: PreTrainedModel, vision: Tensor, layers: range, scope: QueryScope) -> AbstractContextManager[None]:
    if scope not in AUTHORS:
        return masked(model, vision, layers.start, scope, until=layers.stop)
    if layers and layers.stop < find_decoder(model).depth:
        raise UnsupportedError("the authors' masking hides vision from a layer on, and never lets it be read again")
    return damaged(model, vision, layers.start, scope) if layers else nullcontext()


def _ended(tokens: list[int], model: PreTrainedModel, generate_kwargs: Mapping[str, Any]) -> list[int]:
    """Cut an answer after its first end-of-sequence token, or before its padding."""
    ends, padding = (setting(model, generate_kwargs, name) for name in ("eos_token_id", "pad_token_id"))
    for count, token in enumerate(tokens, start=1):
        if token in (ends if isinstance(ends, (list, tuple)) else [ends]):
            return tokens[:count]
    while tokens and tokens[-1] == padding:
        tokens = tokens[:-1]
    return tokens
