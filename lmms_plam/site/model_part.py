"""One model's part of the page: in words, curves, search, gains, language, attention, format, documents that change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from lmms_plam.attention.shown import ShownDocument
from lmms_plam.report.attention_curves import curve_files
from lmms_plam.report.curve import PICTURES as CURVE
from lmms_plam.report.forest import ForestRow, draw_forest
from lmms_plam.report.heatmap import SURFACE
from lmms_plam.report.language import GROUPS, draw_language
from lmms_plam.report.numbers import p_text
from lmms_plam.report.page import bare_svg, inline_svg
from lmms_plam.report.search import ABLATION
from lmms_plam.report.sweep import SWEEP
from lmms_plam.report.tables import Table
from lmms_plam.report.visibility import PICTURES as VISIBILITY
from lmms_plam.scoring.changes import Changes
from lmms_plam.site import numbers, tables
from lmms_plam.site.cards import anchor
from lmms_plam.site.examples import changes_part, look_part
from lmms_plam.site.found import Of, Place, Study
from lmms_plam.site.records import Attention, Point
from lmms_plam.site.vectors import slim
from lmms_plam.site.words import (
    Gain,
    say_attention,
    say_gains,
    say_language,
    say_plateaus,
    say_search,
)

_MOST_FINDINGS = 4


def in_words(study: Study, model: str) -> list[str]:
    """Return what a model's numbers say, a sentence each."""
    found = [say_plateaus(numbers.onsets(study, model))]
    merges = numbers.judged(study, model)
    for recipe, gains in merges.items():
        which = f" ({recipe})" if len(merges) > 1 else ""
        found += say_gains(numbers.start_in_words(recipe) + which, gains)
    found += say_search(numbers.searches(study, model))
    found += [say_language(*parts) for parts in numbers.language(study, model).values()]
    found += say_attention(numbers.looks(study, model))
    return [line for line in found if line]


def model_part(
    study: Study,
    model: str,
    looks: Mapping[Place, Sequence[ShownDocument]],
    changes: Mapping[Place, Changes],
) -> str:
    """Return a model's part.

    Args:
        study: what was found.
        model: its name.
        looks: documents with attention maps, by the record's place.
        changes: documents that change, by the comparison's place.
    """
    parts = [
        _plateaus(study, model),
        _searches(study, model),
        _gains(study, model),
        _language(study, model),
        _attention(study, model, looks),
        _hidden(study, model),
        _format(study, model),
        _changes(study, model, changes),
    ]
    return (
        f'<section id="{anchor(model)}" data-model="{escape(model)}">\n<h2>{escape(model)}</h2>\n'
        + "\n".join(part for part in parts if part)
        + "\n</section>"
    )


def titled(found: Table | None, level: int = 4) -> str:
    """Return a table below its title; nothing for none."""
    if found is None:
        return ""
    title = escape(found.title[0].upper() + found.title[1:])
    return f"<h{level}>{title}</h{level}>\n{found.to_html()}"


def figure(svg: str, words: str, hover: Sequence[str] = (), source: str = "") -> str:
    """Return a picture that scrolls by itself where the screen is narrow; arguments as for `slim`."""
    picture = slim(svg, words, hover, source)
    return (
        f'<figure><div class="picture" role="region" tabindex="0" aria-label="{escape(words)}">{picture}</div></figure>'
    )


def _file(path: Path, words: str, hover: Sequence[str] = ()) -> str:
    return figure(inline_svg(path), words, hover, str(path))


def _point(point: Point, unit: float) -> str:
    low, high = unit * point.low, unit * point.high
    return f"cut {point.cut}: {unit * point.score:.1f} ({low:.1f} to {high:.1f})"


def _plateaus(study: Study, model: str) -> str:
    found = tables.plateaus_table(study, [model])
    if found is None:
        return ""
    pictures = [
        _file(
            one.place.folder / CURVE[1],
            f"Score over the layers that see the picture, {one.place.label}: {one.record.verdict}",
            [_point(point, 100 / one.record.perfect) for point in one.record.points],
        )
        for one in study.probes
        if one.place.model == model and (one.place.folder / CURVE[1]).is_file()
    ]
    return f"<h3>Where does the plateau begin?</h3>\n{_plots(pictures)}\n{titled(found)}"


def _searches(study: Study, model: str) -> str:
    found = tables.searches_table(study, [model])
    if found is None:
        return ""
    own = [one for one in study.searches if one.place.model == model]
    pictures = _pictures(
        (one.place, name, f"{what}, {one.place.label}; the pick is {numbers.pick_words(one.record)}")
        for one in own
        for name, what in (
            (SURFACE[1], "Gain over coefficients and start layers"),
            (SWEEP[1], "Gain over start layers"),
            (ABLATION[1], "Gain by what is merged"),
        )
    )
    edges = "".join(
        f"<li>{escape(one.place.label)}: the pick lies at the edge of what was asked:"
        f" {escape('; '.join(one.record.borders))}. Search further there.</li>"
        for one in own
        if one.record.borders
    )
    listed = f"<ul>{edges}</ul>" if edges else ""
    return f"<h3>Which recipe?</h3>\n{_plots(pictures)}\n{titled(found)}\n{listed}"


def _gains(study: Study, model: str) -> str:
    found = tables.differences_table(study, [model])
    rows = [_forest_row(line) for line in numbers.lines(study, model) if not line.base_lm]
    for search in study.searches:
        gain = numbers.unseen_gain(search)
        if search.place.model == model and gain is not None:
            rows.append(_row(search.place.label, "the search's pick, cross-fitted", gain, f"{gain.points:+.2f}"))
    if not rows:
        return ""
    order = list(dict.fromkeys(row.group for row in rows))
    rows.sort(key=lambda row: order.index(row.group))
    axis = "difference to the untouched VLM in points, with its interval; blue: better, red: worse, grey: may be none"
    drawn = draw_forest(rows, f"{model}: gains and losses", axis)
    picture = figure(bare_svg(drawn.decode()), f"Gains and losses of {model} by benchmark, as a forest plot")
    return f'<h3>What does merging gain?</h3>\n<div class="wide">{picture}</div>\n{titled(found)}'


def _language(study: Study, model: str) -> str:
    found = numbers.language(study, model)
    parts = [_language_of(model, recipe, *own) for recipe, own in found.items()]
    return f"<h3>Language lost and given back</h3>\n{''.join(parts)}" if parts else ""


def _language_of(model: str, recipe: str, lost: Sequence[Gain], back: Sequence[Gain], pictures: Sequence[Gain]) -> str:
    rows = [
        _row(group, gain.benchmark, gain, f"{gain.points:+.2f}")
        for group, gains in zip(GROUPS.values(), (lost, back, pictures), strict=True)
        for gain in gains
    ]
    drawn = draw_language(rows, f"{model}, {recipe}", (*lost, *back)[0].level)
    picture = figure(bare_svg(drawn.decode()), f"Language lost and given back, {model}, {recipe}, as a forest plot")
    missing = "" if lost else "<p>What was lost isn't known: no comparison has the base LM as a recipe.</p>"
    said = escape(say_language(lost, back, pictures))
    return f'<p>{said}</p>\n{missing}<div class="wide">{picture}</div>'


def _attention(study: Study, model: str, looks: Mapping[Place, Sequence[ShownDocument]]) -> str:
    own = [one for one in study.attention if one.place.model == model]
    if not own:
        return ""
    parts = ["<h3>Where do the layers look?</h3>"]
    for one in own:
        parts.append(f"<h4>{escape(one.place.label)}</h4>")
        parts.append(_listed(one.record.findings))
        parts.append(
            _plots(
                _pictures(
                    (one.place, name, f"{what} by layer, before and after, {one.place.label}")
                    for name, what in (
                        (curve_files("mass")[1], "Attention on the picture"),
                        (curve_files("inside")[1], "Attention on the right place"),
                    )
                )
            )
        )
        parts += _maps(one, looks.get(one.place, ()))
    return "\n".join(filter(None, parts))


def _maps(one: Of[Attention], shown: Sequence[ShownDocument]) -> list[str]:
    if not shown:
        return []
    layer = one.record.telling_layer(numbers.MERGED)
    documents = "".join(look_part(document, layer) for document in shown)
    noun = "document" if len(shown) == 1 else "documents"
    rule = (
        "Documents are chosen by their number, of each kind the first: answers that the merge made better, worse, or"
        " left alike. The more colour, the more attention; in the difference orange is more, blue less; outlined in"
        " green is the right place, where it is known. Layers share no scale."
    )
    summary = f"<summary>{len(shown)} {noun} with maps of every layer</summary>"
    return [f'<details>{summary}<p class="quiet">{rule}</p>{documents}</details>']


def _hidden(study: Study, model: str) -> str:
    own = [one for one in study.hidden if one.place.model == model]
    if not own:
        return ""
    parts = ["<h3>Where is the picture needed?</h3>"]
    for one in own:
        parts.append(f"<h4>{escape(one.record.task)}</h4>{_listed(one.record.findings)}")
        parts.append(
            _plots(_pictures([(one.place, VISIBILITY[1], f"Scores by where the picture is hidden, {one.record.task}")]))
        )
    return "\n".join(parts)


def _format(study: Study, model: str) -> str:
    found = tables.audit_table(study, model)
    if found is None:
        return ""
    warnings = list(
        dict.fromkeys(
            warning
            for one in study.comparisons
            if one.place.model == model
            for audited in one.record.audits
            if audited.metric == one.record.differences[0].metric
            for warning in audited.warnings
        )
    )
    listed = "".join(f"<li>Warning: {escape(line)}.</li>" for line in warnings)
    return f"<h3>Other answers, or another format?</h3>\n{f'<ul>{listed}</ul>' if listed else ''}{titled(found)}"


def _changes(study: Study, model: str, changes: Mapping[Place, Changes]) -> str:
    own = [
        changes_part(changes[one.place])
        for one in study.comparisons
        if one.place.model == model and one.place in changes
    ]
    return f"<h3>Documents that change</h3>\n{''.join(own)}" if own else ""


def _pictures(wanted: Iterable[tuple[Place, str, str]]) -> list[str]:
    return [_file(place.folder / name, words) for place, name, words in wanted if (place.folder / name).is_file()]


def _plots(figures: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _listed(findings: Sequence[str]) -> str:
    """Return findings as a list, the first of them at once and the others folded."""

    def items(lines: Sequence[str]) -> str:
        return (
            '<ul class="found">'
            + "".join(f"<li>{escape(line[0].upper() + line[1:])}.</li>" for line in lines)
            + "</ul>"
        )

    if not findings:
        return ""
    first, others = findings[:_MOST_FINDINGS], findings[_MOST_FINDINGS:]
    folded = f"<details><summary>{len(others)} more findings</summary>{items(others)}</details>" if others else ""
    return items(first) + folded


def _forest_row(line: numbers.Line) -> ForestRow:
    words = f"{line.gain.points:+.2f}  p {p_text(line.difference.p_value) or 'none'}"
    words += "  tuned here" if line.tuned_here else ""
    return _row(line.place.label, line.variant, line.gain, words)


def _row(group: str, label: str, gain: Gain, words: str) -> ForestRow:
    return ForestRow(group, label, gain.points, gain.low, gain.high, True, words)
