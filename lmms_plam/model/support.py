"""What the engine can't apply exactly, refused by name before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import (
    DynamicCache,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers import generation as hf
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationMode

from lmms_plam.errors import UnsupportedError

_PLAIN_WAY = "; run_plainly can, at the price of one run for each variant"

_REFUSED_ARGUMENTS = (
    "assistant_model",
    "custom_generate",
    "inputs_embeds",
    "negative_prompt_ids",
    "past_key_values",
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
"""Logits processors that look at nothing but a row's own tokens and scores, and remember nothing."""


def check_request(model: nn.Module, generate_kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that the engine's decoding loop can't honour.

    Raises:
        UnsupportedError: such an argument, named.
    """
    for name in _REFUSED_ARGUMENTS:
        value = generate_kwargs.get(name, getattr(model.generation_config, name, None))
        if value is not None and value is not False:
            raise UnsupportedError(f"the engine can't apply generate's {name}{_PLAIN_WAY}")
    if generate_kwargs.get("input_ids", generate_kwargs.get("inputs")) is None:
        raise UnsupportedError("the engine needs input_ids among the arguments of generate")


def check_generation(
    config: GenerationConfig,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    model_kwargs: Mapping[str, Any],
) -> None:
    """Refuse what `generate` has prepared unless it is greedy decoding with row-by-row processors and dynamic caches.

    Raises:
        UnsupportedError: such a mode, processor, criterion or cache, named.
    """
    mode = config.get_generation_mode()
    if mode != GenerationMode.GREEDY_SEARCH:
        raise UnsupportedError(f"the engine decodes greedily and can't apply {mode.value}{_PLAIN_WAY}")
    for processor in processors:
        if type(processor) not in _ROW_BY_ROW:
            raise UnsupportedError(
                f"the engine can't apply the logits processor {type(processor).__name__}{_PLAIN_WAY}"
            )
    for criterion in criteria:
        if type(criterion) not in (MaxLengthCriteria, EosTokenCriteria):
            raise UnsupportedError(f"the engine can't apply the criterion {type(criterion).__name__}{_PLAIN_WAY}")
    if config.prefill_chunk_size is not None:
        raise UnsupportedError(f"the engine can't apply generate's prefill_chunk_size{_PLAIN_WAY}")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and (type(cache) is not DynamicCache or cache.offloading):
        raise UnsupportedError(f"the engine can't apply a {type(cache).__name__} (cache_implementation){_PLAIN_WAY}")
    for layer in cache.layers if cache is not None else ():
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedError(
                f"the engine can't handle decoder layers with a {type(layer).__name__}, only attention"
            )
