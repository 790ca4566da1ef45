"""What mergekit 0.1.5 makes of some tensors, kept for test_methods_oracles.py, which runs without mergekit.

To renew it: `pip install mergekit==0.1.5` in an environment of its own, and there `python tests/mergekit_golden.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

GOLDEN = Path(__file__).with_name("mergekit_golden.safetensors")
SHAPE = (24, 16)


def make_inputs() -> dict[str, Tensor]:
    """An ancestor, two models that grew from it, and two masks that keep about half."""
    generator = torch.Generator().manual_seed(5)
    ancestor = torch.randn(SHAPE, generator=generator)
    changes = torch.randn((2, *SHAPE), generator=generator) * 0.3
    masks = (torch.rand((2, *SHAPE), generator=generator) < 0.5).float()
    return {
        "ancestor": ancestor,
        "lm": ancestor + changes[0],
        "vlm": ancestor + changes[1],
        "mask_lm": masks[0],
        "mask_vlm": masks[1],
    }


def main() -> None:
    """Write the golden file."""
    from mergekit.merge_methods.base import TensorGroup
    from mergekit.merge_methods.registry import get
    from mergekit.merge_methods.slerp import slerp
    from safetensors.torch import save_file

    inputs = make_inputs()
    models = {"lm": inputs["lm"], "vlm": inputs["vlm"]}

    def merged(method: str, weights: dict[str, float], normalize: bool = False, density: float = 1) -> Tensor:
        masks = iter([inputs[f"mask_{name}"] for name in weights])
        own = torch.bernoulli
        torch.bernoulli = lambda _: next(masks)
        try:
            group = TensorGroup.from_tensors(
                [inputs["ancestor"], *(models[name] for name in weights)], ids=["ancestor", *weights], base_index=0
            )
            return get(method).merge_group(
                group,
                weight=weights,
                density=dict.fromkeys(weights, density),
                normalize=normalize,
                rescale=False,
                int8_mask=False,
                **{"lambda": 1.0},
            )
        finally:
            torch.bernoulli = own

    both, halves = {"lm": 1.0, "vlm": 1.0}, {"lm": 0.5, "vlm": 0.5}
    outputs = {
        "task_arithmetic": merged("task_arithmetic", {"lm": 0.4, "vlm": 0.7}),
        "ties_of_one": merged("ties", {"vlm": 0.7}, density=0.3),
        "ties_of_both": merged("ties", both, normalize=True, density=0.3),
        "ties_of_both_by_half": merged("ties", halves, normalize=True, density=0.3),
        "dare_linear": merged("dare_linear", halves, density=0.5),
        "dare_ties_of_both": merged("dare_ties", both, normalize=True, density=0.5),
        **{
            f"slerp_{share}": slerp(torch.tensor([share]), inputs["lm"][None], inputs["vlm"][None])[0]
            for share in (0.25, 0.5, 0.9)
        },
    }
    save_file({**inputs, **outputs}, GOLDEN, metadata={"mergekit": "0.1.5"})


if __name__ == "__main__":
    main()
