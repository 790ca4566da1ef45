"""What transformers fills at random when it loads a model, of which it only prints a table.

`from_pretrained` can return what it has found missing (`output_loading_info`, public since long before transformers 5),
but lmms-eval's backends call it themselves: while one is built, each call is made to return that, and is taken down.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lmms_plam.errors import CheckpointError
from lmms_plam.merge.diagnosis import diagnose

Loaded = list[tuple[nn.Module, Mapping[str, Any]]]
"""Models as they were loaded, with transformers' account of each."""


@contextmanager
def watched_loading() -> Iterator[Loaded]:
    """Yield a list that gets every model which transformers loads in the block."""
    loaded: Loaded = []
    own = PreTrainedModel.__dict__["from_pretrained"]

    @functools.wraps(own.__func__)
    def from_pretrained(cls: type, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, account = own.__func__(cls, *args, output_loading_info=True, **kwargs)
        loaded.append((model, account))
        return (model, account) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[arg-type]
    try:
        yield loaded
    finally:
        PreTrainedModel.from_pretrained = own


def require_filled(model: nn.Module, loaded: Loaded, reference: str) -> None:
    """Refuse a model with parameters that no file filled.

    A tied parameter is filled through the other one, and buffers are computed where no file holds them.

    Args:
        model: the model that will answer.
        loaded: what was loaded while it was built.
        reference: what it is called.

    Raises:
        CheckpointError: parameters that no file filled, named.
    """
    parts = set(model.modules())
    for part, account in loaded:
        if part not in parts:
            continue
        parameters = {name for name, _ in part.named_parameters(remove_duplicate=False)}
        mismatched = {entry if isinstance(entry, str) else entry[0] for entry in account["mismatched_keys"]}
        random = sorted(parameters & {*account["missing_keys"], *mismatched})
        if random:
            shown = ", ".join(random[:3]) + (f" and {len(random) - 3} more" if len(random) > 3 else "")
            told = diagnose(sorted(account["unexpected_keys"])) or "fetch the model again, or set vlm to a whole one"
            raise CheckpointError(
                f"no file of '{reference}' fills the parameters {shown}, which transformers sets at random: {told}"
            )
