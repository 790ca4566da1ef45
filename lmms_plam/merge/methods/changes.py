"""Changes added to an ancestor: task arithmetic (arXiv 2212.04089), and what TIES makes of it (arXiv 2306.01708).

peft's functions do the sums, so that its users meet the same numbers. Its package takes seconds to import, so that this
is done when the first such merge begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def add_changes(ancestor: Tensor, changes: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return ancestor + sum of coefficient * change, in float32.

    mergekit (0.1.5, generalized_task_arithmetic.py) gives the same; it can also multiply the sum (`lambda`) or divide
    it by that of the coefficients (`normalize`).

    Args:
        ancestor: rows of the ancestor, in any dtype.
        changes: the same rows of models less the ancestor's, in float32.
        coefficients: one for each change.
    """
    from peft.utils.merge_utils import task_arithmetic

    mixed: Tensor = task_arithmetic(list(changes), _column(coefficients, changes))
    return ancestor.float() + mixed


def add_elected(ancestor: Tensor, changes: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return ancestor + mean of coefficient * change over the changes whose sign prevails, in float32.

    The sign of each weight is that of the sum of its changes, + where they cancel out; a change of 0 has no sign. Both
    as in the paper and in peft (merge_utils.py, "total"): the election is before coefficients, and the mean over the
    number of changes that agree. mergekit elects among changes times coefficients, and divides by the sum of the
    coefficients that agree (`normalize`, by default here), so that with coefficients of .5 it moves twice as far. The
    paper's own merge has both coefficients 1.

    Args:
        ancestor: as for `add_changes`.
        changes: as there, trimmed or dropped from.
        coefficients: as there.
    """
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stacked = torch.stack(list(changes))
    agree = calculate_majority_sign_mask(stacked, method="total")
    weights = _column(coefficients, changes).view(-1, *(1,) * (stacked.dim() - 1))
    mixed: Tensor = disjoint_merge(stacked * weights, agree)
    return ancestor.float() + mixed


def _column(coefficients: Sequence[float], changes: Sequence[Tensor]) -> Tensor:
    return torch.tensor(coefficients, dtype=torch.float32, device=changes[0].device)
