"""Vision tokens of a prompt back to places in its pictures, family by family as transformers lays them out.

Read from the processors' and models' sources of transformers 5.17 to 5.24; what is needed of them is `image_grid_thw`,
`image_sizes`, `batch_num_images` and `pixel_values` among the inputs, sizes in the configs, and
`select_best_resolution`.

Places are shares of the picture's sides. They hold for the picture as a benchmark gives it, however it is resized
before the processor: lmms-eval's Qwen backends stretch it to whole patches with qwen-vl-utils, llava_hf and internvl_hf
don't touch it. They would not hold after cropping, padding, turning (by EXIF) or joining pictures, which none of these
backends does (of lmms-eval 0.7.3), nor for pictures in another order than the prompt's: the Qwen backends'
`interleave_visuals`, off by itself, can repeat or leave out pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import select_best_resolution

from lmms_plam.attention.layouts import (
    Size,
    anyres,
    cells,
    centred,
    even,
    padded_square,
    patches,
    tiled,
)
from lmms_plam.attention.places import Places
from lmms_plam.errors import DataError, UnsupportedError
from lmms_plam.model.host import vision_positions
from lmms_plam.stats.matrix import FloatArray


def place(
    model: PreTrainedModel,
    input_ids: Tensor,
    inputs: Mapping[str, Any],
    row: int,
    sizes: Sequence[Size],
    processor: Any = None,
) -> Places:
    """Return where the vision tokens of one prompt lie in its pictures.

    Args:
        model: the vision-language model.
        input_ids: [prompts, length] of the whole batch.
        inputs: what else the processor made of the batch, as `generate` gets it.
        row: which prompt.
        sizes: width and height of that prompt's pictures, in their order in the prompt.
        processor: the model's; asked by LLaVA-1.5, whose model can't know how pictures were cropped.

    Returns:
        The places of the tokens that `vision_positions` names, in their order.

    Raises:
        UnsupportedError: a family that isn't known, or a video.
        DataError: tokens or pictures that don't fit the layout, so that places would be wrong.
    """
    family = model.config.model_type
    if family not in _LAYOUTS:
        known = ", ".join(_LAYOUTS)
        raise UnsupportedError(f"where vision tokens of '{family}' lie in a picture isn't known. Known are: {known}")
    images = (input_ids == model.config.image_token_id).cpu().numpy()
    if (vision_positions(model, input_ids, inputs)[row].cpu().numpy() != images[row]).any():
        raise UnsupportedError(f"{family}: the places of a video's tokens aren't known, only those of pictures")
    runs = [len(list(run)) for is_image, run in groupby(images[row].tolist()) if is_image]
    prompt = _Prompt(model.config, inputs, tuple(sizes), runs, int(images[:row].sum()), processor)
    boxes = _LAYOUTS[family](prompt) if runs else []
    if len(boxes) != len(sizes):
        raise DataError(f"{family}: the prompt shows {len(boxes)} pictures and not {len(sizes)}")
    lengths = [len(own) for own in boxes]
    if sum(lengths) != sum(runs):
        raise DataError(f"{family}: {sum(runs)} vision tokens don't fit the {sum(lengths)} of the pictures' layout")
    return Places(np.repeat(np.arange(len(boxes)), lengths), np.concatenate([np.empty((0, 4)), *boxes]))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What layouts are told by.

    Attributes:
        config: the model's.
        inputs: of the batch.
        sizes: of the prompt's pictures.
        runs: how many vision tokens follow each other, in order.
        before: vision tokens of the prompts before it.
        processor: the model's, if given.
    """

    config: Any
    inputs: Mapping[str, Any]
    sizes: tuple[Size, ...]
    runs: list[int]
    before: int
    processor: Any

    def own(self, lengths: Sequence[int]) -> slice:
        """Return which of the batch's pictures, of so many tokens each, are the prompt's.

        Raises:
            DataError: the prompt doesn't begin and end with pictures.
        """
        edges, ends = [0, *accumulate(lengths)], (self.before, self.before + sum(self.runs))
        if not set(ends) <= set(edges):
            raise DataError(
                f"{self.config.model_type}: {sum(self.runs)} vision tokens after {self.before} don't fit the batch's "
                f"pictures, which have {', '.join(map(str, lengths))}"
            )
        return slice(*map(edges.index, ends))


def _qwen(prompt: _Prompt) -> list[FloatArray]:
    """Rows and columns of merged patches; Qwen2.5-VL's windows are put back in order by the model itself."""
    merge = prompt.config.vision_config.spatial_merge_size
    grids = [(high // merge, wide // merge) for _, high, wide in prompt.inputs["image_grid_thw"].tolist()]
    return [cells(even(high), even(wide)) for high, wide in grids[prompt.own([high * wide for high, wide in grids])]]


def _llava(prompt: _Prompt) -> list[FloatArray]:
    """Patches of the picture that is left after the processor's padding, resizing and centred crop, in this order."""
    tower = prompt.config.vision_config.model_type
    if tower not in ("clip_vision_model", "siglip_vision_model"):
        raise UnsupportedError(f"where vision tokens of 'llava' with '{tower}' lie in a picture isn't known")
    steps = getattr(prompt.processor, "image_processor", None)
    if steps is None:
        raise UnsupportedError("how pictures of 'llava' are cropped is known to its processor alone, and none is given")
    patch = prompt.config.vision_config.patch_size
    window = prompt.inputs["pixel_values"].shape[-1], prompt.inputs["pixel_values"].shape[-2]
    found = []
    for size in prompt.sizes:
        whole = (max(size), max(size)) if getattr(steps, "do_pad", False) else size
        resized = _resized(whole, steps) if steps.do_resize else whole
        if not steps.do_center_crop and resized != window:
            raise DataError(f"llava: the processor made {window} pixels of a picture of {size}, and not {resized}")
        spans = [
            centred(centred(patches(shown, patch), shown, long) / long * padded, padded, length) / length
            for shown, long, padded, length in zip(window, resized, whole, size, strict=True)
        ]
        found.append(cells(spans[1], spans[0]))
    return found


def _resized(size: Size, steps: Any) -> Size:
    """Return the size to which CLIP's and SigLIP's image processors resize a picture."""
    target = dict(steps.size)
    if set(target) == {"height", "width"}:
        return target["width"], target["height"]
    if set(target) == {"shortest_edge"}:
        width, height = (int(target["shortest_edge"] * length / min(size)) for length in size)
        return width, height
    raise UnsupportedError(f"where vision tokens of 'llava' lie after resizing to {target} isn't known")


def _llava_next(prompt: _Prompt) -> list[FloatArray]:
    """The whole picture, then the canvas that fits it best."""
    return _tiles(prompt, [True] * len(prompt.inputs["image_sizes"]), None)


def _llava_onevision(prompt: _Prompt) -> list[FloatArray]:
    """As LLaVA-NeXT, with few enough tokens; but pictures that the processor was given as several are one tile each."""
    counts = prompt.inputs.get("batch_num_images")  # without, the model takes each for the only one of its prompt
    counts = [1] * len(prompt.inputs["image_sizes"]) if counts is None else counts.tolist()
    alone = [count == 1 for count in counts for _ in range(count)]
    return _tiles(prompt, alone, int(prompt.config.vision_aspect_ratio.removeprefix("anyres_max_")))


def _tiles(prompt: _Prompt, alone: Sequence[bool], most: int | None) -> list[FloatArray]:
    config = prompt.config
    tile, patch = config.vision_config.image_size, config.vision_config.patch_size
    seen = [(width, height) for height, width in prompt.inputs["image_sizes"].tolist()]
    boxes = []
    for size, tiles in zip(seen, alone, strict=True):
        if tiles:
            high, wide = select_best_resolution(size[::-1], config.image_grid_pinpoints)
            boxes.append(anyres(size, (wide, high), tile, patch, most))
        else:
            boxes.append(padded_square(size, tile, patch))
    own = prompt.own([len(one) for one in boxes])
    for (wide, high), (width, height) in zip(seen[own], prompt.sizes, strict=False):
        if abs(wide * height / high - width) > 1 and abs(high * width / wide - height) > 1:
            raise DataError(
                f"{config.model_type}: the processor was given a picture of {wide} x {high} pixels where the prompt "
                f"has one of {width} x {height}"
            )
    return boxes[own]


def _internvl(prompt: _Prompt) -> list[FloatArray]:
    """Tiles row by row, then the whole picture; how many is told by the tokens between two delimiters."""
    config = prompt.config
    high, wide = config.vision_config.image_size
    side = round(high // config.vision_config.patch_size[0] * config.downsample_ratio)
    if any(run % side**2 or run == 2 * side**2 for run in prompt.runs) or len(prompt.runs) != len(prompt.sizes):
        runs = ", ".join(map(str, prompt.runs))
        raise DataError(
            f"internvl: vision tokens in runs of {runs} aren't {len(prompt.sizes)} pictures in tiles of {side**2}"
        )
    return [
        tiled(run // side**2, side, size, (wide, high)) for run, size in zip(prompt.runs, prompt.sizes, strict=True)
    ]


def _gemma3(prompt: _Prompt) -> list[FloatArray]:
    """The picture squeezed into a square."""
    side = even(round(prompt.config.mm_tokens_per_image**0.5))
    return [cells(side, side) for _ in prompt.sizes]


_LAYOUTS: dict[str, Callable[[_Prompt], list[FloatArray]]] = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "gemma3": _gemma3,
}
"""By the config's `model_type`, the boxes of each of a prompt's pictures."""
