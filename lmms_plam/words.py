"""How numbers are told in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def runs(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs of them joined: 0, 2 to 8."""
    joined: list[list[int]] = []
    for number in numbers:
        if joined and number == joined[-1][-1] + 1:
            joined[-1].append(number)
        else:
            joined.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in joined)
