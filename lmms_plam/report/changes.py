"""Documents that change, as part of a page: counts and a table with pictures."""

from __future__ import annotations

import html

from lmms_plam.report.pictures import thumbnail
from lmms_plam.scoring.changes import Changes


def changes_to_html(changes: Changes) -> str:
    """Return counts and a table of the changes shown, pictures inline."""
    pictures = any(example.image is not None for example in changes.examples.values())
    rows = []
    for change in changes.shown:
        example = changes.examples[change.doc_id]
        answers = (
            f"{html.escape(answer)} <small>({score:g})</small>"
            for answer, score in zip(change.answers, change.scores, strict=True)
        )
        cells = (
            *map(html.escape, (str(change.doc_id), change.variant, change.way)),
            *([thumbnail(example.image)] if pictures else []),
            *map(html.escape, (example.question, example.target)),
            *answers,
        )
        rows.append("<tr>" + "".join(f'<td class="text">{cell}</td>' for cell in cells) + "</tr>")
    answered = ("question", "target", f"{changes.base} (score)", "variant (score)")
    names = ("document", "variant", "scores", *(["image"] if pictures else []), *answered)
    head = "".join(f'<th class="label">{html.escape(name)}</th>' for name in names)
    lines = changes.counts() or ["none"]
    if len(changes.shown) < len(changes.all):
        lines.append(f"{len(changes.shown)} of these {len(changes.all):,} changes are shown, evenly spread")
    counts = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else ""
    return f"<h2>{html.escape(changes.task)}: documents that change</h2><ul>{counts}</ul>{table}"
