"""Reading attention while `generate` runs as it always does: what a family's reader is checked against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmms_plam.errors import UnsupportedError
from lmms_plam.model.host import Attention, attention_replaced, find_decoder, hooked
from lmms_plam.model.readout import Given, LayerAttention, Readout, find_sinks, given_to, stacked


class PlainReader:
    """Reads attention to vision off ordinary runs of some prompts.

    Args:
        model: the vision-language model.
        vision: bool [prompts, length], the vision tokens.
        real: bool [prompts, length], False for padding.
        ends: the tokens that end an answer.
    """

    def __init__(self, model: PreTrainedModel, vision: Tensor, real: Tensor, ends: Sequence[int]):
        self._model = model
        self._decoder = find_decoder(model)
        self._length = vision.shape[1]
        self._prompts = len(vision)
        self._vision = {row: own.nonzero().flatten() for row, own in enumerate(vision) if own.any()}
        self._starts: list[int] = real.int().argmax(dim=1).tolist()
        self._ends = torch.tensor(ends, device=vision.device)
        self._sinks: list[Tensor] = []

    @contextmanager
    def finding_sinks(self) -> Iterator[None]:
        """Find the sinks of the run that is made while open."""
        found: dict[int, list[Tensor]] = {row: [] for row in self._vision}

        def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            if hidden.shape[1] == self._length:
                for row, own in self._vision.items():
                    found[row].append(find_sinks(hidden[row], self._starts[row], own).cpu())

        with hooked([one.register_forward_pre_hook(note, with_kwargs=True) for one in self._decoder.layers]):
            yield
        self._sinks = [torch.stack(found[row]) if row in found else torch.empty(0) for row in range(self._prompts)]

    @contextmanager
    def reading(self) -> Iterator[Callable[[], list[Readout | None]]]:
        """Read the run that is made while open; what is yielded returns the readouts of its prompts afterwards."""
        depth = self._decoder.depth
        instruction: list[dict[int, LayerAttention]] = [{} for _ in range(depth)]
        given: list[dict[int, Given]] = [{} for _ in range(depth)]
        behind = [0] * depth
        fed = dict.fromkeys(self._vision, 0)
        live = set(self._vision)

        def count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens: Tensor | None = kwargs.get("input_ids")
            if tokens is None or len(tokens) != self._prompts:
                raise UnsupportedError("attention can't be read where generate doesn't run each prompt once, greedily")
            if tokens.shape[1] == 1:
                live.difference_update(torch.isin(tokens[:, 0], self._ends).nonzero().flatten().tolist())
                for row in live:
                    fed[row] += 1

        def read(
            layer: int, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
        ) -> Tensor:
            behind[layer] += query.shape[2]
            first = behind[layer] - key.shape[2]  # a sliding window keeps the last keys only
            if query.shape[2] not in (1, self._length) or first < 0:
                raise UnsupportedError("attention can't be read where prompts are run in parts or keys are padded")
            prefill = query.shape[2] == self._length
            for row in self._vision if prefill else live:
                vision = self._vision[row]
                tail = self._length - 1 - int(vision[-1]) if prefill else 1
                own = None if mask is None else mask[row if len(mask) > 1 else 0, 0, -tail:]
                part = _read(attention, query[row, :, -tail:], key[row], own, vision - first)
                if prefill:
                    instruction[layer][row] = part.average(tail)
                else:
                    given[layer][row] = part.plus(given[layer].get(row))
            return attention(query, key, value, mask)

        def readouts() -> list[Readout | None]:
            return [
                self._join(row, instruction, given, fed) if row in self._vision else None
                for row in range(self._prompts)
            ]

        counting = hooked([self._model.register_forward_pre_hook(count, with_kwargs=True)])
        with counting, attention_replaced(self._decoder, read):
            yield readouts

    def _join(
        self,
        row: int,
        instruction: Sequence[Mapping[int, LayerAttention]],
        given: Sequence[Mapping[int, Given]],
        fed: Mapping[int, int],
    ) -> Readout:
        response = stacked(own[row].average(fed[row]) for own in given) if fed[row] else None
        return Readout(stacked(own[row] for own in instruction), response, self._sinks[row])


def _read(attention: Attention, query: Tensor, key: Tensor, mask: Tensor | None, columns: Tensor) -> Given:
    """Read vision tokens of which the first may be no keys any more, which then get nothing."""
    kept = columns >= 0
    if kept.all():
        return given_to(attention, query, key, mask, columns)
    heads = len(query)
    weights = query.new_zeros(1, heads, len(columns), dtype=torch.float32)
    if not kept.any():
        return Given(weights, weights[..., 0], weights[..., 0])
    part = given_to(attention, query, key, mask, columns[kept])
    weights[..., kept] = part.weights
    spread = torch.tensor(float(int(kept.sum()))).log() / torch.tensor(float(len(columns))).log()
    return Given(weights, part.entropy * spread, part.counted)
