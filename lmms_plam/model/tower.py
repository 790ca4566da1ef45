"""What a vision tower makes of pictures, computed once for prompts that are run again with other decoder weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from lmms_plam.model.host import features_replaced


@contextmanager
def pictures_seen_once(model: PreTrainedModel) -> Iterator[None]:
    """Let a model remember what its vision tower made of the pictures that it is given in the block.

    Pictures are the same where they are the same tensors in memory, unchanged. The tower and its projector must be the
    same throughout: no merge touches them. A model that asks for its pictures otherwise computes them each time.
    """
    with features_replaced(model, _remembering):
        yield


def _remembering(compute: Callable[..., Any]) -> Callable[..., Any]:
    seen: dict[Hashable, tuple[Any, Any]] = {}

    @functools.wraps(compute)
    def features(*args: Any, **kwargs: Any) -> Any:
        key = tuple(map(_identity, args)), tuple((name, _identity(kwargs[name])) for name in sorted(kwargs))
        if key not in seen:  # the arguments stay in it, so that no other tensors take their place in memory
            seen[key] = (args, kwargs), compute(*args, **kwargs)
        return seen[key][1]

    return features


def _identity(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.data_ptr(), value.shape, value.stride(), value.dtype, value.device, value._version
    if isinstance(value, Mapping):
        return tuple((name, _identity(own)) for name, own in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_identity, value))
    return value if isinstance(value, (int, float, str, type(None))) else id(value)
