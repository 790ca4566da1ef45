"""What a probe or a comparison will cost, in ordinary runs of its task, told from shapes and a few prompts.

A layer that variants share is computed once. A cut's own layers hold only the tokens after the first vision token (text
before it can't see it); another recipe's own layers hold the whole prompt. Decoding comes on top: the answers of all
variants, of which an ordinary run has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lmms_plam.merge.names import parse_name
from lmms_plam.model import vision_positions


@dataclass(frozen=True, slots=True)
class Prompt:
    """The sizes of one prompt.

    Attributes:
        tokens: its length N.
        text_after: text tokens after the first vision token.
        patches: what the vision tower computes.
    """

    tokens: int
    text_after: int
    patches: int


def measure_prompt(skeleton: PreTrainedModel, processor: Any, messages: list[dict[str, Any]]) -> Prompt:
    """Return the sizes of a prompt as the checkpoint's own processor makes it; a backend's may differ a little."""
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    vision = vision_positions(skeleton, inputs["input_ids"], inputs)[0]
    grids = [inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs]
    patches = sum(int(grid.prod(dim=-1).sum()) for grid in grids) or int(vision.sum())
    first = int(vision.int().argmax()) if bool(vision.any()) else len(vision)
    return Prompt(len(vision), int((~vision[first:]).sum()), patches)


def decoder_share(skeleton: PreTrainedModel, prompt: Prompt) -> float:
    """Return the decoder layers' share of a prompt's computation, two operations a weight and token."""
    decoder = tower = 0
    for name, parameter in skeleton.named_parameters():
        tensor = parse_name(name)
        if tensor is None:
            tower += parameter.numel()
        elif tensor.layer is not None:
            decoder += parameter.numel()
    return decoder * prompt.tokens / (decoder * prompt.tokens + tower * prompt.patches)


def probe_cost(cuts: Iterable[int], depth: int, prompt: Prompt, share: float) -> float:
    """Return what all cuts of a prompt cost together, in ordinary runs of it."""
    own_layers = sum(depth - cut for cut in cuts)
    return 1 + own_layers / depth * prompt.text_after / prompt.tokens * share


def comparison_cost(start_layers: Sequence[int], depth: int, share: float) -> float:
    """Return what base and recipes cost together, in ordinary runs, given the first layer that each recipe merges."""
    return 1 + sum(depth - start for start in start_layers) / depth * share
