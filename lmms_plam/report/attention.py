"""What attention was read, seen: numbers as JSON, curves by layer, and one page with maps over pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lmms_plam.attention.findings import findings, main_findings
from lmms_plam.attention.origin import NUMBERS, Fingerprint
from lmms_plam.attention.record import MEASURES, QUERIES, AttentionRecord, Measure
from lmms_plam.attention.shown import ShownDocument
from lmms_plam.attention.summary import SCALED, AttentionFindings
from lmms_plam.files import write_bytes, write_text
from lmms_plam.report.attention_curves import curve_files, draw, measures_of
from lmms_plam.report.attention_maps import maps_to_html
from lmms_plam.report.page import bare_svg, page
from lmms_plam.report.tables import Table
from lmms_plam.words import runs

PAGE = "attention.html"
FILES = (NUMBERS, PAGE, *(name for measure in MEASURES for name in curve_files(measure)))
"""What `write` writes."""

_FIRST: tuple[Measure, ...] = ("mass", "inside")


def write(
    task: str,
    about: str,
    record: AttentionRecord,
    found: AttentionFindings,
    shown: Sequence[ShownDocument],
    folder: Path,
    layers: Sequence[int] | None = None,
) -> None:
    """Write the curves, the page, and last attention.json, beside the record and shown.json, which are there.

    Args:
        task: its name.
        about: which model answered and when.
        record: what was read.
        found: what it tells.
        shown: documents whose maps are drawn.
        folder: where the files go.
        layers: in which maps are drawn; by default those where the merge changes most.

    Raises:
        DataError: maps lack one of the layers, or the record a document.
    """
    maps = maps_to_html(record, found, shown, layers)
    for measure in MEASURES:
        queries = [name for name in found.queries if measure in measures_of(found, name)]
        for name in curve_files(measure):
            if queries:
                drawn = draw(found, measure, queries, _of(task, about), name.rpartition(".")[2])
                write_bytes(folder / name, drawn)
            else:
                (folder / name).unlink(missing_ok=True)
    write_text(folder / PAGE, _page(task, about, found, maps))
    write_text(folder / NUMBERS, json.dumps(to_dict(task, about, found, folder), indent=2, allow_nan=False) + "\n")


def to_dict(task: str, about: str, found: AttentionFindings, folder: Path) -> dict[str, object]:
    """Return what attention.json holds, with the fingerprint of what lies in a folder."""
    fingerprint = Fingerprint.of(folder).model_dump()
    return {"task": task, "about": about, "fingerprint": fingerprint, **found.to_dict(), "findings": findings(found)}


def table(found: AttentionFindings) -> Table:
    """Return what each variant changes in the late layers, from the question."""
    rows = []
    for one in found.headlines():
        change = "" if one.difference is None else f"{100 * one.difference:+.2f}"
        rows.append(
            (
                one.variant,
                *("" if value is None else f"{value:.1%}" for value in (one.untouched, one.merged)),
                change,
                _interval(one.low, one.high, 100, "+.2f"),
                "" if one.relation is None else f"{one.relation:.0%}",
                _interval(one.relation_low, one.relation_high, 100, ".0f"),
            )
        )
    notes = [
        f"mean over {_late(found)}, from {QUERIES[found.queries[0]]}; points: percentage points, the variant's minus"
        f" '{found.reference}'"
    ]
    if any(one.relation is not None for one in found.headlines()):
        notes.append(
            "pairs: of two documents whose scores change differently, how often the one that gains more has the greater"
            " growth of attention; 50% is chance"
        )
    level = f"{found.settings.level:.0%} interval"
    return Table(
        f"attention on the picture, {_late(found)}",
        ("variant", found.reference, "variant's", "points", level, "pairs", f"{level}\nof pairs"),
        rows,
        tuple(notes),
        together=2,
    ).without_empty_columns()


def _interval(low: float | None, high: float | None, factor: float, form: str) -> str:
    return "" if low is None or high is None else f"{factor * low:{form}} to {factor * high:{form}}"


def _late(found: AttentionFindings) -> str:
    return f"layer {found.late[0]}" if len(found.late) == 1 else f"layers {runs(found.late)}"


def _of(task: str, about: str) -> str:
    return f"{task}, {about}" if about else task


def _page(task: str, about: str, found: AttentionFindings, maps: str) -> str:
    main = main_findings(found)
    others = [line for line in findings(found) if line not in main]
    parts = [_introduction(found), f"<h2>What was found</h2>\n{_listed(main)}"]
    if others:
        parts.append(f"<details><summary>{len(others)} more findings</summary>\n{_listed(others)}</details>")
    legend = (
        f"<p>Above: the mean over documents under each variant. Below: each variant minus '{escape(found.reference)}', "
        "document by document, with its band; where the band leaves out the zero line (dots), the change is sure, for "
        "all layers at once.</p>"
    )
    parts += ["<h2>By layer</h2>", legend, *_curves(found, _of(task, about)), table(found).to_html(), maps]
    resampled = (
        f"intervals: {found.settings.level:.0%}, jackknife over {found.clusters:,} clusters of documents; bands and"
        f" p-values hold for all layers at once, {found.settings.draws:,} draws, seed {found.settings.seed}"
    )
    return page(f"{task}: where do the layers look?", parts, resampled, about)


def _introduction(found: AttentionFindings) -> str:
    reference, others = (escape(found.reference), [f"<b>{escape(name)}</b>" for name in found.variants])
    terms = {
        "The question": "attention of the words that follow the picture",
        "The answer": "attention of the words that the model writes, where it writes more than one",
        "Late layers": f"{_late(found)}, shaded below; unless told otherwise those that the merge changes",
        "Sinks": "tokens that get much attention whatever is asked",
    }
    if SCALED in found.variants:
        terms[f"'{SCALED}'"] = _control(found)
    said = " ".join(f"<b>{name}</b>: {words}." for name, words in terms.items())
    return f"""<p>A vision-language model turns a picture into a row of tokens, and each of its layers decides anew how
much the words attend to them. Here the same {found.documents:,} documents were answered by <b>{reference}</b> and, to
be compared with it, by {", ".join(others)}; read was how much of each layer's attention falls on the picture (its
mass), and how it is spread there. A merge mixes the weights of a language model into some layers. The question is
whether those layers then look more at the picture, whether at the right place, and whether that is why answers
change.</p>
<p>{said}</p>"""


def _control(found: AttentionFindings) -> str:
    if found.scaled.control_of:
        return (
            "a control, the untouched model's attention weights times the sum of the merge's coefficients; what it "
            "changes too is no work of the language model's"
        )
    if found.scaled.factor is not None:
        return f"the untouched model's attention weights times {found.scaled.factor:g}"
    return "a further recipe of that name"


def _listed(lines: Sequence[str]) -> str:
    return '<ul class="found">' + "".join(f"<li>{escape(line[0].upper() + line[1:])}.</li>" for line in lines) + "</ul>"


def _curves(found: AttentionFindings, about: str) -> list[str]:
    """Return the measures that matter most, and the others to be unfolded; a picture for each set of queries."""

    def drawn(measure: Measure) -> str:
        known = [name for name in found.queries if measure in measures_of(found, name)]
        figures = [
            f'<div role="img" aria-label="{escape(MEASURES[measure])}, from {escape(QUERIES[name])}, by layer">'
            f"{bare_svg(draw(found, measure, [name], about, 'svg').decode())}</div>"
            for name in known
        ]
        return f'<div class="curves">{"".join(figures)}</div>' if figures else ""

    others = "".join(drawn(measure) for measure in MEASURES if measure not in _FIRST)
    folded = "<details><summary>How attention is spread, and without sinks</summary>" + others + "</details>"
    return [*(drawn(measure) for measure in _FIRST), folded]
