"""What `plam compare` says: JSON records, a table, and a folder with a forest plot and a page."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_plam.files import write_bytes, write_text
from lmms_plam.report.changes import changes_to_html
from lmms_plam.report.forest import ForestRow, draw_forest
from lmms_plam.report.numbers import decimals, interval_text, p_text
from lmms_plam.report.page import inline_svg, page
from lmms_plam.report.strata import EXPLORATORY, strata_records, strata_tables
from lmms_plam.report.tables import Table
from lmms_plam.scoring.changes import Changes
from lmms_plam.stats.results import Result

FOREST = "forest.png"
FILES = (FOREST, "forest.svg", *(f"comparison.{kind}" for kind in ("json", "csv", "md", "html")))
"""What `write` writes."""

_MOST_ROWS, _MOST_NAMED = 60, 4
"""So many differences in the picture, and variants in a title, can be read."""


def records(results: Sequence[Result], *, named: bool = False) -> list[dict[str, Any]]:
    """Return one flat record for each task and metric, as `--json` prints them; null where nothing can be said.

    Args:
        results: what was compared.
        named: also say what is compared with what, where that isn't the same for all.
    """
    return [_record(result) | (_names(result) if named else {}) for result in results]


def _names(result: Result) -> dict[str, Any]:
    return {"reference": result.comparison.reference, "variant": result.comparison.variant}


def _record(result: Result) -> dict[str, Any]:
    found, difference = result.comparison, result.comparison.difference
    return {
        "task": result.task,
        "metric": result.metric,
        "a": found.a,
        "b": found.b,
        "difference": difference.value,
        "ci_low": difference.ci_low,
        "ci_high": difference.ci_high,
        "p_value": found.p_value,
        "n": difference.n,
        "clusters": difference.clusters,
        "method": difference.method,
        "level": difference.level,
        "draws": difference.draws,
        "seed": difference.seed,
    }


def _details(result: Result) -> dict[str, Any]:
    found = result.comparison
    return {
        "estimand": found.difference.estimand,
        "standard_error": found.difference.standard_error,
        "detectable": found.detectable,
        "holm_p": result.holm_p,
        "better_p": result.better_p,
        "higher_is_better": result.higher_is_better,
        "perfect": result.perfect,
        "mcnemar_p": found.mcnemar_p,
        "strata": found.difference.strata,
        "by_stratum": [{**one, EXPLORATORY: True} for one in strata_records(result)],
        "notes": result.notes,
    }


def table(results: Sequence[Result], left_out: Sequence[str] = ()) -> Table:
    """Return the comparison as a table for people, with a line for each task that is left out."""
    first = results[0].comparison
    several = len(_variants(results)) > 1
    rows = []
    for result in results:
        found, unit = result.comparison, decimals(result.perfect)
        rows.append(
            (
                result.task,
                *([found.variant] if several else []),
                result.metric,
                f"{found.difference.value:+.{unit}f}",
                interval_text(found.difference, unit),
                p_text(found.p_value),
                p_text(result.holm_p),
                *([p_text(result.better_p)] if several else []),
                f"{found.a:.{unit}f}",
                f"{found.b:.{unit}f}",
                p_text(found.mcnemar_p),
                "" if found.detectable is None else f"{found.detectable:.{unit}f}",
                found.difference.method.removesuffix(" bootstrap"),
                f"{found.difference.n:,}",
                f"{found.difference.clusters:,}",
            )
        )
    return Table(
        title=_title(results),
        columns=(
            "task",
            *(["variant"] if several else []),
            "metric",
            "difference",
            f"{first.difference.level:.0%} interval",
            "p",
            "Holm p",
            *(["max-T p"] if several else []),
            first.reference,
            "score" if several else first.variant,
            "McNemar p",
            "detectable",
            "method",
            "documents",
            "clusters",
        ),
        rows=rows,
        notes=(*_method(results), *_notes(results), *left_out),
        labels=3 if several else 2,
        together=2,
    ).without_empty_columns()


def forest(results: Sequence[Result], kind: str = "svg", about: str = "") -> bytes:
    """Draw each metric's difference in points, hundredths of the metric's perfect score, grouped by task.

    Args:
        results: what was compared.
        kind: `svg` or `png`.
        about: which model answered and when, for the title.
    """
    first = results[0].comparison
    tasks = list(dict.fromkeys(result.task for result in results))
    ordered = sorted(results, key=lambda result: (tasks.index(result.task), not result.headline))
    names = {task: [result for result in results if result.task == task] for task in tasks}
    rows = []
    for result in ordered[:_MOST_ROWS]:
        found, point = result.comparison.difference, 100 / result.perfect
        rows.append(
            ForestRow(
                group=result.task,
                label=_label(result, names[result.task]),
                value=found.value * point,
                low=None if found.ci_low is None else found.ci_low * point,
                high=None if found.ci_high is None else found.ci_high * point,
                higher_is_better=result.higher_is_better,
                words=f"{found.value * point:+.2f}  {_p_words(result)}",
            )
        )
    axis = (
        f"difference in points (hundredths of a perfect score), {first.difference.level:.0%} interval;"
        " blue: better, red: worse, grey: may be none"
    )
    if len(results) > len(rows):
        axis += f"; {len(rows)} of {len(results)} differences, the others are in the tables"
    return draw_forest(rows, _title(results) + (f" ({about})" if about else ""), axis, kind)


def _label(result: Result, others: Sequence[Result]) -> str:
    """Return what tells a result from the others of its task: the variant, the metric, or both."""
    parts = [result.comparison.variant] if len(_variants(others)) > 1 else []
    if len({other.metric for other in others}) > 1:
        parts.append(result.metric)
    return ", ".join(parts)


def write(
    results: Sequence[Result],
    folder: Path,
    changes: Iterable[Changes] = (),
    left_out: Sequence[str] = (),
    fragments: Sequence[str] = (),
    about: str = "",
) -> None:
    """Write comparison.json (the records and all else that is known), .csv, .md, .html and the forest plot.

    Args:
        results: what was compared.
        folder: where the files go.
        changes: documents that the page shows below.
        left_out: a line for each task that is left out.
        fragments: HTML that the page shows between table and documents.
        about: which model answered and when, for picture and page.
    """
    found, by_stratum = table(results, left_out), strata_tables(results)
    full = [record | _details(result) for record, result in zip(records(results, named=True), results, strict=True)]
    write_text(folder / "comparison.json", json.dumps(full, indent=2) + "\n")
    write_text(folder / "comparison.csv", to_csv(list(_flat(results))))
    write_text(folder / "comparison.md", "\n".join(one.to_markdown() for one in (found, *by_stratum)))
    write_bytes(folder / "forest.svg", forest(results, about=about))
    write_bytes(folder / FOREST, forest(results, "png", about))
    strata = [f"<h2>{html.escape(one.title)}</h2>\n{one.to_html()}" for one in by_stratum]
    shown = [inline_svg(folder / "forest.svg"), found.to_html(), *fragments, *strata, *map(changes_to_html, changes)]
    write_text(folder / "comparison.html", page(found.title, shown, about=about))


def _flat(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield a row for each result and, after it, for each of its strata; cells that it hasn't are left out."""
    for result, record in zip(results, records(results, named=True), strict=True):
        details = {name: value for name, value in _details(result).items() if name not in ("notes", "by_stratum")}
        yield {**record, **details, "stratum": None, "bh_p": None}
        known = {name: record[name] for name in ("task", "metric", "reference", "variant", "level", "draws", "seed")}
        yield from ({**known, **one} for one in strata_records(result))


def _variants(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.comparison.variant for result in results))


def _title(results: Sequence[Result]) -> str:
    variants = _variants(results)
    named = ", ".join(variants) if len(variants) <= _MOST_NAMED else f"{len(variants)} variants"
    return f"{named} against {results[0].comparison.reference}"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return flat records as CSV; an empty cell is null."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _method(results: Sequence[Result]) -> list[str]:
    first = results[0].comparison.difference
    family = sum(result.holm_p is not None for result in results)
    holm = f"; Holm over the {family} differences in a first metric" if family > 1 else ""
    return [
        f"interval: bootstrap of clusters, {first.draws:,} draws, seed {first.seed};"
        " BCa, or where few clusters bear on the difference percentile, with one gain and one loss more than"
        " were seen, and tails as wide as a t interval's",
        f"p: sign flips of whole clusters, two-sided mid-p{holm}",
        "detectable: the true difference that would be found with power 0.8",
    ]


def _notes(results: Sequence[Result]) -> list[str]:
    """Return what was estimated and what to know of it, each line once, with the differences that it is about."""
    about: dict[str, list[Result]] = {}
    for result in results:
        downwards = () if result.higher_is_better else ("lower is better",)
        for note in dict.fromkeys((result.comparison.difference.estimand, *downwards, *result.notes)):
            about.setdefault(note, []).append(result)
    said = [f"{whom}: {note}" if (whom := _whom(told, results)) else note for note, told in about.items()]
    for task in dict.fromkeys(result.task for result in results):
        headlines = [result for result in results if result.task == task and result.headline]
        adjusted = [result.better_p for result in headlines if result.better_p is not None]
        if len(adjusted) > 1:
            said.append(f"{task}: is any of the {len(adjusted)} recipes better? p {p_text(min(adjusted))} (max-T)")
    return said


def _whom(told: Sequence[Result], results: Sequence[Result]) -> str:
    """Name the differences that a note is about, as shortly as can be: none if all are, else tasks, else which."""
    if len(told) == len(results) and len({result.task for result in results}) > 1:
        return ""
    named = []
    for task in dict.fromkeys(result.task for result in told):
        own, own_told = ([one for one in some if one.task == task] for some in (results, told))
        which = list(dict.fromkeys(filter(None, (_label(one, own) for one in own_told))))
        if len(own_told) == len(own):
            named.append(task)
        elif len(which) <= _MOST_NAMED:
            named.append(f"{task} ({'; '.join(which)})")
        else:
            named.append(f"{task} ({len(own_told)} of {len(own)} differences)")
    return ", ".join(named)


def in_words(result: Result) -> str:
    """Return a result in one line: variant minus reference, interval, p-value."""
    found, unit = result.comparison, decimals(result.perfect)
    low, high = found.difference.ci_low, found.difference.ci_high
    interval = "no interval" if low is None or high is None else f"{low:+.{unit}f} to {high:+.{unit}f}"
    return (
        f"{found.variant} {found.b:.{unit}f} against {found.reference} {found.a:.{unit}f} in {result.metric}: "
        f"{found.difference.value:+.{unit}f} ({found.difference.level:.0%} interval {interval}; {_p_words(result)})"
    )


def _p_words(result: Result) -> str:
    if result.comparison.p_value is None:
        return "no p-value"
    holm = "" if result.holm_p in (None, result.comparison.p_value) else f", Holm {p_text(result.holm_p)}"
    return f"p {p_text(result.comparison.p_value)}{holm}"
