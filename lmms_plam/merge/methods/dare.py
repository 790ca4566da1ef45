"""Changes dropped at random, the others grown to make up for them: DARE (arXiv 2311.03099)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

_DRAWS = 4
"""64-bit numbers that one step of the generator makes, each of them two chances of 32 bits."""


def drop(change: Tensor, density: float, of: str, seed: int, start: int) -> Tensor:
    """Return changes of which each stays with probability `density`, divided by it, and is 0 otherwise.

    As in the paper and in peft 0.21; peft 0.13 drops the result of the division, and so does what VLM_Merging (ICML
    2025) calls DARE. mergekit (0.1.5, sparsify.py) grows what stays to the L1 norm of all instead, by default.

    Whether a change stays follows from seed, tensor and place alone: it is the same whatever was merged before, in
    whatever blocks of rows, on whatever device.

    Args:
        change: some rows, in float32.
        density: above 0 and up to 1.
        of: whose change of which tensor it is.
        seed: of the recipe.
        start: place of the first of these changes in the whole tensor, counted along its rows.
    """
    if density == 1:
        return change
    goes = torch.from_numpy(_chances(of, seed, start, change.numel()) >= round(density * 2**32))
    return (change / density).masked_fill(goes.to(change.device).view(change.shape), 0)


def _chances(of: str, seed: int, start: int, count: int) -> np.ndarray:
    """Return `count` numbers of 32 random bits, from the start-th on of a tensor's own sequence."""
    key = hashlib.sha256(f"{seed} {of}".encode()).digest()[:16]
    generator = Philox(key=int.from_bytes(key, "little"))
    words = 2 * _DRAWS
    generator.advance(start // words)
    skipped = start % words
    drawn = generator.random_raw((skipped + count + 1) // 2)
    return drawn.astype("<u8", copy=False).view("<u4")[skipped : skipped + count]
