"""Tensors in memory as the sources of a merge, for tests of its methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmms_plam.merge import Coefficients, Further, MergedTensor, Way
from lmms_plam.merge.apply import merge_tensor

NAME = "model.language_model.layers.0.mlp.up_proj.weight"


@dataclass
class InMemory:
    """Tensors by key, and how many rows were asked for at once."""

    tensors: Mapping[str, Tensor]
    reference: str = "memory"
    asked: list[int] = field(default_factory=list)

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        self.asked.append(stop - start)
        return self.tensors[key][start:stop]


def by_method(method: str, density: float = 1, seed: int = 0, against: str | None = "A") -> Way:
    """A way to merge; against None, the base LM is the ancestor."""
    has_ancestor = method not in ("linear", "slerp", "fisher")
    return Way(method, density, seed, against if has_ancestor else None, "F" if method == "fisher" else None)


def merge(
    parents: tuple[Tensor, Tensor, Tensor],
    way: Way,
    lambda_lm: float,
    lambda_vlm: float,
    *,
    information: tuple[Tensor, Tensor] | None = None,
    name: str = NAME,
    rows: tuple[tuple[int, int], ...] | None = None,
) -> Tensor:
    """Merge (ancestor, base LM, VLM) as a plan of such a recipe would; the information is VLM's and base LM's."""
    ancestor, lm, vlm = parents
    is_ancestor = way.method not in ("linear", "slerp", "fisher") and way.ancestor is None
    tensor = MergedTensor(
        name,
        "lm" if lambda_lm and not is_ancestor else None,
        Coefficients(lambda_lm, lambda_vlm),
        rows or ((0, len(vlm)),),
        way,
        None if way.method in ("linear", "slerp", "fisher") else "lm" if is_ancestor else "a",
        ("vlm", "base_lm") if information and lambda_lm and lambda_vlm else (),
    )
    further = Further(
        InMemory({"a": ancestor}) if way.ancestor else None,
        InMemory(dict(zip(("vlm", "base_lm"), information, strict=True))) if information else None,
    )
    return merge_tensor(vlm, InMemory({"lm": lm}), tensor, further)


def bits(tensor: Tensor) -> Tensor:
    """The tensor's raw bits, so that -0.0 is not 0.0."""
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
