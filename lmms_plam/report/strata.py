"""A difference stratum by stratum, said to be exploratory: tables for people, records for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_plam.report.numbers import decimals, interval_text, p_text
from lmms_plam.report.tables import Table
from lmms_plam.stats.results import Result

EXPLORATORY = "exploratory"


def strata_tables(results: Sequence[Result]) -> list[Table]:
    """Return a table for each difference whose benchmark has strata, the strata as rows."""
    return [_table(result) for result in results if result.strata]


def strata_records(result: Result) -> list[dict[str, Any]]:
    """Return a flat record for each stratum of a result."""
    return [
        {
            "stratum": one.stratum,
            "a": one.comparison.a,
            "b": one.comparison.b,
            "difference": one.comparison.difference.value,
            "ci_low": one.comparison.difference.ci_low,
            "ci_high": one.comparison.difference.ci_high,
            "p_value": one.comparison.p_value,
            "bh_p": one.bh_p,
            "n": one.comparison.difference.n,
            "clusters": one.comparison.difference.clusters,
            "method": one.comparison.difference.method,
        }
        for one in result.strata
    ]


def _table(result: Result) -> Table:
    whole, unit = result.comparison, decimals(result.perfect)
    tested = sum(one.bh_p is not None for one in result.strata)
    notes = [
        f"{EXPLORATORY}: {len(result.strata)} looks at one difference, of which noise alone makes some look large; the"
        " intervals hold one by one, not together",
        f"BH p: adjusted for {tested} strata by Benjamini and Hochberg, the share of false finds that goes with it",
    ]
    return Table(
        title=f"{result.task}, {result.metric} by stratum: {whole.variant} against {whole.reference} ({EXPLORATORY})",
        columns=(
            "stratum",
            "difference",
            f"{whole.difference.level:.0%} interval",
            "p",
            "BH p",
            whole.reference,
            whole.variant,
            "documents",
            "clusters",
        ),
        rows=[
            (
                one.stratum,
                f"{one.comparison.difference.value:+.{unit}f}",
                interval_text(one.comparison.difference, unit),
                p_text(one.comparison.p_value),
                p_text(one.bh_p),
                f"{one.comparison.a:.{unit}f}",
                f"{one.comparison.b:.{unit}f}",
                f"{one.comparison.difference.n:,}",
                f"{one.comparison.difference.clusters:,}",
            )
            for one in result.strata
        ],
        notes=notes,
        together=2,
    )
