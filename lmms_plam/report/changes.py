"""Documents that change, as part of a page: counts and a table with pictures."""

from __future__ import annotations

import html

from lmms_plam.report.page import scrolled
from lmms_plam.report.pictures import thumbnail
from lmms_plam.scoring.changes import Change, Changes


def changes_to_html(changes: Changes) -> str:
    """Return counts and a table of the changes shown, pictures inline."""
    lines = changes.counts() or ["none"]
    if len(changes.shown) < len(changes.all):
        lines.append(f"{len(changes.shown)} of these {len(changes.all):,} changes are shown, evenly spread")
    counts = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    title = f"<h2>{html.escape(changes.task)}: documents that change</h2>"
    return f"{title}<ul>{counts}</ul>{changes_table(changes)}"


def changes_table(changes: Changes) -> str:
    """Return a table of the changes shown, pictures inline, without columns that nothing fills; none without any."""
    examples = [changes.examples[change.doc_id] for change in changes.shown]
    cells = {
        "document": [html.escape(str(change.doc_id)) for change in changes.shown],
        "variant": [html.escape(change.variant) for change in changes.shown],
        "scores": [html.escape(change.way) for change in changes.shown],
        "image": [thumbnail(example.image) for example in examples],
        "question": [html.escape(example.question) for example in examples],
        "target": [html.escape(example.target) for example in examples],
        f"{changes.base} (score)": [_answer(change, 0) for change in changes.shown],
        "variant (score)": [_answer(change, 1) for change in changes.shown],
    }
    known = {name: column for name, column in cells.items() if any(column)}
    head = "".join(f'<th class="label">{html.escape(name)}</th>' for name in known)
    lines = ("".join(f'<td class="text">{cell}</td>' for cell in row) for row in zip(*known.values(), strict=True))
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return scrolled(table, f"{changes.task}: documents that change") if rows else ""


def _answer(change: Change, side: int) -> str:
    return f"{html.escape(change.answers[side])} <small>({change.scores[side]:g})</small>"
