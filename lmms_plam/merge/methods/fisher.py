"""The mean of two tensors in which each weight counts by its Fisher information (arXiv 2111.09832)."""

from __future__ import annotations

import torch
from torch import Tensor


def fisher(
    lm: Tensor, vlm: Tensor, information_lm: Tensor, information_vlm: Tensor, lambda_lm: float, lambda_vlm: float
) -> Tensor:
    """Return (a lm + b vlm) / (a + b), with a = lambda_lm * information_lm and b = lambda_vlm * information_vlm.

    In float32. Neither peft nor mergekit has it. Only the ratio of the coefficients counts. Where both have no
    information, so that a + b is 0, lambda_lm and lambda_vlm stand for a and b. Equal weights stay what they are, and
    so does the VLM's where lambda_lm is 0, the base LM's where lambda_vlm is 0.

    Args:
        lm: rows of the base LM's tensor.
        vlm: the same rows of the VLM's.
        information_lm: diagonal of the base LM's Fisher information there, at least 0, in float32.
        information_vlm: the VLM's.
        lambda_lm: coefficient of the base LM, at least 0.
        lambda_vlm: coefficient of the VLM, at least 0; not both are 0.
    """
    part = lambda_lm / (lambda_lm + lambda_vlm)
    ours, theirs = information_vlm * (1 - part), information_lm * part
    total = ours + theirs
    share = torch.where(total > 0, theirs / total, part)
    return torch.lerp(vlm.float(), lm.float(), share)
