"""What a probe says of the length of answers: hidden vision hurts long ones first, and longer ones may be cut off."""

from __future__ import annotations

from lmms_plam.probes.record import Probe
from lmms_plam.scoring.audits import MOST_CUT_OFF


def length_sentence(probe: Probe) -> str | None:
    """Return how long answers are without the image and with it; None where nobody counted."""
    lengths = _known(probe, "length")
    if not lengths:
        return None
    first, last, longest = min(lengths), max(lengths), max(lengths, key=lambda cut: lengths[cut])
    return (
        f"answers have {lengths[first]:.1f} tokens on average at cut {first}, {lengths[last]:.1f} at cut {last}, and"
        f" most at cut {longest}, {lengths[longest]:.1f}"
    )


def cut_off_warning(probe: Probe) -> str | None:
    """Return a warning where the limit on new tokens cuts off more than a hundredth of the answers at some cut."""
    shares = _known(probe, "cut_off")
    most = max(shares, key=lambda cut: shares[cut], default=None)
    if most is None or shares[most] <= MOST_CUT_OFF:
        return None
    return (
        f"{shares[most]:.1%} of the answers at cut {most} are cut off by the limit on new tokens, and"
        f" {shares[max(shares)]:.1%} at cut {max(shares)}: the curve may show that; raise it, such as --gen_kwargs"
        " max_new_tokens=64, and run again"
    )


def _known(probe: Probe, name: str) -> dict[int, float]:
    told = {cut: one[name] for cut, one in probe.answers.items()}
    return {cut: value for cut, value in told.items() if value is not None}
