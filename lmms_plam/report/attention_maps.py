"""The maps of shown documents as part of a page: each picture once, and the maps as layers of colour over it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lmms_plam.attention.record import QUERIES, AttentionRecord
from lmms_plam.attention.shown import CHANGES, ShownDocument
from lmms_plam.attention.summary import AttentionFindings
from lmms_plam.report.overlays import (
    RANGE,
    Overlay,
    asked_queries,
    ground,
    marked_regions,
    overlay,
    ramp,
    shown_picture,
    telling_layers,
)
from lmms_plam.report.pictures import data_url
from lmms_plam.words import runs

_WIDE = 2.5  # times as wide as high: such pictures get a line of their own on a narrow screen


def maps_to_html(
    record: AttentionRecord,
    found: AttentionFindings,
    shown: Sequence[ShownDocument],
    layers: Sequence[int] | None = None,
) -> str:
    """Return legend and documents, grouped by what became of their scores.

    Args:
        record: what was read, for scores and for the layers that change most.
        found: what it tells.
        shown: the documents.
        layers: in which maps are drawn; by default those where the merge changes most.

    Raises:
        DataError: maps lack one of the layers, or the record a document.
    """
    if not shown:
        return "<h2>Over the picture</h2>\n<p>No document with maps was kept.</p>"
    parts = ["<h2>Over the picture</h2>", _RULE]
    drawn = {one.doc_id: _overlays(record, found, one, layers) for one in shown}
    if any(drawn.values()):
        parts.append(_legend(layers))
    for change, words in CHANGES.items():
        own = [one for one in shown if one.change == change]
        parts.append(f"<h3>{escape(words[0].upper() + words[1:])}: {len(own) or 'none'} shown</h3>")
        parts += [_document(record, one, drawn[one.doc_id]) for one in own]
    return "\n".join(parts)


def document_layers(
    record: AttentionRecord, found: AttentionFindings, document: ShownDocument, layers: Sequence[int] | None = None
) -> list[int]:
    """Return the layers in which a document's maps are drawn."""
    before, after = document.maps
    return list(layers) if layers else telling_layers(record, found.late, before, after, asked_queries(document))


def _overlays(
    record: AttentionRecord, found: AttentionFindings, document: ShownDocument, layers: Sequence[int] | None
) -> list[Overlay]:
    own = [overlay(document, layer) for layer in document_layers(record, found, document, layers)]
    return [one for one in own if one is not None]


_RULE = (
    "<p>Documents are chosen by a rule and never by hand: while the run goes on, maps are kept of the first documents "
    "whose answer the merge changes, and of the first whose answer it doesn't; of these the first ones of each kind, "
    "by their number, are shown.</p>"
)


def _legend(layers: Sequence[int] | None) -> str:
    where = (
        f"the layers asked for ({runs(sorted(layers))})"
        if layers
        else "the late layers in which the mean mass changes most, over all documents"
    )
    bars = (
        (ramp(diverging=False), "none", "much in either map", "before and after, on one scale"),
        (ramp(diverging=True), "less", "more", "difference, after minus before, on the same scale"),
        (ramp(diverging=True, linear=True), f"1/{RANGE} or less", f"{RANGE} times or more", "against a neutral prompt"),
    )
    shown = "".join(
        f'<div><img alt="colours from {escape(low)} to {escape(high)}" src="{data_url(image)}"><br>{escape(low)} '
        f"&rarr; {escape(high)}<br><b>{escape(words)}</b></div>"
        for image, low, high, words in bars
    )
    return (
        f'<div class="legend">{shown}</div>\n<p>The maps are of {where}. Colour lies over the greyed picture: the '
        "stronger, the more attention; opacity goes with its square root, so that weak attention shows too. "
        "A block is what one token shows. Against a neutral prompt: the attention for the question over that for a "
        "request to describe the picture; what is looked at whatever is asked has no colour there, orange is what the "
        "question adds. Where the right place is known, it is outlined in green.</p>"
    )


def _document(record: AttentionRecord, document: ShownDocument, overlays: Sequence[Overlay]) -> str:
    own = record.at(doc_ids=[document.doc_id])
    answers = "".join(
        f'<tr><td class="label">{escape(name)}</td><td class="text">{escape(document.answers.get(name, ""))}</td>'
        f'<td class="number">{score:g}</td></tr>'
        for name, score in zip(own.variants, own.score[0], strict=True)
    )
    width, height = document.image.size
    kind = "maps wide" if width > _WIDE * height else "maps"
    outlined = ", the right place outlined" if marked_regions(document) else ""
    picture = (
        f'<figure><img class="whole" alt="The picture of document {document.doc_id}{outlined}" '
        f'src="{data_url(shown_picture(document))}"><figcaption>the picture{outlined}</figcaption></figure>'
    )
    told = [
        f'<div class="shown">{picture}<div><p class="question"><b>Question</b>: {escape(document.question)}<br>'
        f"<b>Right</b>: {escape(document.target) or 'not told'}</p>",
        '<table><tr><th class="label">variant</th><th class="label">answer</th><th class="number">score</th></tr>'
        f"{answers}</table></div></div>",
        *(_maps(one, kind, document) for one in overlays),
    ]
    if not overlays:
        unplaced = any(maps.places is None for maps in document.maps.values())
        why = (
            "where this model's tokens lie in the picture isn't known"
            if unplaced
            else "neither the question's attention is known nor that of both answers"
        )
        told.append(f"<p>No maps: {why}.</p>")
    return (
        f"<section style=\"--ground: url('{data_url(ground(document))}')\">\n<h4>Document {document.doc_id}</h4>\n"
        + "\n".join(told)
        + "\n</section>"
    )


def _maps(shown: Overlay, kind: str, document: ShownDocument) -> str:
    figures = "".join(
        f'<figure><div class="map"><img alt="{escape(tile.words)}" src="{data_url(tile.heat)}"></div>'
        f"<figcaption>{escape(tile.title)}</figcaption></figure>"
        for tile in shown.tiles
    )
    notes = [f"the strongest colour is {shown.peak:.3g} times the mean over the picture, or more"]
    count = max(int(maps.places.image.max()) + 1 for maps in document.maps.values() if maps.places is not None)
    notes.append(f"the first of {count} pictures" if count > 1 else "")
    if not any(name in document.neutral for name in document.maps):
        notes.append("nothing was asked with a neutral prompt")
    elif len(shown.tiles) < 5:
        notes.append("no attention of the answer to the neutral prompt is known")
    said = "; ".join(filter(None, notes))
    return f'<p>Layer {shown.layer}, from {QUERIES[shown.queries]} ({said}):</p>\n<div class="{kind}">{figures}</div>'
