"""What `plam compare` says: JSON records, a table, and a folder with a forest plot and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_plam.files import write_bytes, write_text
from lmms_plam.report.changes import changes_to_html
from lmms_plam.report.forest import ForestRow, draw_forest
from lmms_plam.report.page import page
from lmms_plam.report.tables import Table
from lmms_plam.scoring.changes import Changes
from lmms_plam.stats.results import Result

FOREST = "forest.png"
FILES = (FOREST, "forest.svg", *(f"comparison.{kind}" for kind in ("json", "csv", "md", "html")))
"""What `write` writes."""


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one flat record for each task and metric, as `--json` prints them; null where nothing can be said."""
    return [_record(result) for result in results]


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


def _without_notes(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "notes"}


def _details(result: Result) -> dict[str, Any]:
    found = result.comparison
    return {
        "reference": found.reference,
        "variant": found.variant,
        "estimand": found.difference.estimand,
        "standard_error": found.difference.standard_error,
        "detectable": found.detectable,
        "holm_p": result.holm_p,
        "better_p": result.better_p,
        "higher_is_better": result.higher_is_better,
        "mcnemar_p": found.mcnemar_p,
        "strata": found.difference.strata,
        "notes": result.notes,
    }


def table(results: Sequence[Result], left_out: Sequence[str] = ()) -> Table:
    """Return the comparison as a table for people, with a line for each task that is left out."""
    first = results[0].comparison
    rows = []
    for result in results:
        found, unit = result.comparison, decimals(result.perfect)
        low, high = found.difference.ci_low, found.difference.ci_high
        rows.append(
            (
                result.task,
                result.metric,
                f"{found.a:.{unit}f}",
                f"{found.b:.{unit}f}",
                f"{found.difference.value:+.{unit}f}",
                "none" if low is None or high is None else f"{low:+.{unit}f} to {high:+.{unit}f}",
                found.difference.method.removesuffix(" bootstrap"),
                p_text(found.p_value),
                p_text(result.holm_p),
                p_text(found.mcnemar_p),
                "" if found.detectable is None else f"{found.detectable:.{unit}f}",
                f"{found.difference.n:,}",
                f"{found.difference.clusters:,}",
            )
        )
    interval = f"{first.difference.level:.0%} interval"
    numbers = ("difference", interval, "method", "p", "Holm p", "McNemar p", "detectable", "documents", "clusters")
    return Table(
        title=_title(results),
        columns=(
            "task",
            "metric",
            first.reference,
            first.variant if len(_variants(results)) == 1 else "variant",
            *numbers,
        ),
        rows=rows,
        notes=(*_method(results), *_notes(results), *left_out),
        labels=2,
    )


def forest(results: Sequence[Result], kind: str = "svg") -> bytes:
    """Draw each metric's difference in points, hundredths of the metric's perfect score."""
    first = results[0].comparison
    rows = []
    for result in results:
        found, point = result.comparison.difference, 100 / result.perfect
        rows.append(
            ForestRow(
                label=result.task if result.headline else f"{result.task}: {result.metric}",
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
    return draw_forest(rows, _title(results), axis, kind)


def write(
    results: Sequence[Result],
    folder: Path,
    changes: Iterable[Changes] = (),
    left_out: Sequence[str] = (),
    fragments: Sequence[str] = (),
) -> None:
    """Write comparison.json (the records and all else that is known), .csv, .md, .html and the forest plot.

    Args:
        results: what was compared.
        folder: where the files go.
        changes: documents that the page shows below.
        left_out: a line for each task that is left out.
        fragments: HTML that the page shows between table and documents.
    """
    found = table(results, left_out)
    full = [record | _details(result) for record, result in zip(records(results), results, strict=True)]
    write_text(folder / "comparison.json", json.dumps(full, indent=2) + "\n")
    write_text(folder / "comparison.csv", to_csv([_without_notes(row) for row in full]))
    write_text(folder / "comparison.md", found.to_markdown())
    svg = forest(results).decode()
    write_text(folder / "forest.svg", svg)
    write_bytes(folder / FOREST, forest(results, "png"))
    picture = svg[svg.index("<svg") :]
    shown = [picture, found.to_html(), *fragments, *map(changes_to_html, changes)]
    write_text(folder / "comparison.html", page(found.title, shown, "made by lmms-plam"))


def _variants(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.comparison.variant for result in results))


def _title(results: Sequence[Result]) -> str:
    return f"{', '.join(_variants(results))} against {results[0].comparison.reference}"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return flat records as CSV; an empty cell is null."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _method(results: Sequence[Result]) -> list[str]:
    first = results[0].comparison.difference
    family = sum(result.holm_p is not None for result in results)
    holm = f"; Holm over the {family} differences in a first metric" if family > 1 else ""
    return [
        f"interval: bootstrap of clusters, {first.draws:,} draws, seed {first.seed};"
        " BCa, or percentile with tails as wide as a t interval's where few clusters bear on the difference",
        f"p: sign flips of whole clusters, two-sided mid-p{holm}",
        "detectable: the true difference that would be found with power 0.8",
    ]


def _notes(results: Sequence[Result]) -> list[str]:
    """Return what was estimated and what to know of it, each line once, with the metrics that it is about."""
    metrics: dict[str, list[str]] = {}
    about: dict[tuple[str, str], list[str]] = {}
    for result in results:
        metrics.setdefault(result.task, []).append(result.metric)
        downwards = () if result.higher_is_better else ("lower is better",)
        for note in (result.comparison.difference.estimand, *downwards, *result.notes):
            about.setdefault((result.task, note), []).append(result.metric)
    return [
        f"{task}: {note}" if named == metrics[task] else f"{task} ({', '.join(named)}): {note}"
        for (task, note), named in about.items()
    ]


def decimals(perfect: float) -> int:
    """Return with how many decimals a score is shown, given that of a perfect run."""
    return 4 if perfect <= 1 else 2 if perfect <= 100 else 1


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


def p_text(value: float | None) -> str:
    """Return a p-value in four decimals, empty for none."""
    return "" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"
