"""The trunk: the model's own prefill of the untouched variant, watched so that branches can start from it.

Nothing of the model is replaced. A hook on each decoder layer notes with what arguments the model calls it, and keeps
the hidden states that enter the layers at which branches part from the trunk; keys and values are in the model's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.anatomy import Decoder
from lmms_plam.model.lanes import Prompts


@dataclass(slots=True)
class Trunk:
    """What the trunk's prefill leaves behind.

    Attributes:
        cache: keys and values, [prompts, heads, length, dim] in each layer.
        arguments: by layer, the keyword arguments of its call, without hidden states and cache.
        entering: by layer, what was kept of the hidden states that enter it, by the name of who asked.
        added: layers after which the model changed the hidden states (DeepStack adds vision features there).
        logits: [prompts, vocabulary], float32, for the first new token.
    """

    cache: DynamicCache
    arguments: list[dict[str, Any]] = field(default_factory=list)
    entering: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [prompts, heads, length, dim]."""
        return self.cache.layers[layer].keys, self.cache.layers[layer].values


Keep = Mapping[int, Mapping[str, Callable[[Tensor], Tensor]]]
"""What to keep of the hidden states [prompts, length, width] that enter a layer: by layer and name, a selection."""


def run_trunk(model: nn.Module, decoder: Decoder, prompts: Prompts, inputs: dict[str, Any], keep: Keep) -> Trunk:
    """Run the model's prefill and watch it.

    Args:
        model: the vision-language model.
        decoder: its decoder.
        prompts: the batch.
        inputs: arguments of the model's forward, with an empty `DynamicCache` as `past_key_values`.
        keep: which hidden states to keep.
    """
    trunk = Trunk(cache=inputs["past_key_values"])
    previous: list[Tensor] = []

    def watch(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            arguments = dict(kwargs)
            hidden = args[0] if args else arguments.pop("hidden_states")
            if len(args) > 1 or not isinstance(output, Tensor) or hidden.shape[:2] != prompts.real.shape:
                raise UnsupportedError(
                    f"{type(module).__name__} isn't called as a decoder layer on the prompt: {len(args)} positional "
                    f"arguments, states {tuple(hidden.shape)} for prompts {tuple(prompts.real.shape)}"
                )
            arguments.pop("past_key_values", None)
            trunk.arguments.append(arguments)
            trunk.entering[layer] = {name: select(hidden) for name, select in keep.get(layer, {}).items()}
            if previous and hidden is not previous[0]:
                if (hidden != previous[0])[prompts.text].any():
                    raise UnsupportedError(
                        f"the model changes the states of text between layers {layer - 1} and {layer}"
                    )
                trunk.added.append(layer - 1)
            previous[:] = [output]

        return hook

    handles = [
        layer.register_forward_hook(watch(index), with_kwargs=True) for index, layer in enumerate(decoder.layers)
    ]
    try:
        outputs = model(**inputs, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    if len(trunk.arguments) != decoder.depth:
        raise UnsupportedError(f"{type(model).__name__} ran {len(trunk.arguments)} of {decoder.depth} decoder layers")
    for mask in {id(mask): mask for mask in (call.get("attention_mask") for call in trunk.arguments)}.values():
        _check_blind_prefix(mask, prompts)
    trunk.logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
    return trunk


def _check_blind_prefix(mask: Tensor | None, prompts: Prompts) -> None:
    """Text before the first vision token must not see it: the branches take its keys and values from the trunk."""
    if mask is None:
        return
    visible = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min
    seen = prompts.vision.cumsum(dim=1).bool()
    before = prompts.real & ~seen
    if (visible & before[:, :, None] & seen[:, None, :]).any():
        raise UnsupportedError("this model lets text before an image read it (bidirectional attention over the prompt)")
