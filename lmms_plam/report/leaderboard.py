"""What `plam leaderboard` says: models x benchmarks with intervals, ranks and differences to a reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_plam.files import write_text
from lmms_plam.report.comparison import to_csv
from lmms_plam.report.numbers import decimals, p_text
from lmms_plam.report.page import page
from lmms_plam.report.tables import Table
from lmms_plam.stats.results import Standing


def records(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Return one flat record for each model and benchmark, the best model first; null where nothing can be said."""
    ordered, _ = _ordered(standings)
    place = {model: (rank, mean) for rank, (model, mean) in enumerate(ordered, start=1)}
    found = sorted(standings, key=lambda standing: place[standing.model][0])
    return [
        _record(standing)
        | {"described": standing.described, "rank": place[standing.model][0], "mean": place[standing.model][1]}
        for standing in found
    ]


def _record(standing: Standing) -> dict[str, Any]:
    score, compared = standing.score, standing.comparison
    return {
        "model": standing.model,
        "task": standing.task,
        "metric": standing.metric,
        "score": score.value,
        "ci_low": score.ci_low,
        "ci_high": score.ci_high,
        "best_rank": standing.best_rank,
        "worst_rank": standing.worst_rank,
        "reference": compared.reference if compared else None,
        "difference": compared.difference.value if compared else None,
        "difference_ci_low": compared.difference.ci_low if compared else None,
        "difference_ci_high": compared.difference.ci_high if compared else None,
        "p_value": compared.p_value if compared else None,
        "holm_p": standing.holm_p,
        "bh_p": standing.bh_p,
        "better_p": standing.better_p,
        "estimand": score.estimand,
        "n": score.n,
        "clusters": score.clusters,
        "method": score.method,
        "level": score.level,
        "draws": score.draws,
        "seed": score.seed,
    }


def table(standings: Sequence[Standing], reference: str | None, left_out: Sequence[str] = ()) -> Table:
    """Return models x benchmarks; in a cell the score with its interval, the ranks, the difference to the reference.

    `left_out` has a line for whatever is missing.
    """
    level = standings[0].score.level
    cells = {(standing.model, standing.task): standing for standing in standings}
    ordered, counted = _ordered(standings)
    tasks = list(dict.fromkeys(standing.task for standing in standings))
    compared = sum(standing.holm_p is not None for standing in standings)
    notes = [
        f"each cell: score [{level:.0%} interval]; places it could hold"
        + (f"; paired difference to {reference} [{level:.0%} interval]" if reference else "")
    ]
    if counted:
        over = "" if len(tasks) == 1 else f" over {', '.join(counted)}" if len(counted) < len(tasks) else " over all"
        notes.append(f"mean: of the scores in hundredths of a perfect score{over}; it gives the order")
    elif len(ordered) > 1:
        notes.append("no benchmark has all models: no mean, and the order is that of their mean place where they are")
    if compared:
        holm = f" after Holm's adjustment over all {compared} differences" if compared > 1 else ""
        notes.append(f"*: p < {1 - level:.2g}{holm}")
    notes += [
        f"{task}: is any model better than {reference}? p {p_text(min(found))} (max-T over {len(found)} models)"
        for task in tasks
        if len(found := [each.better_p for each in standings if each.task == task and each.better_p is not None]) > 1
    ]
    first = standings[0].score
    notes.append(
        f"{first.draws:,} bootstrap draws over clusters, the same for all models of a benchmark; seed {first.seed}"
    )
    about: dict[str, dict[str, None]] = {}
    for standing in standings:
        for note in standing.notes:
            about.setdefault(note, {})[standing.task] = None
    notes += [note if len(told) == len(tasks) > 1 else f"{', '.join(told)}: {note}" for note, told in about.items()]
    described = {standing.model: standing.described for standing in standings if standing.described}
    notes += [f"{model} is {described[model]}" for model, _ in ordered if described.get(model, model) != model]
    notes += left_out
    return Table(
        title="Leaderboard" if reference is None else f"Leaderboard, differences to {reference}",
        columns=("rank", "model", "mean", *(f"{task}\n{_metric(standings, task)}" for task in tasks)),
        rows=[
            (
                str(rank),
                model,
                "" if mean is None else f"{mean:.2f}",
                *(_cell(cells.get((model, task))) for task in tasks),
            )
            for rank, (model, mean) in enumerate(ordered, start=1)
        ],
        notes=notes,
        labels=2,
    ).without_empty_columns()


def write(standings: Sequence[Standing], reference: str | None, folder: Path, left_out: Sequence[str] = ()) -> None:
    """Write leaderboard.json, .csv, .md and .html."""
    found = table(standings, reference, left_out)
    write_text(folder / "leaderboard.json", json.dumps(records(standings), indent=2) + "\n")
    write_text(folder / "leaderboard.csv", to_csv(records(standings)))
    write_text(folder / "leaderboard.md", found.to_markdown())
    write_text(folder / "leaderboard.html", page(found.title, [found.to_html()], "by `plam leaderboard`"))


def _ordered(standings: Sequence[Standing]) -> tuple[list[tuple[str, float | None]], list[str]]:
    """Return the models with their mean scores in points, the best first, and the benchmarks that the means are over.

    These are the benchmarks that all models have, and of which a higher score is better. Where there is none, the order
    is that of the mean of the places that the models could hold.
    """
    by_model: dict[str, dict[str, Standing]] = {}
    for standing in standings:
        by_model.setdefault(standing.model, {})[standing.task] = standing
    counted = [
        standing.task
        for standing in next(iter(by_model.values())).values()
        if standing.higher_is_better and all(standing.task in own for own in by_model.values())
    ]
    if counted:
        means = {
            model: sum(100 * own[task].score.value / own[task].perfect for task in counted) / len(counted)
            for model, own in by_model.items()
        }
        return [(model, means[model]) for model in sorted(means, key=lambda model: -means[model])], counted
    places = {
        model: sum(one.best_rank + one.worst_rank for one in own.values()) / len(own) for model, own in by_model.items()
    }
    return [(model, None) for model in sorted(places, key=lambda model: places[model])], counted


def _metric(standings: Sequence[Standing], task: str) -> str:
    return next(standing.metric for standing in standings if standing.task == task)


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return "not run"
    score, found = standing.score, standing.comparison
    number = f"{{:.{decimals(standing.perfect)}f}}"
    ranks = sorted({standing.best_rank, standing.worst_rank})
    lines = [
        number.format(score.value) + _interval(number, score.ci_low, score.ci_high),
        "place " + " to ".join(map(str, ranks)),
    ]
    if found is not None:
        signed = number.replace(":", ":+")
        star = "*" if standing.holm_p is not None and standing.holm_p < 1 - score.level else ""
        difference = found.difference
        lines.append(signed.format(difference.value) + star + _interval(signed, difference.ci_low, difference.ci_high))
    return "\n".join(lines)


def _interval(number: str, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{number.format(low)}, {number.format(high)}]"
