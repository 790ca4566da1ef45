"""Weights of many recipes, computed a layer at a time when asked for, so that they never lie in memory together.

What is kept is the base LM's tensors that the recipes need, each read once, and as many computed layers as a budget in
bytes allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import UnsupportedError, about
from lmms_plam.merge.apply import merge_tensor
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_all, digest_tensors
from lmms_plam.merge.names import parse_name
from lmms_plam.merge.plan import MergedTensor, plan_merge

_LAYERS_ALONE = "; the module layer_norms has the norms of the layers alone"

LayerTensors = Mapping[str, Tensor]
"""A decoder layer's tensors by parameter name within the layer."""


class Donor:
    """The base LM's tensors, each read when it is first needed, and kept.

    Args:
        source: the base LM's checkpoint.
        device: where they are kept.
    """

    def __init__(self, source: Checkpoint, device: torch.device):
        self._source = source
        self._device = device
        self._held: dict[str, Tensor] = {}
        self.reference = source.reference

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows start to stop (first dimension) of a tensor, in its stored dtype."""
        if key not in self._held:
            whole = self._source.rows(key, 0, self._source.describe(key).shape[0])
            self._held[key] = whole.to(self._device)
        return self._held[key][start:stop]

    def digest(self, keys: Iterable[str]) -> str:
        """Digest tensors, bit for bit; they are read for it."""
        whole = {key: self.rows(key, 0, self._source.describe(key).shape[0]) for key in keys}
        return digest_all(digest_tensors(whole))


class Kept:
    """Computed layers of all recipes, the least recently used of them dropped beyond a budget.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._layers: OrderedDict[Hashable, LayerTensors] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> LayerTensors | None:
        """Return a layer if it is kept."""
        if key in self._layers:
            self._layers.move_to_end(key)
        return self._layers.get(key)

    def put(self, key: Hashable, layer: LayerTensors) -> None:
        """Keep a layer, and drop what was used longest ago."""
        self._layers[key] = layer
        self._bytes += _size(layer)
        while self._bytes > self.budget:
            _, dropped = self._layers.popitem(last=False)
            self._bytes -= _size(dropped)


class LazyLayers(Mapping[int, LayerTensors]):
    """What a recipe puts in place of the untouched VLM's tensors, by decoder layer.

    Args:
        merged: by layer, the tensors to merge.
        untouched: the VLM's own tensors by parameter name.
        donor: the base LM's.
        kept: computed layers of all recipes.

    Attributes:
        keys_by_layer: by layer, what tells its tensors from those of recipes that merge it otherwise.
        sources: keys of the base LM's tensors that it takes.
    """

    def __init__(
        self,
        merged: Mapping[int, Mapping[str, MergedTensor]],
        untouched: Mapping[str, Tensor],
        donor: Donor,
        kept: Kept,
    ):
        self._merged = merged
        self._untouched = untouched
        self._donor = donor
        self._kept = kept
        self.keys_by_layer: dict[int, Hashable] = {
            layer: (layer, *((name, one.coefficients, one.rows) for name, one in own.items()))
            for layer, own in merged.items()
        }

        self.sources = sorted({one.source for own in merged.values() for one in own.values() if one.source is not None})

    def __getitem__(self, layer: int) -> LayerTensors:
        key = self.keys_by_layer[layer]
        found = self._kept.get(key)
        if found is None:
            own = self._merged[layer].items()
            found = {name: merge_tensor(self._untouched[one.name], self._donor, one) for name, one in own}
            self._kept.put(key, found)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)


def lazy_layers(
    model: nn.Module,
    base_lm: Checkpoint,
    donor: Donor,
    recipes: Mapping[str, MergeRecipe],
    untouched: Mapping[str, Tensor],
    kept: Kept,
) -> dict[str, LazyLayers]:
    """Plan recipes against a VLM and a base LM; nothing of their weights is computed yet.

    Args:
        model: the loaded VLM, merged or not.
        base_lm: the base LM.
        donor: its tensors.
        recipes: by name.
        untouched: the VLM's tensors before a merge that was made in place, by parameter name; others are the model's.
        kept: computed layers.

    Returns:
        By name, what stands in for the untouched VLM's tensors.

    Raises:
        ConfigError, MergeError, CheckpointError: as `plan_merge`, with the recipe's name.
        UnsupportedError: also a recipe that merges something outside the decoder layers.
    """
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = {}
    for name, recipe in recipes.items():
        with about(f"recipe {name}"):
            layers: dict[int, dict[str, MergedTensor]] = {}
            for tensor in plan_merge(model, base_lm, recipe).merged:
                place = parse_name(tensor.name)
                if place is None or place.layer is None:
                    raise UnsupportedError(
                        f"it changes '{tensor.name}', which lies outside the decoder layers, so that nothing is shared"
                        f"{_LAYERS_ALONE if place is not None and place.modules == {'norms'} else ''}"
                    )
                layers.setdefault(place.layer, {})[place.suffix] = tensor
            found[name] = LazyLayers(layers, {**own, **untouched}, donor, kept)
    return found


def _size(layer: LayerTensors) -> int:
    return sum(tensor.nbytes for tensor in layer.values())
