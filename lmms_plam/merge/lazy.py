"""Weights of many recipes, computed a layer at a time when asked for, so that they never lie in memory together.

What is kept is the tensors of base LM and ancestors that the recipes need, each read once, and as many computed layers
as a budget in bytes allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import UnsupportedError, about
from lmms_plam.merge.apply import merge_tensor
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_all, digest_tensors
from lmms_plam.merge.further import Further, FurtherFiles, Source
from lmms_plam.merge.names import parse_name
from lmms_plam.merge.plan import MergedTensor, plan_merge
from lmms_plam.merge.shards import StoredTensor

_LAYERS_ALONE = "; the module layer_norms has the norms of the layers alone"

LayerTensors = Mapping[str, Tensor]
"""A decoder layer's tensors by parameter name within the layer."""


class _Described(Source, Protocol):
    def describe(self, key: str) -> StoredTensor: ...


class Donor:
    """A source's tensors, each read when it is first needed, and kept.

    Args:
        source: the base LM's checkpoint, an ancestor's, or a Fisher file.
        device: where they are kept.
    """

    def __init__(self, source: _Described, device: torch.device):
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


class Donors:
    """The base LM's tensors, and those of whatever else recipes name, each source opened once.

    Args:
        base_lm: the base LM's checkpoint.
        device: where tensors are kept.
    """

    def __init__(self, base_lm: Checkpoint, device: torch.device):
        self.base_lm = Donor(base_lm, device)
        self._device = device
        self._further: dict[Hashable, tuple[FurtherFiles, Further[Donor, Donor]]] = {}

    def further(self, recipe: MergeRecipe) -> tuple[FurtherFiles, Further[Donor, Donor]]:
        """Return what else a recipe reads: its files, and their tensors as they are read and kept.

        Raises:
            ConfigError, CheckpointError: as `FurtherFiles.of`.
        """
        names = recipe.ancestor, recipe.ancestor_revision, recipe.fisher
        if names not in self._further:
            files = FurtherFiles.of(recipe)
            ancestor = Donor(files.ancestor, self._device) if files.ancestor else None
            fisher = Donor(files.fisher, self._device) if files.fisher else None
            self._further[names] = files, Further(ancestor, fisher)
        return self._further[names]


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
        further: what else the recipe's method reads.
        kept: computed layers of all recipes.

    Attributes:
        keys_by_layer: by layer, what tells its tensors from those of recipes that merge it otherwise.
    """

    def __init__(
        self,
        merged: Mapping[int, Mapping[str, MergedTensor]],
        untouched: Mapping[str, Tensor],
        donor: Donor,
        further: Further[Donor, Donor],
        kept: Kept,
    ):
        self._merged = merged
        self._untouched = untouched
        self._donor = donor
        self._further = further
        self._kept = kept
        self.keys_by_layer: dict[int, Hashable] = {
            layer: (layer, *((name, one.coefficients, one.rows, one.way) for name, one in own.items()))
            for layer, own in merged.items()
        }

    def reads(self) -> Iterator[tuple[Donor, str]]:
        """Name the tensors that it takes, by whose they are and their key."""
        for one in (one for own in self._merged.values() for one in own.values()):
            if one.source is not None:
                yield self._donor, one.source
            if one.ancestor is not None:
                yield self._further.ancestor or self._donor, one.ancestor
            for key in one.information:
                assert self._further.fisher is not None
                yield self._further.fisher, key

    def __getitem__(self, layer: int) -> LayerTensors:
        key = self.keys_by_layer[layer]
        found = self._kept.get(key)
        if found is None:
            own = self._merged[layer].items()
            found = {
                name: merge_tensor(self._untouched[one.name], self._donor, one, self._further) for name, one in own
            }
            self._kept.put(key, found)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)


def lazy_layers(
    model: nn.Module,
    base_lm: Checkpoint,
    donors: Donors,
    recipes: Mapping[str, MergeRecipe],
    untouched: Mapping[str, Tensor],
    kept: Kept,
) -> dict[str, LazyLayers]:
    """Plan recipes against a VLM and a base LM; nothing of their weights is computed yet.

    Args:
        model: the loaded VLM, merged or not.
        base_lm: the base LM.
        donors: its tensors, and those of the recipes' ancestors.
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
            further, held = donors.further(recipe)
            for tensor in plan_merge(model, base_lm, recipe, None, further).merged:
                place = parse_name(tensor.name)
                if place is None or place.layer is None:
                    raise UnsupportedError(
                        f"it changes '{tensor.name}', which lies outside the decoder layers, so that nothing is shared"
                        f"{_LAYERS_ALONE if place is not None and place.modules == {'norms'} else ''}"
                    )
                layers.setdefault(place.layer, {})[place.suffix] = tensor
            found[name] = LazyLayers(layers, {**own, **untouched}, donors.base_lm, held, kept)
    return found


def digest_read(recipes: Iterable[LazyLayers]) -> str:
    """Digest all that recipes read of other models, bit for bit, in whatever order; it is read for it."""
    keys: dict[Donor, set[str]] = {}
    for recipe in recipes:
        for donor, key in recipe.reads():
            keys.setdefault(donor, set()).add(key)
    return digest_all({donor.reference: donor.digest(own) for donor, own in keys.items()})


def _size(layer: LayerTensors) -> int:
    return sum(tensor.nbytes for tensor in layer.values())
