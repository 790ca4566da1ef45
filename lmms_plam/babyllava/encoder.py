"""The small encoder that stands for DINOv2: trained once on drawn pictures, then frozen for every model.

Its objective: each patch's feature tells, linearly, which coloured shape lies there, or that none does. What stands
where to what, and how many there are, it is never asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from lmms_plam.babyllava.architecture import VISION
from lmms_plam.babyllava.pictures import THINGS, Scene, draw_scene, label_map, picture
from lmms_plam.babyllava.tower import pool
from lmms_plam.embedded.optimizer import MuonAdamW
from lmms_plam.embedded.training import fit, matrices

_PICTURES_A_STEP = 64
_LEAST_SHARE = 0.15
"""Of a patch's pixels, that a shape has to cover to be what lies there."""

_MEAN, _STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Return pictures as DINOv2's processor gives them, [pictures, 3, height, width]."""
    stacked = torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2).float() / 255
    return (stacked - _MEAN) / _STD


def patch_labels(scenes: Sequence[Scene]) -> Tensor:
    """Return what lies in each patch, [pictures, patches]: 0 nothing, else 1 + the place in THINGS."""
    maps = torch.from_numpy(np.stack([np.asarray(label_map(scene.shapes)) for scene in scenes])).long()
    side = VISION["patch_size"]
    count, height, width = maps.shape
    parts = maps.view(count, height // side, side, width // side, side).permute(0, 1, 3, 2, 4)
    counted = functional.one_hot(parts.reshape(count, -1, side * side), len(THINGS) + 1).sum(2)
    counted[..., 0] = int(_LEAST_SHARE * side * side)  # a shape must beat this
    return counted.argmax(-1)


def train_encoder(steps: int, seed: int = 0) -> Dinov2Model:
    """Train the encoder on scenes of the training split."""
    rng = random.Random(f"{seed} encoder")
    torch.manual_seed(seed)
    encoder = Dinov2Model(Dinov2Config(**VISION)).bfloat16()
    encoder.set_attn_implementation("eager")
    head = nn.Linear(VISION["hidden_size"], len(THINGS) + 1).bfloat16()
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = MuonAdamW(weights, matrices(encoder.encoder), muon_rate=0.02, adam_rate=0.003)

    def loss() -> Tensor:
        scenes = [draw_scene(rng, "train") for _ in range(_PICTURES_A_STEP)]
        pixels = to_pixels([picture(scene.shapes) for scene in scenes]).bfloat16()
        told = head(encoder(pixels).last_hidden_state[:, 1:]).float()
        return functional.cross_entropy(told.flatten(0, 1), patch_labels(scenes).flatten())

    fit("encoder on pictures", steps, optimizer, loss)
    return encoder.eval()


@torch.no_grad()
def features(encoder: Dinov2Model, pictures: Sequence[Image.Image], pooling: str) -> Tensor:
    """Return pictures' pooled features, [pictures, tokens, width], computed once for all passes, as in the paper."""
    found = []
    for first in range(0, len(pictures), 256):
        pixels = to_pixels(pictures[first : first + 256]).to(encoder.dtype)
        found.append(pool(encoder(pixels).last_hidden_state[:, 1:], pooling))
    return torch.cat(found)
