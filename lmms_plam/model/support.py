"""What the engine can't apply exactly, refused by name before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Cache, DynamicCache, EosTokenCriteria, MaxLengthCriteria, PreTrainedModel, StaticCache
from transformers import generation as hf

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.batch import Rules
from lmms_plam.model.host import CACHE_NAMES, Decoder

_PLAIN_WAY = "; run_plainly can"

_REFUSED_ARGUMENTS = (
    "assistant_model",
    "custom_generate",
    "inputs_embeds",
    "negative_prompt_ids",
    *CACHE_NAMES,
    "prefill_chunk_size",
    "prefix_allowed_tokens_fn",
    "return_dict_in_generate",
    "stop_strings",
    "streamer",
    "synced_gpus",
)

_ROW_BY_ROW = (
    hf.EncoderNoRepeatNGramLogitsProcessor,
    hf.EncoderRepetitionPenaltyLogitsProcessor,
    hf.ExponentialDecayLengthPenalty,
    hf.ForcedBOSTokenLogitsProcessor,
    hf.ForcedEOSTokenLogitsProcessor,
    hf.InfNanRemoveLogitsProcessor,
    hf.LogitNormalization,
    hf.MinLengthLogitsProcessor,
    hf.MinNewTokensLengthLogitsProcessor,
    hf.NoBadWordsLogitsProcessor,
    hf.NoRepeatNGramLogitsProcessor,
    hf.RepetitionPenaltyLogitsProcessor,
    hf.SequenceBiasLogitsProcessor,
    hf.SuppressTokensAtBeginLogitsProcessor,
    hf.SuppressTokensLogitsProcessor,
)
"""Logits processors that look at nothing but their prompt, a row's tokens and its scores, and remember nothing."""


def setting(model: PreTrainedModel, generate_kwargs: Mapping[str, Any], name: str) -> Any:
    """Return a generation setting: the argument of `generate`, else of the config given to it, else the model's."""
    if name in generate_kwargs:
        return generate_kwargs[name]
    given = getattr(generate_kwargs.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if given is None else given


def check_request(model: PreTrainedModel, decoder: Decoder, generate_kwargs: Mapping[str, Any]) -> None:
    """Refuse a model or arguments of `generate` that the engine can't honour.

    Raises:
        UnsupportedError: what it is, named.
    """
    devices = {parameter.device for parameter in decoder.layers.parameters()}
    if len(devices) > 1 or torch.device("meta") in devices:
        where = ", ".join(sorted(map(str, devices)))
        raise UnsupportedError(
            f"the engine needs all decoder layers on one device, and they are on {where}{_PLAIN_WAY}"
        )
    for name in _REFUSED_ARGUMENTS:
        value = setting(model, generate_kwargs, name)
        if value is not None and value is not False:
            raise UnsupportedError(f"the engine can't apply generate's {name}{_PLAIN_WAY}")
    input_ids = generate_kwargs.get("input_ids", generate_kwargs.get("inputs"))
    if input_ids is None:
        raise UnsupportedError("the engine needs input_ids among the arguments of generate")
    if input_ids.device not in devices:
        raise UnsupportedError(f"input_ids are on {input_ids.device}, the model is on {devices.pop()}: move them there")


def check_generation(rules: Rules, cache: Cache | None) -> None:
    """Refuse what `generate` has prepared unless it is greedy decoding with rules that go row by row.

    Args:
        rules: the rules.
        cache: the cache, which the engine replaces by its own; so it mustn't be one that changes what it holds.

    Raises:
        UnsupportedError: a mode, processor, criterion or cache, named.
    """
    mode = rules.config.get_generation_mode()
    if mode != hf.GenerationMode.GREEDY_SEARCH:
        raise UnsupportedError(f"the engine decodes greedily and can't apply {mode.value}{_PLAIN_WAY}")
    for processor in rules.processors:
        if type(processor) not in _ROW_BY_ROW:
            raise UnsupportedError(f"the engine can't apply {type(processor).__name__}{_PLAIN_WAY}")
    for criterion in rules.criteria:
        if type(criterion) not in (MaxLengthCriteria, EosTokenCriteria):
            raise UnsupportedError(f"the engine can't apply {type(criterion).__name__}{_PLAIN_WAY}")
    if cache is not None and type(cache) not in (DynamicCache, StaticCache):
        raise UnsupportedError(f"the engine can't apply a {type(cache).__name__}{_PLAIN_WAY}")
