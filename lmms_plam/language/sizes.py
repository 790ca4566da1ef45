"""How many rows the sources' files have, as far as their documentation says: what has fewer was cut off.

From the BabyLM evaluation pipeline of 2025 (babylm/evaluation-pipeline-2025 at bf55c11) and, Winoground's 400, from
Thrush et al. 2022. Not known are the filtered files of BLiMP and EWoK and the full ones of Entity Tracking.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmms_plam.language.benchmarks import DOMAINS, PARADIGMS, SUPPLEMENT

ALL = ""
"""Stands for all parts together."""

SIZES: Mapping[str, Mapping[str, int]] = {
    "blimp_fast": dict.fromkeys(PARADIGMS, 200),
    "blimp_supplement": {
        "hypernym": 842,
        "qa_congruence_easy": 64,
        "qa_congruence_tricky": 165,
        "subject_aux_inversion": 3867,
        "turn_taking": 280,
    },
    "blimp_supplement_fast": dict.fromkeys(SUPPLEMENT, 50),
    "ewok_fast": dict.fromkeys(DOMAINS, 100),
    "entity_tracking_fast": {
        f"regular/{operations} operations": count for operations, count in enumerate((606, 607, 606, 606, 568, 159))
    },
    "winoground": {ALL: 400},
    "winoground_babylm": {ALL: 746},
}
"""Rows in a folder, by benchmark and part."""
