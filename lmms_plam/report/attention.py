"""What attention was read, seen: curves by layer, maps over pictures, a page, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lmms_plam.attention.findings import findings
from lmms_plam.attention.record import AttentionRecord
from lmms_plam.attention.shown import ShownDocument
from lmms_plam.attention.summary import AttentionFindings
from lmms_plam.files import write_text

NUMBERS, PAGE = "attention.json", "attention.html"
FILES = (NUMBERS, PAGE)
"""What `write` writes."""


def write(
    task: str,
    about: str,
    record: AttentionRecord,
    found: AttentionFindings,
    shown: Sequence[ShownDocument],
    folder: Path,
) -> None:
    """Write attention.json."""
    told = {"task": task, "about": about, **found.to_dict(), "findings": findings(found)}
    write_text(folder / NUMBERS, json.dumps(told, indent=2) + "\n")
