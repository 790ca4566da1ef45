"""Running one prompt through many variants of a model: interventions on decoder layers, the family engine, references.

`generate_family` is the engine, `run_plainly` the long way for what it refuses; `check_engine` compares the two.
"""

from __future__ import annotations

from lmms_plam.model.family import MEMORY_BUDGET, FamilyResult, generate_family
from lmms_plam.model.follow import follow
from lmms_plam.model.host import Decoder, find_decoder, vision_positions
from lmms_plam.model.lanes import QueryScope
from lmms_plam.model.likelihood import Score, score_texts
from lmms_plam.model.masks import damaged, masked
from lmms_plam.model.placing import place
from lmms_plam.model.readout import Readout, VisionAttention
from lmms_plam.model.reference import follow_plainly, run_plainly
from lmms_plam.model.selfcheck import EngineCheck, HidingCheck, check_engine, check_hiding, rounding
from lmms_plam.model.tower import pictures_seen_once
from lmms_plam.model.variants import Variant, WeightSet, installed_whole

__all__ = [
    "MEMORY_BUDGET",
    "Decoder",
    "EngineCheck",
    "FamilyResult",
    "HidingCheck",
    "QueryScope",
    "Readout",
    "Score",
    "Variant",
    "VisionAttention",
    "WeightSet",
    "check_engine",
    "check_hiding",
    "damaged",
    "find_decoder",
    "follow",
    "follow_plainly",
    "generate_family",
    "installed_whole",
    "masked",
    "pictures_seen_once",
    "place",
    "rounding",
    "run_plainly",
    "score_texts",
    "vision_positions",
]
