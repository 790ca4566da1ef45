"""The site: `index.html`, which needs nothing else, and beside it tables, leaderboards, matrices and references.

site/index.html  tables/*.md, *.tex  leaderboard*.json, .csv, .md  matrices/MODEL/TASK.parquet  references.bib
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

from lmms_plam.attention.record import RECORD as ATTENTION
from lmms_plam.attention.shown import ShownDocument
from lmms_plam.errors import DataError
from lmms_plam.files import replacing, write_text
from lmms_plam.probes.record import MATRIX
from lmms_plam.report.comparison import to_csv
from lmms_plam.report.leaderboard import records
from lmms_plam.report.page import page
from lmms_plam.report.tables import Table
from lmms_plam.scoring.changes import Changes
from lmms_plam.site import tables
from lmms_plam.site.boards import Board, Progress
from lmms_plam.site.cards import anchor, cards
from lmms_plam.site.cite import references
from lmms_plam.site.examples import deal, read_changes, read_looks
from lmms_plam.site.found import Place, Study
from lmms_plam.site.model_part import in_words, model_part, titled
from lmms_plam.site.numbers import counted_once
from lmms_plam.site.served import read_served, served_table
from lmms_plam.site.words import RULES, say_ranks

PAGE, REFERENCES, TABLES, MATRICES = "index.html", "references.bib", "tables", "matrices"

_EXAMPLES_EACH = 16  # documents of one benchmark with pictures, at most


def build_site(
    study: Study,
    boards: Sequence[Board],
    unranked: Sequence[str],
    out: Path,
    title: str,
    examples: int,
    progress: Progress,
) -> list[str]:
    """Write the site.

    Args:
        study: what was found.
        boards: its leaderboards.
        unranked: a sentence for each run and benchmark that they lack.
        out: the folder to write into; made if missing.
        title: what the page is called.
        examples: how many documents are shown with pictures, in all.
        progress: says how far it has come.

    Returns:
        A sentence for each part that had to be left out.
    """
    looks, changes, trouble = _examples(study, examples)
    served, unread = read_served(study)
    left_out = [*study.left_out, *unranked, *trouble, *unread, *counted_once(study)]
    parts = [model_part(study, model, looks, changes) for model in progress(study.models, "drawing")]
    shown = {
        "gains": tables.gains_table(study),
        "served": served_table(served),
        "plateaus": tables.plateaus_table(study, study.models),
        "differences": tables.differences_table(study, study.models),
        "searches": tables.searches_table(study, study.models),
        **{f"transfer_{anchor(model)}": tables.transfer_table(study, model) for model in study.models},
        **{f"format_{anchor(model)}": tables.audit_table(study, model) for model in study.models},
        "cost": tables.cost_table(study),
    }
    found = {name: one for name, one in shown.items() if one is not None}
    _write_tables({**found, **{board.name: board.table for board in boards}}, out)
    for board in boards:
        write_text(out / f"{board.name}.json", json.dumps(records(board.standings), indent=2) + "\n")
        write_text(out / f"{board.name}.csv", to_csv(records(board.standings)))
    left_out += _copy_matrices(study, out, left_out)
    left_out += _broken_attention(study)
    write_text(out / REFERENCES, references(study, title))
    style, script = (
        files("lmms_plam.site").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    body = [
        _tools(study),
        *_opening(study, boards),
        *_overall(study, boards, found),
        *parts,
        *_closing(study, left_out, out),
    ]
    write_text(out / PAGE, page(title, body, "by `plam report`", style=style, script=script))
    return left_out


def _examples(study: Study, examples: int) -> tuple[dict[Place, list[ShownDocument]], dict[Place, Changes], list[str]]:
    """Read the documents that are shown with pictures, and a sentence for each file that can't be."""
    looks: dict[Place, list[ShownDocument]] = {}
    changes: dict[Place, Changes] = {}
    trouble = []
    dealt = deal(examples, [_EXAMPLES_EACH] * (len(study.attention) + len(study.comparisons)))
    for one, count in zip(study.attention, dealt, strict=False):
        try:
            looks[one.place] = read_looks(one, count) if count else []
        except DataError as error:
            trouble.append(f"left out: {error}")
    for compared, count in zip(study.comparisons, dealt[len(study.attention) :], strict=True):
        try:
            found = read_changes(compared, count)
        except DataError as error:
            trouble.append(f"left out: {error}")
        else:
            changes |= {} if found is None else {compared.place: found}
    return looks, changes, trouble


def _tools(study: Study) -> str:
    links = [
        ("overall", "over all"),
        ("studied", "what was studied"),
        *((anchor(model), model) for model in study.models),
    ]
    return (
        '<nav class="tools" aria-label="parts of this page">'
        + "".join(f'<a href="#{target}">{escape(name)}</a>' for target, name in links)
        + "</nav>"
    )


def _opening(study: Study, boards: Sequence[Board]) -> list[str]:
    dates = sorted(filter(None, (run.date for run in study.runs)))
    when = "" if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    models = study.models or list(dict.fromkeys(run.model for run in study.runs))
    benchmarks = study.benchmarks or sorted({task for run in study.runs for task in run.tasks})
    about = [
        _count(len(models), "model"),
        _count(len(benchmarks), "benchmark"),
        _count(len(study.finished), "run"),
        when,
    ]
    said = [
        f"<p><b>{escape(model)}.</b> {escape(' '.join(lines))}</p>"
        for model in study.models
        if (lines := in_words(study, model))
    ]
    said += [
        f"<p>{escape(line)}</p>"
        for board in boards
        if (line := say_ranks(*board.ranked(), board.title[0].lower() + board.title[1:]))
    ]
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in RULES)
    return [
        f'<p class="about">{escape("; ".join(filter(None, about)))}</p>',
        f'<div class="lead">{"".join(said)}</div>' if said else "",
        f"<details><summary>By which rules these sentences are made</summary><ol>{rules}</ol></details>"
        if said
        else "",
    ]


def _overall(study: Study, boards: Sequence[Board], found: dict[str, Table]) -> list[str]:
    parts = ['<section id="overall">\n<h2>Over all</h2>', titled(found.get("gains"), 3), titled(found.get("served"), 3)]
    parts += [_board(board, study) for board in boards]
    parts += [titled(one, 3) for name, one in found.items() if name.startswith("transfer_")]
    many = [titled(found.get(name)) for name in ("plateaus", "differences", "searches")]
    if len(study.models) > 1:
        parts.append(f"<details><summary>All models' numbers in one table each</summary>{''.join(many)}</details>")
    parts += [titled(found.get("cost"), 3), "</section>"]
    return parts


def _closing(study: Study, left_out: Sequence[str], out: Path) -> list[str]:
    missing = "".join(f"<li>{escape(line)}</li>" for line in left_out)
    beside = (
        f"Beside this page: the tables in Markdown and LaTeX (<code>{TABLES}/</code>), leaderboards as JSON and CSV,"
        f" the score matrices as Parquet (<code>{MATRICES}/</code>), and <code>{REFERENCES}</code>."
    )
    return [
        f'<section id="studied">\n<h2>What was studied</h2>\n{cards(study, out)}\n</section>',
        f"<section>\n<h2>Left out</h2>\n<ul>{missing}</ul>\n</section>" if left_out else "",
        f"<p>{beside}</p>",
    ]


def _board(board: Board, study: Study) -> str:
    """Return a leaderboard, what to know of it folded."""
    shown = _linked(replace(board.table, notes=()).to_html(), study)
    notes = "".join(f"<li>{escape(note)}</li>" for note in board.table.notes)
    return (
        f"<h3>{escape(board.title)}</h3>\n{shown}"
        f"<details><summary>How to read it, and what each model is</summary><ul>{notes}</ul></details>"
    )


def _linked(table: str, study: Study) -> str:
    """Return a leaderboard whose models lead to their parts of the page."""
    for model in study.models:
        words = escape(model)
        table = re.sub(
            rf'<td class="label">({re.escape(words)}(?:/[^<]*)?)</td>',
            rf'<td class="label"><a href="#{anchor(model)}">\1</a></td>',
            table,
        )
    return table


def _write_tables(found: dict[str, Table], out: Path) -> None:
    for name, one in found.items():
        write_text(out / TABLES / f"{name}.md", one.to_markdown())
        write_text(out / TABLES / f"{name}.tex", one.to_latex())


def _copy_matrices(study: Study, out: Path, left_out: Sequence[str]) -> list[str]:
    """Copy the score matrices; return a sentence for each that is none and isn't told of among what is left out."""
    trouble = []
    for place in study.matrices():
        matrix = place.folder / MATRIX
        why = _not_parquet(matrix)
        if why:
            said = f"left out: {matrix} can't be read as a score matrix (Parquet): {why}"
            trouble += [] if any(str(matrix) in line for line in left_out) else [said]
            continue
        run = f"-{anchor(place.run)}" if place.run else ""
        with replacing(out / MATRICES / anchor(place.model) / f"{place.task}{run}.parquet") as temporary:
            shutil.copyfile(matrix, temporary)
    return trouble


def _not_parquet(path: Path) -> str:
    """Say why a file is no Parquet, by its footer alone; empty where it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_schema(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return " ".join(str(error).split())
    return ""


def _broken_attention(study: Study) -> list[str]:
    """Return a sentence for each record of attention that is none, of which the page shows what was summed up."""
    records = [one.place.folder / ATTENTION for one in study.attention]
    return [
        f"{path} can't be read as a record of attention (Parquet), so that what is shown of it can't be redone: {why}"
        for path in records
        if path.is_file() and (why := _not_parquet(path))
    ]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
