"""Muon for the matrices, AdamW for the rest, over bfloat16 weights with float32 masters.

Muon (Keller Jordan, 2024): momentum, made orthogonal by a Newton-Schulz iteration. Matrices of one shape are stacked
and treated in one batched product, which on a CPU is many times faster than one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class MuonAdamW:
    """Both optimizers behind one `step(scale)`; gradients are read and cleared, bfloat16 weights written.

    Args:
        parameters: what is trained. Matrices named in `muon` go to Muon.
        muon: the matrices that Muon treats.
        muon_rate: Muon's learning rate.
        adam_rate: AdamW's learning rate.
    """

    def __init__(
        self, parameters: Iterable[Parameter], muon: Iterable[Parameter], muon_rate: float, adam_rate: float
    ) -> None:
        self._stacks: list[tuple[list[Parameter], Tensor, Tensor]] = []
        by_shape: dict[torch.Size, list[Parameter]] = defaultdict(list)
        for matrix in muon:
            by_shape[matrix.shape].append(matrix)
        for stack in by_shape.values():
            master = torch.stack([matrix.detach().float() for matrix in stack])
            self._stacks.append((stack, master, torch.zeros_like(master)))
        treated = {id(matrix) for stack, _, _ in self._stacks for matrix in stack}
        self._rest = [parameter for parameter in parameters if id(parameter) not in treated]
        self._masters = [parameter.detach().float() for parameter in self._rest]
        self._adam = torch.optim.AdamW(self._masters, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self._muon_rate, self._adam_rate = muon_rate, adam_rate

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Take a step with both learning rates times `scale`."""
        for stack, master, momentum in self._stacks:
            gradient = torch.stack([_gradient(matrix) for matrix in stack])
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            rows, columns = master.shape[1:]
            rate = scale * self._muon_rate * max(1.0, rows / columns) ** 0.5
            master.add_(orthogonalise(gradient.lerp_(momentum, _MOMENTUM)), alpha=-rate)
            for matrix, value in zip(stack, master, strict=True):
                matrix.copy_(value)
                matrix.grad = None
        for parameter, value in zip(self._rest, self._masters, strict=True):
            value.grad = _gradient(parameter)
        self._adam.param_groups[0]["lr"] = scale * self._adam_rate
        self._adam.step()
        for parameter, value in zip(self._rest, self._masters, strict=True):
            parameter.copy_(value)
            parameter.grad = None

    def state(self) -> dict[str, Any]:
        """Return what `restore` goes on from: float32 masters and what both optimizers remember."""
        stacks = [(master, momentum) for _, master, momentum in self._stacks]
        return {"stacks": stacks, "masters": self._masters, "adam": self._adam.state_dict()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from another optimizer's `state` of the same parameters; the weights become what they were."""
        for (stack, master, momentum), (old_master, old_momentum) in zip(self._stacks, state["stacks"], strict=True):
            master.copy_(old_master)
            momentum.copy_(old_momentum)
            for matrix, value in zip(stack, master, strict=True):
                matrix.copy_(value)
        for parameter, value, old in zip(self._rest, self._masters, state["masters"], strict=True):
            value.copy_(old)
            parameter.copy_(value)
        self._adam.load_state_dict(state["adam"])


def _gradient(parameter: Parameter) -> Tensor:
    return torch.zeros(parameter.shape) if parameter.grad is None else parameter.grad.float()


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (N, rows, columns) with their singular values moved to about one."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalise(matrices.mT).mT
    x: Tensor = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.float()
