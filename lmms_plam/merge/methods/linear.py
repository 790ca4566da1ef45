"""The weighted sum of two tensors, as PlaM merges."""

from __future__ import annotations

from torch import Tensor


def linear(lm: Tensor, vlm: Tensor, lambda_lm: float, lambda_vlm: float) -> Tensor:
    """Return lambda_lm * lm + lambda_vlm * vlm (PlaM, arXiv 2601.07645).

    Products and sum are rounded in float32, each on its own, then once more to the VLM's dtype. A term whose
    coefficient is 0 does not enter at all: (0, 1) gives the VLM's tensor and (1, 0) the base LM's, bit for bit.

    Args:
        lm: the base LM's tensor, float16, bfloat16 or float32.
        vlm: the VLM's tensor, of the same shape and on the same device; the result has its dtype.
        lambda_lm: coefficient of the base LM, at least 0.
        lambda_vlm: coefficient of the VLM, at least 0.
    """
    if lambda_lm == 0:
        merged = vlm.float() * lambda_vlm
    elif lambda_vlm == 0:
        merged = lm.float() * lambda_lm
    else:
        merged = lm.float() * lambda_lm + vlm.float() * lambda_vlm
    return merged.to(vlm.dtype)
