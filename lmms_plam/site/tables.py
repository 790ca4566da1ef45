"""A study's numbers as tables, which stand on the page and, in Markdown and LaTeX, beside it."""

from __future__ import annotations

from collections.abc import Sequence

from lmms_plam.audit.parts import KINDS
from lmms_plam.report.numbers import decimals, p_text
from lmms_plam.report.tables import Table
from lmms_plam.site.found import Study
from lmms_plam.site.numbers import (
    MERGED,
    Line,
    judged,
    lines,
    perfect_of,
    pick_words,
    recipe_of,
    unseen_gain,
)
from lmms_plam.site.words import Gain, mean_of

_MINUTE = 60


def gains_table(study: Study) -> Table | None:
    """Return models x benchmarks: each merge's gain with its interval, and the mean; None without any."""
    every = {model: judged(study, model) for model in study.models}
    benchmarks = sorted({gain.benchmark for own in every.values() for gains in own.values() for gain in gains})
    rows = []
    for model, own in every.items():
        for recipe, gains in own.items():
            by_benchmark = {gain.benchmark: gain for gain in gains}
            mean = mean_of(gains)
            rows.append(
                (
                    model,
                    recipe,
                    "" if mean is None else f"{mean.points:+.2f}\n{mean.low:+.2f} to {mean.high:+.2f}",
                    *(_gain_cell(by_benchmark.get(name)) for name in benchmarks),
                )
            )
    if not rows:
        return None
    return Table(
        title="gains over the untouched VLM, in points",
        columns=("model", "merged", "mean", *benchmarks),
        rows=rows,
        notes=(
            "points: hundredths of a perfect score, with 95% intervals; *: the interval lies on one side of 0",
            "no document chose the recipe that it judges: where the merge is a search's pick on the same benchmark, the"
            " number is the search's, by cross-fitting (marked: cross-fitted)",
            "same documents: the recipe was chosen on them as another benchmark asks them",
            "mean: over the model's benchmarks, all alike",
        ),
        labels=2,
    ).without_empty_columns()


def differences_table(study: Study, models: Sequence[str]) -> Table | None:
    """Return every variant's headline difference on every benchmark; None without any."""
    rows = []
    for model in models:
        for line in lines(study, model):
            rows.append((*([model] if len(models) > 1 else []), *_difference_row(line)))
    if not rows:
        return None
    return Table(
        title="differences to the untouched VLM",
        columns=(
            *(["model"] if len(models) > 1 else []),
            "benchmark",
            "variant",
            "metric",
            "reference",
            "score",
            "points",
            "interval",
            "p",
            "documents",
            "",
        ),
        rows=rows,
        notes=("reference and score in the metric's own unit; points: hundredths of a perfect score, above 0 better",),
        labels=4 if len(models) > 1 else 3,
    ).without_empty_columns()


def plateaus_table(study: Study, models: Sequence[str]) -> Table | None:
    """Return what the probes found; None without any."""
    rows = []
    for one in study.probes:
        if one.place.model not in models:
            continue
        found = one.record
        low, high = found.interval
        rows.append(
            (
                *([one.place.model] if len(models) > 1 else []),
                one.place.label,
                found.verdict,
                "none" if found.onset is None else str(found.onset),
                "" if found.onset is None else f"{low} to {high}",
                f"{found.depth}",
                f"{100 * found.full / found.perfect:.1f}",
                f"{found.n_documents:,}",
            )
        )
    if not rows:
        return None
    level = study.probes[0].record.level
    return Table(
        title="where plateaus begin",
        columns=(
            *(["model"] if len(models) > 1 else []),
            "benchmark",
            "verdict",
            "onset k*",
            f"{level:.0%} interval",
            "layers",
            "score, %",
            "documents",
        ),
        rows=rows,
        notes=("onset k*: the first layer from which on the picture can be hidden without loss",),
        labels=3 if len(models) > 1 else 2,
    )


def searches_table(study: Study, models: Sequence[str]) -> Table | None:
    """Return what the searches picked, and what it is worth; None without any."""
    rows = []
    for one in study.searches:
        if one.place.model not in models:
            continue
        record, gain = one.record, unseen_gain(one)
        rows.append(
            (
                *([one.place.model] if len(models) > 1 else []),
                one.place.label,
                pick_words(record),
                "" if gain is None else f"{gain.points:+.2f}",
                "" if gain is None else _interval(gain),
                p_text(record.any_better_p),
                p_text(record.better_than_scaled_p),
                f"{len(record.recipes)}",
                f"{len(record.near_best)}",
                f"{record.n_documents:,}",
            )
        )
    if not rows:
        return None
    return Table(
        title="what searches picked",
        columns=(
            *(["model"] if len(models) > 1 else []),
            "tuned on",
            "pick",
            "gain, unseen",
            "interval",
            "any better? p",
            "better than\nscaled? p",
            "recipes",
            "within noise",
            "documents",
        ),
        rows=rows,
        notes=(
            "gain, unseen: in points, on documents that the choice did not see, by cross-fitting",
            "any better: than the untouched VLM, adjusted for looking at all recipes; scaled: the VLM times the sum of"
            " the coefficients, without a base LM",
        ),
        labels=3 if len(models) > 1 else 2,
    ).without_empty_columns()


def transfer_table(study: Study, model: str) -> Table | None:
    """Return what a recipe tuned on the row gains on the column, in points; None where nothing is known.

    Both what searches say of each other, and comparisons whose recipe is the pick of a search on another benchmark.
    """
    found: dict[str, dict[str, str]] = {}
    own = [search for search in study.searches if search.place.model == model]
    by_task = {search.record.task: search for search in own}
    for search in own:
        unseen = unseen_gain(search)
        if unseen is not None:
            found.setdefault(search.place.label, {})[search.place.label] = _gain_cell(unseen)
        for cell in search.record.transfer:
            other = by_task.get(cell.scored_on)
            if other is None or cell.gain is None:
                continue
            low, high = (None if end is None else end * other.record.points for end in (cell.ci_low, cell.ci_high))
            gain = Gain("", cell.gain * other.record.points, low, high)
            found.setdefault(search.place.label, {})[other.place.label] = _gain_cell(gain)
    for line in lines(study, model):
        for search in own:
            if line.variant == MERGED and line.recipe == recipe_of(search.record) and not line.tuned_here:
                found.setdefault(search.place.label, {}).setdefault(line.place.label, _gain_cell(line.gain))
    columns = sorted({name for cells in found.values() for name in cells})
    if len(columns) < 2:
        return None
    return Table(
        title=f"transfer, {model}: the gain of the recipe tuned on the row, on the column",
        columns=("tuned on", *columns),
        rows=[(name, *(cells.get(column, "not asked") for column in columns)) for name, cells in found.items()],
        notes=("in points, with intervals; no document was both tuned on and scored, unless it is said",),
    )


def audit_table(study: Study, model: str) -> Table | None:
    """Return how much of each difference is answers read alike, and how much is format; None without an audit."""
    rows = []
    for one in study.comparisons:
        if one.place.model != model:
            continue
        for audited in one.record.audits:
            headline = one.record.differences[0]
            merged = audited.variant == MERGED or one.record.saved is None
            if audited.metric != headline.metric or not merged or audited.missing:
                continue
            points = 100 / perfect_of(one.record, headline)
            for part in audited.parts:
                if part.documents:
                    rows.append(
                        (
                            one.place.label,
                            KINDS.get(part.part, part.part),
                            f"{part.documents:,}",
                            f"{part.gained:,}",
                            f"{part.lost:,}",
                            f"{points * part.difference:+.2f}",
                        )
                    )
    if not rows:
        return None
    return Table(
        title="format audit: the answers' part in each difference",
        columns=("benchmark", "answers of untouched and merged model", "documents", "gained", "lost", "points"),
        rows=rows,
        notes=("the parts of a benchmark sum to its difference",),
        labels=2,
    )


def cost_table(study: Study) -> Table | None:
    """Return what each run took; None without runs."""
    if not study.runs:
        return None
    rows = [
        (
            run.cell,
            run.model,
            ", ".join(run.tasks) if len(run.tasks) < 4 else f"{len(run.tasks)} tasks",
            run.date,
            f"{run.documents:,}",
            "" if run.seconds is None else _duration(run.seconds),
            "" if run.manifest is None or run.manifest.code is None else str(run.manifest.code),
        )
        for run in study.finished
    ]
    known = [run.seconds for run in study.finished if run.seconds is not None]
    documents = sum(run.documents for run in study.finished)
    whole = f"together: {documents:,} documents" + (f", {_duration(sum(known))}" if known else "")
    return Table(
        title="what it cost",
        columns=("run", "model", "tasks", "date", "documents", "time", "exit code"),
        rows=rows,
        notes=(whole, "documents: over all tasks, each asked once for all of a family's variants; time: on the clock"),
        labels=4,
    ).without_empty_columns()


def _difference_row(line: Line) -> tuple[str, ...]:
    one, gain = line.difference, line.gain
    unit = decimals(one.perfect or 1.0)
    note = "tuned here" if line.tuned_here else "the base LM" if line.base_lm else ""
    note = "chosen on the same documents" if gain.shared else note
    return (
        line.place.label,
        line.variant,
        one.metric,
        f"{one.a:.{unit}f}",
        f"{one.b:.{unit}f}",
        f"{gain.points:+.2f}",
        _interval(gain),
        p_text(one.p_value),
        f"{one.n:,}",
        note,
    )


def _gain_cell(gain: Gain | None) -> str:
    if gain is None:
        return "not asked"
    note = "\ncross-fitted" if gain.cross_fitted else "\nsame documents" if gain.shared else ""
    return f"{gain.points:+.2f}{'*' if gain.sign else ''}\n{_interval(gain)}{note}"


def _interval(gain: Gain) -> str:
    return "no interval" if gain.low is None or gain.high is None else f"{gain.low:+.2f} to {gain.high:+.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
