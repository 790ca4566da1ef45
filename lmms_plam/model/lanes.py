"""Which prompt positions a branch computes itself, and whose keys and values it borrows from the trunk.

Where vision stays hidden as keys, nothing that a vision position computes is read any more, so such a branch computes
text only. And text before the first vision token never saw it (attention is causal), so that the trunk's keys and
values serve every branch that runs with the loaded weights. What is left is small, and that is the engine's whole
saving. Where vision can be read again in later layers, a branch computes all positions from the first that hiding has
changed: after one picture hidden from text alone, that is again the text behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lmms_plam.errors import UnsupportedError

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [rows, heads, positions, dim]."""

AUTHORS = ("authors_qwen2_5", "authors_qwen3")
"""What the code of PlaM's authors computes instead of hiding vision, in its two forms; see masks.py."""

QueryScope = Literal["all", "text", "last", "authors_qwen2_5", "authors_qwen3"]
"""From which queries vision is hidden: all of them (a vision token then sees text and itself); those of text, prompt or
answer; or only the last token of the prompt and the answer's. Where vision stays hidden to the last layer, `all` and
`text` give the same answers: nothing that text reads depends on the difference. Where it can be read again, they don't.
"""


class Prompts:
    """What the positions of a prompt batch hold.

    Args:
        vision: bool [prompts, length], the vision tokens.
        real: bool [prompts, length], False for padding.

    Attributes:
        text: bool [prompts, length], neither vision nor padding.
        seeing: the prompts that have vision tokens.
        starts: by prompt, the first position that is no padding.
    """

    def __init__(self, vision: Tensor, real: Tensor):
        if (real[:, 1:] < real[:, :-1]).any():
            raise UnsupportedError("the prompts are padded on the right: generation needs padding on the left")
        if vision[:, -1].any():
            raise UnsupportedError("a prompt ends with a vision token: the engine needs text to answer from")
        self.vision = vision
        self.real = real
        self.text = real & ~vision
        self.seeing: list[int] = vision.any(dim=1).nonzero().flatten().tolist()
        self.starts: list[int] = real.int().argmax(dim=1).tolist()

    @cached_property
    def most_text(self) -> int:
        """The text tokens of the prompt that has most."""
        return int(self.text.sum(dim=1).max())


def translate(
    layer: Mapping[str, Any], mask: Callable[[Tensor | None], Tensor | None], states: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Carry the keyword arguments of a decoder layer over to other positions.

    Args:
        layer: the arguments, hidden states and cache aside.
        mask: what becomes of the attention mask, [prompts or 1, 1, queries, keys] or None.
        states: what becomes of tensors laid out by position, [prompts or 1, positions, width].

    Raises:
        UnsupportedError: a tensor whose layout isn't known.
    """
    result = dict(layer)
    for name, value in layer.items():
        if name == "attention_mask":
            result[name] = mask(value)
        elif name == "position_embeddings" and all(part.ndim == 3 for part in value):
            result[name] = tuple(states(part) for part in value)
        elif name == "position_ids" and isinstance(value, Tensor) and value.ndim == 2:
            result[name] = states(value[..., None])[..., 0]
        elif name == "position_embeddings" or isinstance(value, Tensor):
            raise UnsupportedError(f"decoder layers that take '{name}' in a layout that the engine doesn't know")
    return result


def last_few(layer: Mapping[str, Any], count: int, length: int, device: torch.device) -> dict[str, Any]:
    """Carry the arguments of a decoder layer over to the last positions alone.

    Args:
        layer: the arguments, hidden states and cache aside.
        count: how many positions.
        length: the number of keys.
        device: of the tensors.
    """

    def cut(mask: Tensor | None) -> Tensor | None:
        if mask is not None:
            return mask[..., -count:, :]
        if count == 1:
            return None
        return torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)[None, None]

    return translate(layer, cut, lambda states: states[:, -count:])


@dataclass(frozen=True, eq=False, slots=True)
class Lane:
    """The positions that a branch computes where it isn't all of them, in those prompts that it has a row for.

    Positions are padded on the left to a common length; the `real` tensors tell.

    Attributes:
        prompts: [n], the prompts.
        own: [n, own length], positions that the branch computes, the prompt's last at the end.
        own_real: bool, same shape.
        borrowed: [n, borrowed length], positions whose keys and values come from the trunk.
        borrowed_real: bool, same shape.
        vision: bool [prompts, length], the vision tokens of the whole batch.
        scope: from which queries they are hidden.
    """

    prompts: Tensor
    own: Tensor
    own_real: Tensor
    borrowed: Tensor
    borrowed_real: Tensor
    vision: Tensor
    scope: QueryScope
    _memo: dict[tuple[bool | int, ...], tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    def take(self, states: Tensor) -> Tensor:
        """[prompts, length, width] to [n, own length, width]."""
        return states[self.prompts[:, None], self.own]

    def borrow(self, states: KeysValues) -> KeysValues | None:
        """The trunk's keys and values at the borrowed positions, if there are any."""
        if not self.borrowed.numel():
            return None
        keys, values = (part[self.prompts[:, None], :, self.borrowed].transpose(1, 2) for part in states)
        return keys, values

    def places(self, row: int, positions: Tensor) -> Tensor | None:
        """Say where among borrowed and own keys some positions [n] of a row's prompt are; None if they aren't."""
        keys = torch.cat([self.borrowed[row], self.own[row]])
        real = torch.cat([self.borrowed_real[row], self.own_real[row]])
        place = torch.full((self.vision.shape[1],), -1, device=keys.device)
        place[keys[real]] = real.nonzero().flatten()
        found = place[positions]
        return None if (found < 0).any() else found

    def columns(self, blind: bool) -> list[Tensor | None]:
        """By row, the columns of borrowed and own keys that an answer reads, in the prompt's order; None for all."""
        keys = torch.cat([self.borrowed, self.own], dim=1)
        read = torch.cat([self.borrowed_real, self.own_real], dim=1)
        if blind:
            read = read & ~self.vision[self.prompts[:, None], keys]
        complete = read.all(dim=1).tolist()
        return [None if whole else row.nonzero().flatten() for whole, row in zip(complete, read, strict=True)]

    def arguments(self, layer: dict[str, Any], blind: bool, copies: int, eager: torch.dtype | None) -> dict[str, Any]:
        """Turn the trunk's arguments of a decoder layer into those of `copies` branches side by side.

        Args:
            layer: keyword arguments of the trunk's call.
            blind: hide vision.
            copies: number of branches; rows are ordered branch by branch.
            eager: dtype of an additive mask if the attention needs one (eager), None for a boolean one (sdpa).
        """
        key = (blind, *(id(value) for value in layer.values()))
        if key not in self._memo:  # most layers are called with the very same objects; kept, so that ids stay theirs
            self._memo[key] = layer, translate(layer, lambda mask: self._mask(mask, blind, eager), self._at_own)
        mine = self._memo[key][1]
        if len(self.prompts) == 1:  # broadcasting does
            return mine
        return translate(
            mine,
            lambda mask: None if mask is None else mask.repeat(copies, 1, 1, 1),
            lambda states: states.repeat(copies, 1, 1),
        )

    def _at_own(self, states: Tensor) -> Tensor:
        """[prompts or 1, length, width] to [n, own length, width]."""
        return states[self.prompts[:, None] if len(states) > 1 else 0, self.own]

    def _mask(self, trunk: Tensor | None, blind: bool, eager: torch.dtype | None) -> Tensor:
        """The trunk's mask at this lane's queries and keys, [n, 1, own length, borrowed + own length]."""
        queries, keys = self.own[:, :, None], torch.cat([self.borrowed, self.own], dim=1)[:, None, :]
        if trunk is None:
            mask = keys <= queries
        else:
            self._check_borrowed(trunk)
            mask = trunk[:, 0][self.prompts[:, None, None] if len(trunk) > 1 else 0, queries, keys]
        offset = self.borrowed.shape[1]
        itself = torch.ones_like(mask[0], dtype=torch.bool).tril(offset).triu(offset)
        unread = ~torch.cat([self.borrowed_real, self.own_real], dim=1)[:, None, :]
        if blind:
            unread = unread | self._hidden(queries, keys)
        if mask.dtype != torch.bool:
            return mask.masked_fill(unread & ~itself, torch.finfo(mask.dtype).min)[:, None]
        mask = (mask & ~unread | itself)[:, None]  # a query of padding sees itself: with no key at all it would be NaN
        if eager is None:
            return mask
        return torch.zeros_like(mask, dtype=eager).masked_fill(~mask, torch.finfo(eager).min)

    def _hidden(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Say which keys [n, 1, keys] are hidden from which queries [n, own length, 1]."""
        rows = self.prompts[:, None, None]
        vision = self.vision[rows, keys]
        return vision & ~self.vision[rows, queries] if self.scope == "text" else vision

    def _check_borrowed(self, trunk: Tensor) -> None:
        """What is borrowed must not depend on what comes after it: that differs between trunk and branch."""
        if trunk.ndim != 4 or trunk.shape[1] != 1 or trunk.shape[2] != trunk.shape[3]:
            raise UnsupportedError(f"decoder layers that take attention masks of the shape {tuple(trunk.shape)}")
        if not self.borrowed.numel():
            return
        visible = trunk[:, 0][self.prompts[:, None] if len(trunk) > 1 else 0, self.borrowed]
        if visible.dtype != torch.bool:
            visible = visible > torch.finfo(visible.dtype).min
        last = self.borrowed.where(self.borrowed_real, -1).max(dim=1).values[:, None, None]
        later = torch.arange(trunk.shape[-1], device=trunk.device) > last
        if (visible & later & self.borrowed_real[:, :, None]).any():
            raise UnsupportedError("this model lets text of the prompt read what comes after it (no causal attention)")


def lay_out(prompts: Prompts, scope: QueryScope, borrowing: bool, returns: bool) -> Lane:
    """Lay out a branch from which vision is or was hidden: what it computes, and what it can borrow from the trunk.

    Args:
        prompts: the batch, at least one prompt of it with vision tokens.
        scope: from which queries vision is hidden.
        borrowing: whether the branch runs with the trunk's weights.
        returns: whether vision can be read again; else the branch holds text only.
    """
    index = torch.tensor(prompts.seeing, device=prompts.real.device)
    text, vision = prompts.text[index], prompts.vision[index]
    held = prompts.real[index] if returns else text
    if not borrowing:
        own = held
    elif scope == "last":
        own = torch.zeros_like(held)
        own[:, -1] = True
    else:
        changed = vision if scope == "all" else text & vision.cumsum(dim=1).bool()
        own = held & changed.cumsum(dim=1).bool()
    return Lane(index, *_aligned(own), *_aligned(held & ~own), prompts.vision, scope)


def last_positions(prompts: Prompts, scope: QueryScope) -> Lane:
    """Lay out a branch in which no position reads another: of every prompt, its last alone."""
    count, length = prompts.real.shape
    index = torch.arange(count, device=prompts.real.device)
    own, none = torch.full_like(index, length - 1)[:, None], index.new_empty(count, 0)
    return Lane(index, own, torch.ones_like(own, dtype=torch.bool), none, none.bool(), prompts.vision, scope)


def _aligned(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the True entries of [n, length], aligned on the right, and which of them are no padding."""
    width = int(chosen.sum(dim=1).max())
    positions = chosen.int().argsort(dim=1, stable=True)[:, chosen.shape[1] - width :]
    return positions, chosen.gather(1, positions)
