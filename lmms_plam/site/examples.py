"""Documents with their pictures on a page that has room for so many in all: dealt evenly to who has some to show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from lmms_plam.attention.record import QUERIES
from lmms_plam.attention.shown import CHANGES, ShownDocument, read_shown
from lmms_plam.errors import DataError
from lmms_plam.probes.record import MATRIX
from lmms_plam.report.changes import changes_table
from lmms_plam.report.map_sheets import MapSheet, map_sheet
from lmms_plam.report.overlays import ground, marked_regions, shown_picture
from lmms_plam.report.pictures import data_url
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.examples import Example, evenly_spaced, read_examples
from lmms_plam.site.found import Compared, Of
from lmms_plam.site.numbers import MERGED
from lmms_plam.site.records import Attention
from lmms_plam.stats.matrix import ScoreMatrix

_WIDE = 2.5  # times as wide as high: such maps stand one below the other


def deal(total: int, wanted: Sequence[int]) -> list[int]:
    """Deal so many documents to those that want some, one to each in turn.

    Args:
        total: how many there are to deal.
        wanted: how many each can use.
    """
    dealt = [0] * len(wanted)
    while total > 0 and any(have < want for have, want in zip(dealt, wanted, strict=True)):
        for place, want in enumerate(wanted):
            if total > 0 and dealt[place] < want:
                dealt[place] += 1
                total -= 1
    return dealt


def read_changes(compared: Of[Compared], count: int) -> Changes | None:
    """Return the documents that the merge changes, at most so many to be shown; None without a matrix to tell them.

    Raises:
        DataError: the matrix or the kept examples can't be read.
    """
    saved, folder = compared.record.saved, compared.place.folder
    if saved is None or not (folder / MATRIX).is_file():
        return None
    matrix = ScoreMatrix.read(folder / MATRIX)
    if saved.reference not in matrix.variants or MERGED not in matrix.variants:
        return None
    kept = read_examples(folder)
    pair = matrix.take([matrix.column(saved.reference), matrix.column(MERGED)])
    found = Changes.of(
        compared.place.label,
        pair,
        saved.reference,
        lambda doc_ids: [kept.get(doc_id, Example(doc_id, "")) for doc_id in doc_ids],
    )
    told = [change for change in found.shown if change.doc_id in kept] or list(found.shown)
    return replace(found, shown=tuple(evenly_spaced(told, count)) if told and count else ())


def changes_part(changes: Changes) -> str:
    """Return documents that change, folded."""
    lines = changes.counts() or ["no document scores otherwise"]
    summary = f"{changes.task}: {lines[0]}"
    if not changes.shown:
        return f"<p>{escape(summary)}.</p>"
    kept = any(example.question for example in changes.examples.values())
    notes = [] if kept else ["the run is of an earlier version, which kept neither questions nor pictures"]
    if len(changes.shown) < len(changes.all):
        notes.append(f"{len(changes.shown)} of {len(changes.all):,} are shown, evenly spread")
    said = "".join(f"<li>{line}</li>" for line in notes)
    listed = f"<ul>{said}</ul>" if said else ""
    return f"<details><summary>{escape(summary)}</summary>{listed}{changes_table(changes)}</details>"


def read_looks(record: Of[Attention], count: int) -> list[ShownDocument]:
    """Return the documents of which maps were kept, at most so many, of each kind of change in turn.

    Raises:
        DataError: shown.json can't be read.
    """
    try:
        shown = read_shown(record.place.folder)
    except DataError:
        if not (record.place.folder / "shown.json").exists():
            return []
        raise
    kinds = [[one for one in shown if one.change == change] for change in CHANGES]
    dealt = deal(count, [len(kind) for kind in kinds])
    return [one for kind, some in zip(kinds, dealt, strict=True) for one in kind[:some]]


def look_part(document: ShownDocument, layer: int) -> str:
    """Return a document with its maps: those of one layer, and of the others by a slider.

    Args:
        document: what is shown.
        layer: whose maps are shown at first.
    """
    sheet = map_sheet(document)
    answers = "; ".join(f"{escape(name)}: <b>{escape(answer)}</b>" for name, answer in document.answers.items())
    words = (
        f'<p class="question"><b>{escape(document.question)}</b><br>Right: {escape(document.target) or "not told"}.'
        f" {answers}.<br>{escape(CHANGES[document.change]).capitalize()}.</p>"
    )
    alt = f"The picture of document {document.doc_id}"
    picture = f'<figure><img class="whole" alt="{alt}" src="{data_url(shown_picture(document))}"></figure>'
    head = f'<div class="shown">{picture}<div>{words}</div></div>'
    if sheet is None:
        why = "where tokens lie in the picture, or what they get, isn't known"
        return f'<div class="looked">{head}<p>No maps: {why}.</p></div>'
    layer = min(layer, sheet.layers - 1)
    width, height = document.image.size
    shares = json.dumps([[round(float(one), 4) for one in row] for row in sheet.shares])
    style = (
        f"--ground:url('{data_url(ground(document))}');--sheet:url('{data_url(sheet.image)}');"
        f"--layers:{sheet.layers};--layer:{layer}"
    )
    kind = "maps wide" if width > _WIDE * height else "maps"
    figures = "".join(_map(document, sheet, layer, tile, f"{width}/{height}") for tile in range(3))
    return (
        f'<div class="looked" style="{style}" data-layer="{layer}" data-shares="{shares}">{head}'
        f'<div class="slider"><span>layer {layer} of {sheet.layers}, attention of {QUERIES[sheet.queries]}</span></div>'
        f'<div class="{kind}">{figures}</div></div>'
    )


def _map(document: ShownDocument, sheet: MapSheet, layer: int, tile: int, ratio: str) -> str:
    names = list(document.maps)
    when = ("before", "after", "difference")[tile]
    before, after = sheet.shares[layer]
    what = (f"'{names[0]}'", f"'{names[1]}'", f"'{names[1]}' minus '{names[0]}'")[tile]
    points = round(100 * (after - before), 1) + 0.0  # never -0.0
    value = (f"{before:.1%}", f"{after:.1%}", f"{points:+.1f} points")[tile]
    marks = "".join(
        f'<b style="left:{100 * left:.1f}%;top:{100 * top:.1f}%;width:{100 * (right - left):.1f}%;'
        f'height:{100 * (bottom - top):.1f}%"></b>'
        for left, top, right, bottom in marked_regions(document)
    )
    return (
        f'<figure><div class="map" role="img" aria-label="{when}: attention on the picture, {escape(what)}"'
        f' style="aspect-ratio:{ratio};--tile:{tile}"><i></i>{marks}</div>'
        f'<figcaption>{when}, {escape(what)}: <span data-when="{when}">{value}</span></figcaption></figure>'
    )
