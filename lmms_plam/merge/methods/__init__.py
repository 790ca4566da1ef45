"""Merge methods: pure functions of tensors, a file for each idea.

A method that needs no more than a few rows at a time takes any rows: the same of the whole tensor. What it must know of
the whole tensor first, an angle or the size of the smallest change that stays, is a function of its own.
"""

from __future__ import annotations

from lmms_plam.merge.methods.changes import add_changes, add_elected
from lmms_plam.merge.methods.dare import drop
from lmms_plam.merge.methods.fisher import fisher
from lmms_plam.merge.methods.linear import linear
from lmms_plam.merge.methods.slerp import cosine, slerp_weights
from lmms_plam.merge.methods.trim import thresholds, trim

__all__ = ["add_changes", "add_elected", "cosine", "drop", "fisher", "linear", "slerp_weights", "thresholds", "trim"]
