"""What the benchmarks call FLOPs: two for every multiply-add of a matrix product or a convolution, and nothing else.

Attention is the two products that it is written as, queries by keys and weights by values, in full, whatever a mask
hides. So that this holds for every device and release of torch, it is computed as these products while FLOPs are
counted: torch's counter knows some fused kernels and not others (the one of CPUs up to torch 2.14 counted as nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(run: Callable[[], Any]) -> int:
    """Count the FLOPs of what `run` computes."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
