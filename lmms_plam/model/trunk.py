"""The trunk: the model's own prefill of the untouched variant, watched so that branches can start from it.

Nothing of the model is replaced. A hook on each decoder layer notes with what arguments the model calls it, and keeps
the hidden states that enter the layers at which branches part from the trunk; keys and values are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.batch import Batch
from lmms_plam.model.host import CACHE, Attention, attention_replaced, hooked, states_of, take_cache
from lmms_plam.model.lanes import KeysValues
from lmms_plam.model.reader import Reader

Keep = Mapping[int, Mapping[object, Callable[[Tensor], Tensor]]]
"""What to keep of the hidden states [prompts, length, width] that enter a layer: selections by layer and a key."""


@dataclass(slots=True)
class Trunk:
    """What the trunk's prefill leaves behind.

    Attributes:
        cache: keys and values of each layer.
        cache_name: what its layers call the cache among their arguments.
        arguments: by layer, the keyword arguments of its call, without hidden states and cache.
        entering: by layer and key, what was kept of the hidden states that enter it.
        added: by layer, what the model added to the states of vision tokens after it (DeepStack does), float32.
        logits: [prompts, vocabulary], float32, for the first new token.
    """

    cache: DynamicCache
    cache_name: str = CACHE
    arguments: list[dict[str, Any]] = field(default_factory=list)
    entering: dict[int, dict[object, Tensor]] = field(default_factory=dict)
    added: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def states(self, layer: int) -> KeysValues:
        """Keys and values of a layer, of all positions of all prompts."""
        return states_of(self.cache, layer)


def run_trunk(batch: Batch, keep: Keep, reader: Reader | None = None) -> Trunk:
    """Run the model's prefill and watch it.

    Args:
        batch: the prompts.
        keep: which hidden states to keep.
        reader: reads attention, if it is to be read.

    Raises:
        UnsupportedError: the model doesn't run its decoder layers one after another on the prompt.
    """
    trunk = Trunk(DynamicCache())
    inputs = batch.prefill_inputs(trunk.cache)
    name = type(batch.model).__name__
    output_before: Tensor | None = None

    def watch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal output_before
        index, arguments = len(trunk.arguments), dict(kwargs)
        hidden = args[0] if args else arguments.pop("hidden_states")
        trunk.cache_name, cache = take_cache(arguments)
        if (
            len(args) > 1
            or not isinstance(output, Tensor)
            or hidden.shape[:2] != batch.input_ids.shape
            or cache is None
        ):
            raise UnsupportedError(f"{name} doesn't call {type(layer).__name__} as the engine knows decoder layers")
        if output_before is not None and hidden is not output_before:
            if (hidden != output_before)[batch.prompts.text].any():
                raise UnsupportedError(f"{name} changes the states of text between layers {index - 1} and {index}")
            trunk.added[index - 1] = hidden.float() - output_before.float()
        if reader is not None:
            reader.find_sinks(hidden)
        trunk.arguments.append(arguments)
        trunk.entering[index] = {key: select(hidden) for key, select in keep.get(index, {}).items()}
        output_before = output

    def read(
        layer: int, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        if reader is not None:
            reader.read_trunk(attention, query, key, mask)
        return attention(query, key, value, mask)

    hooks = hooked([layer.register_forward_hook(watch, with_kwargs=True) for layer in batch.decoder.layers])
    with hooks, attention_replaced(batch.decoder, read) if reader is not None else nullcontext():
        outputs = batch.model(**inputs, return_dict=True)
    if len(trunk.arguments) != batch.decoder.depth:
        raise UnsupportedError(f"{name} ran {len(trunk.arguments)} of its {batch.decoder.depth} decoder layers")
    trunk.logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
    return trunk
