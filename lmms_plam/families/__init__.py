"""Family tasks: another task's documents, prompts and scoring, asked with small changes to the model.

A YAML of three lines makes one of any generate-until task:

task: plam_probe_mmstar
class: !function lmms_plam.families.MaskingProbe
of: mmstar
"""

from __future__ import annotations

from lmms_plam.families.attention import AttentionProbe
from lmms_plam.families.comparison import Comparison
from lmms_plam.families.probe import MaskingProbe
from lmms_plam.families.ranked import RankedTask
from lmms_plam.families.ranked_variants import RankedComparison, RankedProbe, RankedSearch
from lmms_plam.families.search import RecipeSearch
from lmms_plam.families.visibility import EarlyProbe, HeadroomProbe, WindowProbe

__all__ = [
    "AttentionProbe",
    "Comparison",
    "EarlyProbe",
    "HeadroomProbe",
    "MaskingProbe",
    "RankedComparison",
    "RankedProbe",
    "RankedSearch",
    "RankedTask",
    "RecipeSearch",
    "WindowProbe",
]
