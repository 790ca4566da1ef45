"""A variant says what differs in each decoder layer; a family is a tree, for variants share layers until they part.

Two variants share layer l exactly where they agree on all layers up to l. Arranged by that rule they form a tree: its
root is the untouched model, a `Node` is a run of layers that some variants have in common, and each variant is a path
from the root to a leaf.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from lmms_plam.errors import ConfigError, MergeError, did_you_mean


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model on a prompt.

    Attributes:
        name: what it is called in results, such as "12", "base" or "merged".
        cut: the first decoder layer in which vision tokens are hidden as keys. None, or the depth: they can be read
            everywhere.
        weights: name of a `WeightSet`; None: the weights as loaded.
        until: the first layer after the cut in which they can be read again. None: they stay hidden.
        silent: the first layer from which on attention adds nothing to the hidden states. None: it always does.
    """

    name: str
    cut: int | None = None
    weights: str | None = None
    until: int | None = None
    silent: int | None = None

    def hidden(self, depth: int) -> range:
        """Return the layers of a model of this depth in which vision is hidden."""
        return range(0) if self.cut is None else range(self.cut, depth if self.until is None else self.until)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Tensors that stand in for the loaded ones in some decoder layers, and beyond them.

    Attributes:
        name: what variants call it.
        layers: tensors by 0-based layer and parameter name within the layer (`self_attn.q_proj.weight`), of the
            loaded tensors' shape, dtype and device. Any mapping will do, so one may compute a layer when asked for it.
        keys: by layer, what tells its tensors from those of other sets: where two sets have the same key, they have the
            same tensors, and their variants share the layer. Left out, each set is one of its own.
        outside: tensors outside of the decoder layers (embedding, final norm, head), by the model's parameter name. A
            variant with such a set shares nothing in the decoder, and only `installed_whole` puts them in place.
    """

    name: str
    layers: Mapping[int, Mapping[str, Tensor]]
    keys: Mapping[int, Hashable] = field(default_factory=dict)
    outside: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """The first layer that differs from the loaded weights."""
        return min(self.layers)

    def key(self, layer: int) -> Hashable:
        """Return what tells this layer's tensors from others, None for the loaded ones."""
        return self.keys.get(layer, self.name) if layer in self.layers else None


@contextmanager
def installed(weights: WeightSet | None, layers: Mapping[int, nn.Module]) -> Iterator[None]:
    """Let these decoder layers (by index) run with a weight set's tensors; the loaded ones come back afterwards.

    Raises:
        MergeError: a name that the layer doesn't have, or a tensor that doesn't fit.
    """
    loaded: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        if weights is not None:
            for index in layers.keys() & weights.layers.keys():
                for name, tensor in weights.layers[index].items():
                    where = f"weight set '{weights.name}', layer {index}"
                    owner, leaf, old = _find_parameter(layers[index], name, where)
                    if _kind(tensor) != _kind(old):
                        raise MergeError(f"{where}, '{name}': {_kind(tensor)} can't stand in for {_kind(old)}")
                    loaded.append((owner, leaf, old))
                    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
        yield
    finally:
        for owner, leaf, old in loaded:
            setattr(owner, leaf, old)


@contextmanager
def installed_whole(weights: WeightSet | None, model: nn.Module, layers: Mapping[int, nn.Module]) -> Iterator[None]:
    """As `installed`, with what the set has outside of the decoder layers too; tied weights stay tied.

    Raises:
        MergeError: a name that the model doesn't have, or a tensor that doesn't fit.
    """
    loaded: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, tensor in (weights.outside if weights is not None else {}).items():
            _, _, old = _find_parameter(model, name, "weights outside of the decoder layers")
            if _kind(tensor) != _kind(old):
                raise MergeError(f"'{name}': {_kind(tensor)} can't stand in for {_kind(old)}")
            new = nn.Parameter(tensor, requires_grad=False)
            for owner in model.modules():
                for leaf in [leaf for leaf, own in owner.named_parameters(recurse=False) if own is old]:
                    loaded.append((owner, leaf, old))
                    setattr(owner, leaf, new)
        with installed(weights, layers):
            yield
    finally:
        for owner, leaf, old in loaded:
            setattr(owner, leaf, old)


def _find_parameter(layer: nn.Module, name: str, where: str) -> tuple[nn.Module, str, nn.Parameter]:
    """Return the submodule that owns a parameter, the parameter's name in it, and the parameter."""
    path, _, leaf = name.rpartition(".")
    try:
        owner = layer.get_submodule(path)
        return owner, leaf, owner.get_parameter(leaf)
    except AttributeError:
        known = [known for known, _ in layer.named_parameters()]
        raise MergeError(f"{where}: the layer has no parameter '{name}'.{did_you_mean(name, known)}") from None


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"


@dataclass(eq=False, slots=True)
class Node:
    """A run of decoder layers, `start` to `end` - 1, that all its variants compute alike.

    Attributes:
        start: first layer.
        blind: vision is hidden here.
        returns: vision was hidden here or before, and can be read here or later: what it computes is not the trunk's.
        silent: attention adds nothing, so that no position reads another.
        end: the layer at which its last variant has left it, or the depth.
        parent: the node that it grows from, None for the root.
        variants: the variants that pass through it or end in it, with the layer at which each leaves it.
    """

    start: int
    blind: bool = False
    returns: bool = False
    silent: bool = False
    end: int = 0
    parent: Node | None = None
    variants: dict[Variant, int] = field(default_factory=dict)

    def weights(self, layer: int, sets: Mapping[str, WeightSet]) -> WeightSet | None:
        """Return a weight set that holds this layer's tensors; None where the loaded ones are in force."""
        name = next((one.weights for one, left in self.variants.items() if layer < left), None)
        return sets[name] if name is not None and layer in sets[name].layers else None


@dataclass(frozen=True, slots=True)
class Tree:
    """The nodes of a family, parents before children, and each variant's path through them, from the root on."""

    nodes: list[Node]
    paths: dict[Variant, list[Node]]

    @property
    def root(self) -> Node:
        """The untouched model."""
        return self.nodes[0]

    def at(self, variant: Variant, layer: int) -> Node:
        """Return the node that computes this layer for this variant."""
        return next(node for node in reversed(self.paths[variant]) if node.start <= layer)


def grow_tree(variants: Sequence[Variant], weights: Mapping[str, WeightSet], depth: int) -> Tree:
    """Arrange variants by the layers that they share.

    At each layer the variants of a node that go on alike stay together. One group of them stays in the node, that with
    the loaded weights if there is one; each other group starts a node of its own. In the root stays what is untouched.

    Args:
        variants: distinct variants; the root is there whether or not one of them is the untouched model.
        weights: weight sets by name.
        depth: number of decoder layers L.
    """
    root = Node(start=0)
    nodes, paths = [root], {variant: [root] for variant in variants}
    for layer in range(depth):
        groups: dict[Node, dict[tuple[_Reading, Hashable], list[Variant]]] = {}
        for variant, path in paths.items():
            key = weights[variant.weights].key(layer) if variant.weights is not None else None
            groups.setdefault(path[-1], {}).setdefault((_reading(variant, layer, depth), key), []).append(variant)
        for node, alike in groups.items():
            own = node.blind, node.returns, node.silent
            staying = [key for key in alike if key[0] == own and (key[1] is None or node is not root)]
            stays = min(staying, key=lambda key: key[1] is not None, default=None)
            for key, members in alike.items():
                if key != stays:
                    nodes.append(Node(layer, *key[0], parent=node))
                    for variant in members:
                        paths[variant].append(nodes[-1])
    for variant, path in paths.items():
        for node, following in zip(path, [*path[1:], None], strict=True):
            node.variants[variant] = depth if following is None else following.start
            node.end = max(node.variants.values())
    return Tree(nodes, paths)


_Reading = tuple[bool, bool, bool]


def _reading(variant: Variant, layer: int, depth: int) -> _Reading:
    """Say of a variant at a layer what a node calls blind, returns and silent."""
    hidden = variant.hidden(depth)
    returns = bool(hidden) and hidden.start <= layer and hidden.stop < depth
    return layer in hidden, returns, variant.silent is not None and variant.silent <= layer


def check_variants(variants: Sequence[Variant], weights: Mapping[str, WeightSet], depth: int) -> None:
    """Refuse a family that can't be meant.

    Raises:
        ConfigError: no variants, a name given twice, layers to hide outside 0..depth, or an unknown or misplaced weight
            set.
    """
    names = [variant.name for variant in variants]
    if not names:
        raise ConfigError("a family needs at least one variant")
    if len(set(names)) < len(names):
        raise ConfigError(f"variant '{next(name for name in names if names.count(name) > 1)}' is there twice")
    for variant in variants:
        if variant.cut is not None and not 0 <= variant.cut <= depth:
            raise ConfigError(f"variant '{variant.name}': cut {variant.cut} is not in 0..{depth}, the model's layers")
        if variant.until is not None and not (variant.cut is not None and variant.cut <= variant.until <= depth):
            raise ConfigError(
                f"variant '{variant.name}': vision hidden from layer {variant.cut} can't be read again from layer "
                f"{variant.until} on, which is not in {variant.cut}..{depth}"
            )
        if variant.silent is not None and not 0 <= variant.silent <= depth:
            raise ConfigError(
                f"variant '{variant.name}': attention can't fall silent at layer {variant.silent}, which is not in "
                f"0..{depth}"
            )
        if variant.weights is not None and variant.weights not in weights:
            known = ", ".join(weights) or "none"
            raise ConfigError(
                f"variant '{variant.name}': no weight set '{variant.weights}'."
                f"{did_you_mean(variant.weights, weights)} Known: {known}"
            )
    for one in weights.values():
        if not (one.layers or one.outside) or not all(0 <= layer < depth for layer in one.layers):
            raise ConfigError(f"weight set '{one.name}' must name layers in 0..{depth - 1}, not {sorted(one.layers)}")
