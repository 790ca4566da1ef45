"""Rows of one batch that run with weight sets of their own: what a set replaces runs once for each set, all else once.

A forward of few rows is bound by reading weights, on a GPU and on a CPU, and on a GPU by launching kernels. Recipes
replace few of a layer's modules, so that answers of many of them cost little more together than one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.variants import WeightSet, installed

Share = tuple[WeightSet | None, int]
"""The weights that some rows of a batch run with, None for the loaded ones, and how many rows they are."""


def runs_by_rows(weights: WeightSet, layers: Mapping[int, nn.Module]) -> bool:
    """Say whether all that a set replaces belongs to linear modules and norms, which take states row by row."""
    return all(
        isinstance(owner, nn.Linear) or all(parameter.ndim == 1 for parameter in owner.parameters())
        for index, tensors in weights.layers.items()
        for owner in {layers[index].get_submodule(name.rpartition(".")[0]) for name in tensors}
    )


@contextmanager
def installed_by_rows(shares: Sequence[Share], layers: Mapping[int, nn.Module]) -> Iterator[None]:
    """Let the rows of a batch, share by share, run with their weights in these decoder layers (by index) while open.

    Where all rows have the same weights, this is `installed`.

    Raises:
        MergeError: as `installed`.
        UnsupportedError: a module that isn't called with states [rows, ...]; afterwards, one that wasn't called at all.
    """
    weights = list({one.name if one is not None else None: one for one, _ in shares}.values())
    with ExitStack() as stack:
        if len(weights) == 1:
            stack.enter_context(installed(weights[0], layers))
        else:
            for index in sorted({index for one in weights if one is not None for index in one.layers}):
                stack.enter_context(_split_layer(shares, index, layers[index]))
        yield


@contextmanager
def _split_layer(shares: Sequence[Share], index: int, layer: nn.Module) -> Iterator[None]:
    """Let each module of a layer, of which a set replaces something, run share by share while open."""
    parts = _by_weights(shares, index)
    names = dict.fromkeys(name for one, _ in parts if one is not None for name in one.layers.get(index, ()))
    split = [_Split(path, layer, index, parts) for path in dict.fromkeys(name.rpartition(".")[0] for name in names)]
    with ExitStack() as stack:
        for one in split:
            stack.enter_context(one.patched())
        yield
    if missed := [one.path for one in split if not one.called]:
        raise UnsupportedError(f"decoder layers that use the weights of '{missed[0]}' without calling it")


def _by_weights(shares: Sequence[Share], index: int) -> list[Share]:
    """Join neighbours that run with the same tensors in a layer; of their sets, one stands for all."""
    parts: list[Share] = []
    for _, alike in groupby(shares, key=lambda share: share[0].key(index) if share[0] is not None else None):
        own, counts = zip(*alike, strict=True)
        parts.append((own[0], sum(counts)))
    return parts


@dataclass(slots=True)
class _Split:
    """A module of a decoder layer that runs once for each set of weights.

    Attributes:
        path: its name within the layer.
        layer: the layer.
        index: the layer's index.
        parts: how many rows have the same weights, one after another.
        called: whether it has been called.
    """

    path: str
    layer: nn.Module
    index: int
    parts: Sequence[Share]
    called: bool = False
    _own: list[WeightSet | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        for weights, _ in self.parts:
            tensors = weights.layers.get(self.index, {}) if weights is not None else {}
            names = [name for name in tensors if name.rpartition(".")[0] == self.path]
            own = {self.index: _Some(tensors, names)}
            self._own.append(WeightSet(weights.name, own) if weights is not None and names else None)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Have the module run share by share while open."""
        module = self.layer.get_submodule(self.path)
        patched, before = "forward" in vars(module), module.forward
        module.forward = lambda *args, **kwargs: self._run(before, *args, **kwargs)
        try:
            yield
        finally:
            if patched:  # someone had put theirs over the class's
                module.forward = before
            else:
                del module.forward

    def _run(self, forward: Callable[[Tensor], Tensor], states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counts = [count for _, count in self.parts]
        if args or kwargs or len(states) != sum(counts):
            raise UnsupportedError(f"'{self.path}', which isn't called with the states of all rows and nothing else")
        self.called = True
        outputs = []
        for own, rows in zip(self._own, states.split_with_sizes(counts), strict=True):
            with installed(own, {self.index: self.layer}):
                outputs.append(forward(rows))
        return torch.cat(outputs)


class _Some(Mapping[str, Tensor]):
    """Some of a layer's tensors by name, each computed when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Sequence[str]):
        self._tensors = tensors
        self._names = names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
