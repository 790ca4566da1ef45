"""Rows of one batch that run with weight sets of their own: what a set replaces runs once for each set, all else once.

A forward of few rows is bound by reading weights, on a GPU and on a CPU, and on a GPU by launching kernels. Recipes
replace few of a layer's modules, so that answers of many of them cost little more together than one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.host import forward_replaced
from lmms_plam.model.variants import WeightSet, installed

Share = tuple[WeightSet | None, int]
"""The weights that some rows of a batch run with, None for the loaded ones, and how many rows they are."""


def runs_by_rows(weights: WeightSet, layers: Mapping[int, nn.Module]) -> bool:
    """Say whether all that a set replaces belongs to linear modules and norms that take the states of all rows.

    Those in a list of modules, such as experts, get the states of some rows, in any order.
    """
    owners = {
        (index, path)
        for index, tensors in weights.layers.items()
        for path in {name.rpartition(".")[0] for name in tensors}
    }
    return all(_takes_all_rows(layers[index], path) for index, path in owners)


def _takes_all_rows(layer: nn.Module, path: str) -> bool:
    names = path.split(".")
    above = (layer.get_submodule(".".join(names[:length])) for length in range(len(names)))
    owner = layer.get_submodule(path)
    is_linear = type(owner).forward is nn.Linear.forward
    is_norm = all(parameter.ndim == 1 for parameter in owner.parameters())
    return (is_linear or is_norm) and not any(isinstance(module, nn.ModuleList) for module in above)


class RowWeights:
    """The weights of a batch's rows in the decoder layers. Where all rows have the same, nothing is split.

    Args:
        shares: weights and how many rows have them, one after another.
        layers: decoder layers by index.
    """

    def __init__(self, shares: Sequence[Share], layers: Mapping[int, nn.Module]):
        self._layers = layers
        self._for_all, *others = {id(weights): weights for weights, _ in shares}.values()
        sets = [one for one, _ in shares if one is not None and others]
        touched = sorted({index for one in sets for index in one.layers})
        self._split = [one for index in touched for one in _split(shares, index, layers)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the rows run with their weights while open.

        Raises:
            MergeError: as `variants.installed`.
            UnsupportedError: a module that isn't called with the states of all rows; afterwards, one that wasn't
                called, so that the model has used the loaded weights of it for all.
        """
        if not self._split:
            with installed(self._for_all, self._layers):
                yield
            return
        with ExitStack() as stack:
            for one in self._split:
                stack.enter_context(one.patched())
            yield


def _split(shares: Sequence[Share], index: int, layers: Mapping[int, nn.Module]) -> Iterator[_Split]:
    """Yield the modules of a layer of which a set replaces something.

    Neighbours that run with the same tensors in the layer are joined; of their sets, one stands for all.
    """
    parts = _joined(shares, key=lambda weights: weights.key(index) if weights is not None else None)
    own: list[dict[str, list[str]]] = []
    for weights, _ in parts:
        own.append({})
        for name in weights.layers.get(index, ()) if weights is not None else ():
            own[-1].setdefault(name.rpartition(".")[0], []).append(name)
    for path in dict.fromkeys(path for names in own for path in names):
        replaced = [
            WeightSet(weights.name, {index: _Some(weights.layers[index], names[path])})
            if weights is not None and path in names
            else None
            for (weights, _), names in zip(parts, own, strict=True)
        ]
        counts = [count for _, count in parts]
        yield _Split(path, layers[index], index, _joined(zip(replaced, counts, strict=True), key=lambda one: one))


def _joined(shares: Iterable[Share], key: Callable[[WeightSet | None], Any]) -> list[Share]:
    joined: list[Share] = []
    for _, alike in groupby(shares, key=lambda share: key(share[0])):
        weights, counts = zip(*alike, strict=True)
        joined.append((weights[0], sum(counts)))
    return joined


@dataclass(slots=True)
class _Split:
    """A module of a decoder layer that runs once for each set of weights.

    Attributes:
        path: its name within the layer.
        layer: the layer.
        index: the layer's index.
        parts: what a set replaces of it, None for nothing, and how many rows run so, one after another.
        called: whether it has been called.
    """

    path: str
    layer: nn.Module
    index: int
    parts: Sequence[Share]
    called: bool = False

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Have the module run share by share while open."""
        module = self.layer.get_submodule(self.path)
        self.called = False
        with forward_replaced(module, partial(self._run, module.forward)):
            yield
        if not self.called:
            raise UnsupportedError(f"decoder layers that use the weights of '{self.path}' without calling it")

    def _run(self, forward: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Tensor:
        states = args[0] if len(args) == 1 and not kwargs else None
        counts = [count for _, count in self.parts]
        tokens, rest = divmod(0 if states is None else len(states), sum(counts))
        if states is None or rest or not tokens or (tokens > 1 and states.ndim > 2):
            raise UnsupportedError(f"'{self.path}', which isn't called with the states of all rows and nothing else")
        self.called = True
        outputs = []
        sizes = [tokens * count for count in counts]  # [rows, ...], or flattened [rows x tokens, width]
        for (weights, _), rows in zip(self.parts, states.split_with_sizes(sizes), strict=True):
            with installed(weights, {self.index: self.layer}):
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
