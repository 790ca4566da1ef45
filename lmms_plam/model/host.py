"""Where the engine depends on transformers' insides: every such place, what it needs, and how releases differ.

Released models all run through the same few seams of the library, so no code here knows a model family. What is public
(`generate`, `config`, logits processors by class) is used where it is needed; what is private or has moved is here:

* generate's `custom_generate`: a function (model, input_ids, logits_processor, stopping_criteria, generation_config,
  **model_kwargs) that takes the decoding loop's place (`family`).
* The cache's name among arguments: `cache` from 5.24, `past_key_values` before; a model's own code may lag behind.
* `prepare_inputs_for_generation(ids, next_sequence_length, is_first_iteration, **kwargs)` and
  `_update_model_kwargs_for_generation` (`prefill_inputs`, `next_inputs`, `next_logits`, `whole_inputs`).
* A cache's `layers[i].keys`, `.values`, `update`, `get_seq_length` and `get_mask_sizes` (`Clock`, `states_of`).
* `ALL_ATTENTION_FUNCTIONS`, which every model looks its attention up in, and each modeling file's
  `eager_attention_forward`, for eager isn't in it; their options `scaling` and `softcap` (`attention_replaced`).
* Names inside a model: `get_decoder()`, `layers`, `self_attn`, `layer_idx`, `_attn_implementation`, `layer_types`,
  `num_kv_shared_layers` (`find_decoder`).
* What decoder layers are called with: `attention_mask` (None with sdpa means causal; eager adds it up, so a boolean one
  is silently wrong there), `position_embeddings`, `position_ids`, the cache (`lanes`, `trunk`).
* `get_image_features` and `get_video_features` of `base_model`, which forward asks for pictures (`features_replaced`).
* What vision tokens are called: `mm_token_type_ids`, placeholder ids in the config (`vision_positions`).
* Linear modules and norms of a decoder layer are called with the states of all rows, by position and with nothing else
  (`rows.RowWeights`); what is set as a module's `forward` is what its call runs (`forward_replaced`).
* `generation_config._pad_token_tensor`, set once generate has prepared it (`padding_of`).
* `_expand_inputs_for_generation`'s convention that the batch comes first, in three-dimensional position ids second
  (`repeat_inputs`).

The range of releases is in pyproject.toml; the tests named test_engine* run at both ends of it. A change that none of
them foresees is met on the user's own model (`selfcheck`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from lmms_plam.errors import UnsupportedError

CACHE_NAMES = ("cache", "past_key_values")
"""What the cache is called among the arguments of generate, of forward and of decoder layers."""

CACHE = next(
    name for name in CACHE_NAMES if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
"""What the installed transformers itself calls it."""

_IMAGE, _VIDEO = 1, 2  # what `mm_token_type_ids` calls the placeholders of images and videos; text is 0
_PLACEHOLDERS = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
_FEATURES = ("get_image_features", "get_video_features")
_IMPLEMENTATIONS = ("sdpa", "eager")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_ALONG = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")  # what grows with each token
_BIASES = ("position_bias", "s_aux")  # what some attention functions add to scores, or count beside them


@dataclass(frozen=True, slots=True)
class Decoder:
    """The language decoder inside a vision-language model.

    Attributes:
        text: the module that runs the layers, between token embedding and final norm.
        layers: its decoder layers.
        attention: name of its attention implementation, `sdpa` or `eager`.
    """

    text: Any
    layers: nn.ModuleList
    attention: str

    @property
    def depth(self) -> int:
        """The number of decoder layers L."""
        return len(self.layers)

    def by_index(self) -> dict[int, nn.Module]:
        """Return the layers by their 0-based index."""
        return dict(enumerate(self.layers))


def find_decoder(model: PreTrainedModel) -> Decoder:
    """Find the decoder layers of a model in which vision tokens are part of the sequence.

    Raises:
        UnsupportedError: a model of another build, named.
    """
    name = type(model).__name__
    if not isinstance(model, GenerationMixin) or type(model).generate is not GenerationMixin.generate:
        raise UnsupportedError(f"{name} has a generate() of its own, not transformers' GenerationMixin.generate")
    if model.config.is_encoder_decoder:
        raise UnsupportedError(f"{name} is an encoder-decoder model: no vision tokens in the decoder's sequence")
    text = model.get_decoder()
    if any(path.rsplit(".", 1)[-1].startswith("cross_attn") for path, _ in text.named_modules()):
        raise UnsupportedError(f"{name} reads vision by cross-attention: it has no vision tokens to hide")
    layers = getattr(text, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layer, "self_attn") for layer in layers):
        raise UnsupportedError(f"{name}: {type(text).__name__} has no list `layers` of decoder layers with `self_attn`")
    for kind in getattr(text.config, "layer_types", None) or ():
        if kind not in _LAYER_TYPES:
            raise UnsupportedError(f"{name} has decoder layers of the type '{kind}', not {' or '.join(_LAYER_TYPES)}")
    if getattr(text.config, "num_kv_shared_layers", 0):
        raise UnsupportedError(f"{name} has layers that read the keys and values of other layers")
    attention = text.config._attn_implementation
    if attention not in _IMPLEMENTATIONS:
        raise UnsupportedError(f"attention '{attention}' of {name}: load it with attn_implementation=sdpa or eager")
    return Decoder(text, layers, attention)


def vision_positions(model: PreTrainedModel, input_ids: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Say which prompt positions hold vision tokens, of images and of videos; their delimiters are text.

    Args:
        model: the vision-language model.
        input_ids: [prompts, length].
        inputs: what else the processor made; its `mm_token_type_ids` tell if there, else the placeholder ids in the
            model's config.

    Returns:
        bool [prompts, length].

    Raises:
        UnsupportedError: neither source is there.
    """
    types: Tensor | None = inputs.get("mm_token_type_ids")
    if types is not None:
        return (types == _IMAGE) | (types == _VIDEO)
    placeholders = {getattr(model.config, name, None) for name in _PLACEHOLDERS} - {None}
    if not placeholders:
        raise UnsupportedError(
            f"can't tell vision tokens from text: no mm_token_type_ids among the inputs and none of "
            f"{', '.join(_PLACEHOLDERS)} in the config of {type(model).__name__}"
        )
    return torch.isin(input_ids, torch.tensor(sorted(placeholders), device=input_ids.device))


def take_cache(arguments: dict[str, Any]) -> tuple[str, Any]:
    """Take the cache out of the keyword arguments of a decoder layer.

    Returns:
        The name under which it came, the library's own if it didn't, and the cache or None.
    """
    found = [name for name in CACHE_NAMES if name in arguments]
    caches = {name: arguments.pop(name) for name in found}
    name = next((name for name in found if caches[name] is not None), found[0] if found else CACHE)
    return name, caches.get(name)


class Clock(DynamicCache):  # type: ignore[misc]
    """Tells the model how many positions lie behind it, and keeps no keys and values."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions so far."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of positions with the new ones, and the first."""
        return self.length + query_length, 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the new ones alone."""
        return keys, values


def states_of(cache: DynamicCache, layer: int) -> tuple[Tensor, Tensor]:
    """Return a layer's keys and values, [prompts, heads, positions, dim]."""
    return cache.layers[layer].keys, cache.layers[layer].values


def prefill_inputs(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: Mapping[str, Any], cache: DynamicCache
) -> dict[str, Any]:
    """Return the arguments of the model's forward on whole prompts, which fill an empty cache."""
    kwargs = {**model_kwargs, "use_cache": True, CACHE: cache}
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    return inputs


def next_inputs(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: Mapping[str, Any], counts: Iterable[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the arguments of the model's forward on some tokens of each prompt: its last, then new ones.

    Which tokens is open; the cache among the arguments is a `Clock`.

    Args:
        model: the model.
        input_ids: [prompts, length].
        model_kwargs: what else `generate` has prepared.
        counts: how many new tokens at a time.

    Yields:
        The first token's position, padding counted, and the arguments.
    """
    kwargs, ids = {**model_kwargs, "use_cache": True}, input_ids
    for count in chain([0], counts):
        for _ in range(count):
            kwargs = model._update_model_kwargs_for_generation(ModelOutput(), kwargs)
            ids = torch.cat([ids, ids[:, -1:]], dim=1)
        read = max(1, count)
        position = ids.shape[1] - read
        kwargs[CACHE] = Clock(position)
        if "logits_to_keep" in kwargs:
            kwargs["logits_to_keep"] = read
        yield (
            position,
            model.prepare_inputs_for_generation(ids, next_sequence_length=read, is_first_iteration=False, **kwargs),
        )


def next_logits(
    model: PreTrainedModel, input_ids: Tensor, model_kwargs: Mapping[str, Any], *, is_first: bool
) -> tuple[Tensor, dict[str, Any]]:
    """Run the model on prompts, or on the last token behind what it has read, as the loop of `generate` does.

    Returns:
        The logits of the next token [prompts, vocabulary], and the arguments with which to go on.
    """
    kwargs, new = {**model_kwargs}, None if is_first else 1
    inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=new, is_first_iteration=is_first, **kwargs
    )
    output = model(**inputs, return_dict=True)
    return output.logits[:, -1], model._update_model_kwargs_for_generation(output, kwargs)


def whole_inputs(model: PreTrainedModel, input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model's forward on prompts and answers at once, of which it keeps no cache.

    Args:
        model: the model.
        input_ids: [prompts, length].
        model_kwargs: the arguments with which `next_logits` left off: they are of as many tokens, or of one more.
    """
    length = input_ids.shape[1]
    kwargs = {name: value for name, value in model_kwargs.items() if name not in CACHE_NAMES}
    for name in _ALONG:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][..., :length]
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        input_ids, is_first_iteration=True, **{**kwargs, "use_cache": False}
    )
    return {name: value for name, value in inputs.items() if name != "logits_to_keep"}


def repeat_inputs(
    inputs: Mapping[str, Any], count: int, prompts: Sequence[int], device: torch.device
) -> dict[str, Any]:
    """Repeat arguments of the model's forward, laid out by prompt, for rows that belong to these prompts.

    The padding mask is left out: rows read no padding.

    Args:
        inputs: the arguments.
        count: the number of prompts that they are laid out by.
        prompts: by row, its prompt.
        device: of the tensors.
    """
    rows = {**inputs, "attention_mask": None}
    index = torch.tensor(prompts, device=device)
    for name, value in rows.items():
        dim = 1 if name == "position_ids" and value.ndim == 3 else 0
        if isinstance(value, Tensor) and value.shape[dim] in (1, count):
            rows[name] = value.index_select(dim, index if value.shape[dim] > 1 else torch.zeros_like(index))
    return rows


def padding_of(config: GenerationConfig) -> Any:
    """Return the token that pads answers, of a config that `generate` has prepared."""
    return config._pad_token_tensor


@contextmanager
def attention_silenced(decoder: Decoder, where: Mapping[int, Any], least: int = 1) -> Iterator[None]:
    """Have attention add nothing to some hidden states, by layer, while open.

    Args:
        decoder: the decoder.
        where: by layer, an index into hidden states [rows, positions, width].
        least: calls with fewer positions are left alone.
    """

    def silence(chosen: Any) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            if output[0].shape[1] < least:
                return output
            states = output[0].clone()
            states[chosen] = 0
            return (states, *output[1:])

        return hook

    attentions = {layer: decoder.layers[layer].get_submodule("self_attn") for layer in where}
    with hooked([attentions[layer].register_forward_hook(silence(chosen)) for layer, chosen in where.items()]):
        yield


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Take these hooks off when done."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forward_replaced(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Have calls of a module run this function while open; what someone had put over the class's comes back."""
    own = vars(module).get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def features_replaced(
    model: PreTrainedModel, replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Have what a model's forward asks for the features of pictures by replaced while open, where it has such methods.

    Args:
        model: the vision-language model.
        replace: gets each method, returns what takes its place.
    """
    owner = model.base_model
    names = [name for name in _FEATURES if callable(getattr(owner, name, None))]
    for name in names:
        setattr(owner, name, replace(getattr(owner, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(owner, name)  # an instance attribute hid the class's method


@dataclass(frozen=True, slots=True)
class Attention:
    """A decoder layer's own attention function, with the options of this call.

    Attributes:
        module: the layer's attention module.
        function: what computes it.
        options: keyword arguments beside queries, keys, values and mask.
    """

    module: Any
    function: Callable[..., Any]
    options: Mapping[str, Any]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend: [rows, heads, queries, dim] to [rows, queries, heads, dim]."""
        output: Tensor = self.function(self.module, query, key, value, mask, **self.options)[0]
        return output

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return what attention takes the softmax of, before any mask.

        Args:
            query: [..., queries, dim].
            key: [..., keys, dim].

        Returns:
            [..., queries, keys], float32.

        Raises:
            UnsupportedError: scores that something else enters, named.
        """
        for name in _BIASES:
            if self.options.get(name) is not None:
                raise UnsupportedError(f"attention of {type(self.module).__name__} takes '{name}' into its scores")
        scaling, softcap = self.options.get("scaling"), self.options.get("softcap")
        scaled = query.float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores: Tensor = scaled @ key.float().transpose(-1, -2)
        return scores if softcap is None else softcap * torch.tanh(scores / softcap)


@contextmanager
def attention_replaced(
    decoder: Decoder, attend: Callable[..., Tensor], layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Have the attention of decoder layers computed by `attend` while open; a vision tower's stays as it is.

    Args:
        decoder: the decoder.
        attend: gets the layer's index, its own `Attention`, queries, keys, values and mask; returns the attention
            [rows, length, heads, dim].
        layers: those that will be run; None: all.

    Raises:
        UnsupportedError: afterwards, if some of these layers didn't attend through it.
    """
    name = decoder.attention
    before = ALL_ATTENTION_FUNCTIONS.get(name)  # None for eager: each modeling file has its own
    ours = {layer.get_submodule("self_attn"): index for index, layer in enumerate(decoder.layers)}
    met = set()

    def replaced(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        function = before or sys.modules[type(module).__module__].eager_attention_forward
        if module not in ours:
            return function(module, query, key, value, attention_mask, **options)
        met.add(ours[module])
        return attend(ours[module], Attention(module, function, options), query, key, value, attention_mask), None

    ALL_ATTENTION_FUNCTIONS[name] = replaced
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
        if ALL_ATTENTION_FUNCTIONS.get(name) is not before:  # someone had put theirs over the library's
            ALL_ATTENTION_FUNCTIONS[name] = before
    if not met.issuperset(range(decoder.depth) if layers is None else layers):
        raise UnsupportedError(f"{type(decoder.text).__name__} doesn't attend through AttentionInterface")
