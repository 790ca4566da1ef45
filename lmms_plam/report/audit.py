"""What a format audit says: sentences, warnings, two tables, records, and its files."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmms_plam.audit.parts import KINDS, Audit, Part, Side
from lmms_plam.files import write_text
from lmms_plam.report.comparison import to_csv
from lmms_plam.report.numbers import decimals, p_text
from lmms_plam.report.tables import Table
from lmms_plam.scoring.audits import TaskAudit

AUDIT_FILES = ("audit.json", "audit.csv", "audit.md")
"""What `write_audits` writes."""

_SHORT = {
    "bare": "both are a bare letter or word",
    "meant": "both are read as meant, with more words",
    "fallback": "a parser guesses",
    "one_read": "only one could be read",
    "neither_read": "neither could be read",
    "cut_off": "one or both are cut off",
    "unknown": "it isn't known how they were read",
}


def audit_records(audits: Sequence[TaskAudit]) -> list[dict[str, Any]]:
    """Return one flat record for each part; the parts of a metric of a variant sum to its difference."""
    return [
        {
            "task": one.task,
            "metric": one.metric,
            "reference": one.reference,
            "variant": one.variant,
            "part": part.kind,
            "documents": part.documents,
            "gained": part.gained,
            "lost": part.lost,
            "difference": part.difference.value,
            "ci_low": part.difference.ci_low,
            "ci_high": part.difference.ci_high,
            "p_value": part.p_value,
            "count_p": part.count_p,
            "total": one.found.total,
        }
        for one in audits
        if one.found is not None
        for part in one.found.parts
    ]


def audit_details(audits: Sequence[TaskAudit]) -> list[dict[str, Any]]:
    """Return one nested record for each metric of each variant: its parts, its sides, what is missing, warnings."""
    records = audit_records(audits)
    return [
        {
            "task": one.task,
            "metric": one.metric,
            "reference": one.reference,
            "variant": one.variant,
            "difference": None if one.found is None else one.found.total,
            "parts": [
                {name: value for name, value in record.items() if name not in _SAID_ONCE}
                for record in records
                if all(record[name] == getattr(one, name) for name in _OF)
            ],
            "sides": [] if one.found is None else [asdict(side) for side in one.found.sides],
            "missing": one.missing or None,
            "warnings": one.warnings,
            "notes": one.notes,
        }
        for one in audits
    ]


_OF = ("task", "metric", "reference", "variant")
_SAID_ONCE = (*_OF, "total")


def audit_sentences(audits: Sequence[TaskAudit]) -> list[str]:
    """Return what the difference of each headline metric is made of, then how many answers no parser could read."""
    shown = [one for one in audits if one.headline]
    unread = dict.fromkeys(
        f"{one.task}: the benchmark's parser can't read {side.unread:.1%} of the answers of {side.variant}"
        for one in shown
        if one.found is not None
        for side in one.found.sides
        if side.unread
    )
    return [*(one.missing or _in_words(one) for one in shown), *unread]


def audit_warnings(audits: Sequence[TaskAudit]) -> list[str]:
    """Return every warning, each once."""
    return list(dict.fromkeys(warning for one in audits if one.headline for warning in one.warnings))


def parts_table(audits: Sequence[TaskAudit]) -> Table | None:
    """Return the parts of each headline metric's difference; None where there are none."""
    shown = [one for one in audits if one.headline and one.found is not None and _says_something(one.found)]
    rows: list[tuple[str, ...]] = []
    for one in shown:
        assert one.found is not None
        unit = decimals(one.perfect)
        for part in one.found.parts:
            low, high = part.difference.ci_low, part.difference.ci_high
            rows.append(
                (
                    one.task,
                    one.variant,
                    KINDS[part.kind],
                    f"{part.documents:,}",
                    f"{part.gained:,}",
                    f"{part.lost:,}",
                    f"{part.difference.value:+.{unit}f}",
                    "none" if low is None or high is None else f"{low:+.{unit}f} to {high:+.{unit}f}",
                    p_text(part.p_value),
                    p_text(part.count_p),
                )
            )
        counts = [sum(getattr(part, name) for part in one.found.parts) for name in ("documents", "gained", "lost")]
        rows.append(
            (
                one.task,
                one.variant,
                "all",
                *(f"{count:,}" for count in counts),
                f"{one.found.total:+.{unit}f}",
                "",
                "",
                "",
            )
        )
    if not shown or shown[0].found is None:
        return None
    level = shown[0].found.parts[0].difference.level
    notes = dict.fromkeys(f"{one.task}: {note}" for one in shown for note in one.notes)
    return Table(
        title=f"format audit: the answers' part in the difference to {shown[0].reference}",
        columns=(
            "task",
            "variant",
            "answers",
            "documents",
            "gained",
            "lost",
            "difference",
            f"{level:.0%} interval",
            "p",
            "p of counts",
        ),
        rows=rows,
        notes=(
            "the parts sum to the difference: the reference's answers are exchanged for the variant's line by line, and"
            " a line is what that changes in the metric",
            "p: sign flips of whole clusters in the metric, two-sided mid-p; p of counts: exact sign test of gained"
            " against lost documents, where none depends on another",
            *notes,
        ),
        labels=3,
    )


def sides_table(audits: Sequence[TaskAudit]) -> Table | None:
    """Return how each variant's answers were given and read; None where nothing is known of it."""
    sides: dict[tuple[str, str], Side] = {}
    for one in audits:
        if one.headline and one.found is not None:
            sides |= {(one.task, side.variant): side for side in one.found.sides}
    if not sides:
        return None
    return Table(
        title="how answers were given and read",
        columns=("task", "variant", "as meant", "by a fallback", "not read", "cut off", "mean length"),
        rows=[
            (
                task,
                name,
                *(_share(share) for share in (side.meant, side.fallback, side.unread)),
                f"{_share(side.cut_off)}{'' if side.sure else ', likely'}",
                "" if side.length is None else f"{side.length:.1f}",
            )
            for (task, name), side in sides.items()
        ],
        notes=("length: in tokens, or in words and marks where no tokens were counted",),
        labels=2,
    )


def audits_to_html(audits: Sequence[TaskAudit]) -> str:
    """Return warnings, sentences and both tables as part of a page."""
    lines = [f"Warning: {line}." for line in audit_warnings(audits)] + audit_sentences(audits)
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    tables = [found.to_html() for found in (parts_table(audits), sides_table(audits)) if found is not None]
    return f"<h2>Format audit</h2><ul>{said}</ul>{''.join(tables)}"


def write_audits(audits: Sequence[TaskAudit], folder: Path) -> None:
    """Write audit.json (all that is known, of every metric), and .csv and .md where something is known."""
    write_text(folder / "audit.json", json.dumps(audit_details(audits), indent=2) + "\n")
    records = audit_records(audits)
    if records:
        write_text(folder / "audit.csv", to_csv(records))
    lines = "".join(f"- {line}\n" for line in (*audit_warnings(audits), *audit_sentences(audits)))
    tables = [found.to_markdown() for found in (parts_table(audits), sides_table(audits)) if found is not None]
    write_text(folder / "audit.md", "\n".join([*tables, lines]))


def _says_something(found: Audit) -> bool:
    return any(part.kind != "unknown" for part in found.parts)


def _in_words(one: TaskAudit) -> str:
    assert one.found is not None
    unit = decimals(one.perfect)
    changed = [part for part in one.found.parts if part.gained or part.lost or part.difference.value]
    parts = "; ".join(
        f"{part.difference.value:+.{unit}f}{_of_it(part, one.found.total)} where {_SHORT[part.kind]} "
        f"({part.gained} gained, {part.lost} lost, p {p_text(part.p_value) or 'none'})"
        for part in changed
    )
    if not changed:
        return f"{one.task}: no answer of {one.variant} scores otherwise in {one.metric}"
    return f"{one.task}: of the {one.found.total:+.{unit}f} of {one.variant} in {one.metric}: {parts}"


def _of_it(part: Part, total: float) -> str:
    """Say which share of a difference is no other answer but one that could be read, or was cut off."""
    return f", {part.difference.value / total:.0%} of it," if part.kind in ("one_read", "cut_off") and total else ""


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
