"""Weights of many recipes, each tensor computed when it is asked for, so that they never lie in memory together.

What is kept is the tensors of base LM and ancestors that the recipes need, each read once, and as many computed ones as
a budget in bytes allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import about
from lmms_plam.merge.apply import merge_tensor
from lmms_plam.merge.blocks import read_whole
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_all, digest_tensors
from lmms_plam.merge.further import Further, FurtherFiles, Source
from lmms_plam.merge.plan import MergedTensor, plan_merge
from lmms_plam.merge.schedules import Coefficients
from lmms_plam.merge.shards import StoredTensor
from lmms_plam.merge.variants import Parts

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
        self._digests: dict[str, str] = {}
        self.reference = source.reference

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Return rows start to stop (first dimension) of a tensor, in its stored dtype."""
        if key not in self._held:
            whole = read_whole(self._source, key, self._source.describe(key).shape)
            self._held[key] = whole.to(self._device)
        return self._held[key][start:stop]

    def digest(self, keys: Iterable[str]) -> str:
        """Digest tensors, bit for bit; they are read for it, and digested once."""
        asked = set(keys)
        for key in sorted(asked - self._digests.keys()):
            self._digests |= digest_tensors({key: self.rows(key, 0, self._source.describe(key).shape[0])})
        return digest_all({key: self._digests[key] for key in asked})


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
    """Computed tensors of all recipes, as many as a budget allows.

    Recipes are asked for over and over in the same order, where dropping what was used longest ago would drop just what
    comes next. So where there is no room, a new tensor is kept one time in 16 only, in place of those used longest ago
    ("bimodal insertion": Qureshi et al., ISCA 2007); thus what nobody asks for any more goes in the end.

    Args:
        budget: bytes.

    Attributes:
        met: what tells all tensors apart that have been computed so far, kept or not.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.met: set[Hashable] = set()
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0
        self._turned_away = 0

    def get(self, key: Hashable) -> Tensor | None:
        """Return a tensor if it is kept."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
        return self._tensors.get(key)

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep a tensor if there is room, or its turn has come."""
        self.met.add(key)
        if self._bytes + tensor.nbytes > self.budget:
            self._turned_away += 1
            if self._turned_away % 16 or tensor.nbytes > self.budget:
                return
        self._tensors[key] = tensor
        self._bytes += tensor.nbytes
        while self._bytes > self.budget:
            _, dropped = self._tensors.popitem(last=False)
            self._bytes -= dropped.nbytes


class LazyLayers(Mapping[int, LayerTensors]):
    """What a recipe puts in place of the untouched VLM's tensors, by decoder layer.

    Args:
        merged: the tensors to merge.
        untouched: the VLM's own tensors by parameter name.
        donor: the base LM's.
        further: what else the recipe's method reads.
        kept: computed tensors of all recipes.

    Attributes:
        keys_by_layer: by layer, what tells its tensors from those of recipes that merge it otherwise.
        outside: what it puts in place outside of the layers, by parameter name, computed when asked for as well.
    """

    def __init__(
        self,
        merged: Parts[MergedTensor],
        untouched: Mapping[str, Tensor],
        donor: Donor,
        further: Further[Donor, Donor],
        kept: Kept,
    ):
        self._layers = {layer: _LazyTensors(own, self._merge, kept) for layer, own in merged.layers.items()}
        self.outside = _LazyTensors(merged.outside, self._merge, kept)
        self._untouched = untouched
        self._donor = donor
        self._further = further
        self.keys_by_layer = _keys(merged)

    def reads(self) -> Iterator[tuple[Donor, str]]:
        """Name the tensors that it takes, by whose they are and their key."""
        for one in chain.from_iterable(part.merged.values() for part in (self.outside, *self._layers.values())):
            if one.source is not None:
                yield self._donor, one.source
            if one.ancestor is not None:
                yield self._further.ancestor or self._donor, one.ancestor
            for key in one.information:
                assert self._further.fisher is not None
                yield self._further.fisher, key

    def __getitem__(self, layer: int) -> LayerTensors:
        return self._layers[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        """Say what it does to which tensor: what recipes of the same weights have in common."""
        outside = {name: _told_apart(one) for name, one in self.outside.merged.items()}
        return f"{self.keys_by_layer} {outside}"

    def _merge(self, one: MergedTensor, met: bool) -> Tensor:
        if one == _unmerged(one.name, self._untouched[one.name]):
            return self._untouched[one.name]
        return merge_tensor(self._untouched[one.name], self._donor, one, self._further, known_finite=met)


class _LazyTensors(Mapping[str, Tensor]):
    """Merged tensors by name, each computed when asked for."""

    def __init__(self, merged: Mapping[str, MergedTensor], merge: Callable[[MergedTensor, bool], Tensor], kept: Kept):
        self.merged = merged
        self._merge = merge
        self._kept = kept

    def __getitem__(self, name: str) -> Tensor:
        one = self.merged[name]
        key = one.name, *_told_apart(one)
        found = self._kept.get(key)
        if found is None:
            found = self._merge(one, key in self._kept.met)
            self._kept.put(key, found)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.merged)

    def __len__(self) -> int:
        return len(self.merged)


def untouched_keys(untouched: Mapping[str, Tensor]) -> dict[int, Hashable]:
    """Return by layer what recipes over a merged model have as their key where they put the untouched tensors back."""
    return _keys(Parts.of({name: _unmerged(name, tensor) for name, tensor in untouched.items()}))


def _keys(merged: Parts[MergedTensor]) -> dict[int, Hashable]:
    return {
        layer: (layer, *((name, *_told_apart(one)) for name, one in own.items()))
        for layer, own in merged.layers.items()
    }


def _unmerged(name: str, tensor: Tensor) -> MergedTensor:
    """Return the merge of a tensor that leaves it as it is."""
    return MergedTensor(name, None, Coefficients(0.0, 1.0), ((0, len(tensor)),))


def _told_apart(one: MergedTensor) -> tuple[Hashable, ...]:
    return one.coefficients, one.rows, one.way


def lazy_layers(
    model: nn.Module,
    base_lm: Checkpoint,
    donors: Donors,
    recipes: Mapping[str, MergeRecipe],
    untouched: Mapping[str, Tensor],
    kept: Kept,
    vocabulary: Mapping[str, int] | None = None,
    *,
    over_merged: bool = False,
) -> dict[str, LazyLayers]:
    """Plan recipes against a VLM and a base LM; nothing of their weights is computed yet.

    Args:
        model: the loaded VLM, merged or not.
        base_lm: the base LM.
        donors: its tensors, and those of the recipes' ancestors.
        recipes: by name.
        untouched: the VLM's tensors before a merge that was made in place, by parameter name; others are the model's.
        kept: computed tensors.
        vocabulary: as in `plan_merge`.
        over_merged: whether it is put over the merged tensors, and so must put back what a recipe doesn't merge itself.

    Returns:
        By name, what stands in for the untouched VLM's tensors, or the merged ones.

    Raises:
        ConfigError, MergeError, CheckpointError, UnsupportedError: as `plan_merge`, with the recipe's name.
    """
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    back = {name: _unmerged(name, tensor) for name, tensor in untouched.items()} if over_merged else {}
    found = {}
    for name, recipe in recipes.items():
        with about(f"recipes.{name}" if over_merged else f"recipe {name}"):
            further, held = donors.further(recipe)
            plan = plan_merge(model, base_lm, recipe, vocabulary, further)
            merged = Parts.of({**back, **{tensor.name: tensor for tensor in plan.merged}})
            found[name] = LazyLayers(merged, {**own, **untouched}, donors.base_lm, held, kept)
    return found


def digest_read(recipe: LazyLayers) -> str:
    """Digest all that a recipe reads of other models, bit for bit; it is read for it."""
    keys: dict[Donor, set[str]] = {}
    for donor, key in recipe.reads():
        keys.setdefault(donor, set()).add(key)
    return digest_all({donor.reference: donor.digest(own) for donor, own in keys.items()})
