"""What a recipe search says: numbers, sentences, tables, a usable recipe, pictures and one page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from lmms_plam.files import write_bytes, write_text
from lmms_plam.report.forest import ForestRow, draw_forest
from lmms_plam.report.heatmap import SURFACE, draw_surface, provenance
from lmms_plam.report.numbers import decimals, p_text
from lmms_plam.report.page import inline_svg, page
from lmms_plam.report.sweep import SWEEP, draw_sweep
from lmms_plam.report.tables import Table
from lmms_plam.search.crossfit import Unseen
from lmms_plam.search.record import NOUNS, recipe_fields
from lmms_plam.search.result import SEARCH, TUNED_HERE, Measured, Search

RECIPE, PAGE = "recipe.yaml", "search.html"
ABLATION = ("ablation.png", "ablation.svg")
FILES = (SEARCH, RECIPE, PAGE, *SURFACE, *SWEEP, *ABLATION)
"""What `write` may write."""

_SHOWN = 20  # recipes in the table of picks
_LEAST_CELLS = 3  # merges that make a surface


def numbers(search: Search) -> dict[str, float | None]:
    """Return what lmms-eval's table shows of a search."""
    unseen = search.unseen
    return {
        "base": search.base,
        "pick_tuned_here": search.in_sample.score,
        "gain_unseen": unseen.gain if unseen else None,
        "gain_unseen_low": unseen.ci_low if unseen else None,
        "gain_unseen_high": unseen.ci_high if unseen else None,
        "recipes_asked": float(len(search.recipes)),
        "within_noise": float(len(search.near_best)),
    }


def sentences(search: Search) -> list[str]:
    """Return what was found, one statement a line, the most important first."""
    settings, picked = search.settings, search.in_sample
    by = "by how well neighbours' answers agree" if settings.criterion == "label-free" else f"by {search.estimand}"
    found = [f"The pick, {by}: {picked.recipe} ('{search.pick}'), of {_count(search)}."]
    if search.unseen is None:
        found.append("Too few clusters to say what it gains on documents that the choice did not see.")
    else:
        found.append(f"On documents that the choice did not see it gains {_gain(search, search.unseen)}.")
    if picked.gain is not None:
        interval = _interval(search, picked.ci_low, picked.ci_high)
        found.append(
            f"{TUNED_HERE[0].upper()}{TUNED_HERE[1:]} it scores {_signed(search, picked.gain)} more than the base,"
            f" which is no estimate of its gain ({settings.level:.0%} interval over all recipes: {interval})."
        )
    if search.any_better_p is not None:
        found.append(f"Is any recipe better than the untouched VLM? p {p_text(search.any_better_p)} (max-T).")
    if search.better_than_scaled_p is not None:
        found.append(
            "Is any better than the VLM scaled by the sum of its coefficients, without a base LM?"
            f" p {p_text(search.better_than_scaled_p)} (max-T over {search.n_controlled})."
        )
    if search.scaled is not None:
        found.append(
            f"The VLM merely scaled, at best '{search.scaled.name}', gains {_gain(search, search.scaled.unseen)} on"
            f" unseen documents; the merge is better than it by {_gain(search, search.scaled.merge_unseen)}."
        )
    sought = search.record.sought
    candidates = sum(one.recipe.kind == sought and one.recipe.dropped_after is None for one in search.recipes)
    found.append(
        f"Of {candidates} {NOUNS[sought][1]} asked on all documents, {len(search.near_best)} are within the pick's"
        " noise, itself among them."
    )
    if search.borders:
        found.append(f"The pick lies at the edge of what was asked: {'; '.join(search.borders)}. Search further there.")
    free = search.label_free
    if free is not None:
        interval = _interval(search, free.ci_low, free.ci_high)
        found.append(
            f"Without any right answer one would have picked '{free.name}', whose answers agree with its neighbours' in"
            f" {free.agreement:.1%}: {_signed(search, free.gain)} ({settings.level:.0%} interval {interval})."
        )
    if search.stability is not None:
        share = search.stability.by_bootstrap.get(search.pick, 0.0)
        found.append(f"Resampled documents pick the same recipe in {share:.0%} of the draws.")
    return [*found, *(f"{note[0].upper()}{note[1:]}." for note in search.notes)]


def table(searches: Sequence[Search]) -> Table:
    """Return a line for each search."""
    rows = []
    for search in searches:
        unseen = search.unseen
        rows.append(
            (
                search.record.task,
                f"{search.base:.{decimals(search.perfect)}f}",
                _signed(search, unseen.gain) if unseen else "",
                _interval(search, unseen.ci_low, unseen.ci_high) if unseen else "",
                f"{len(search.recipes)}",
                f"{len(search.near_best)}",
                str(search.in_sample.recipe),
            )
        )
    return Table(
        title="recipe searches",
        columns=(
            "search",
            "base",
            "gain,\nunseen",
            f"{searches[0].settings.level:.0%} interval",
            "recipes",
            "within\nnoise",
            "pick",
        ),
        rows=rows,
        notes=("gain, unseen: on documents that the choice did not see, by cross-fitting",),
    )


def transfer_table(searches: Sequence[Search]) -> Table:
    """Return the table of transfer: tuned on the row, scored on the column."""
    by_task = {search.record.task: search for search in searches}
    rows, notes = [], []
    for search in searches:
        cells = []
        for cell in search.transfer:
            other = by_task[cell.scored_on]
            if cell.gain is None:
                cells.append("none")
                notes.append(f"{cell.tuned_on} on {cell.scored_on}: {cell.how}")
                continue
            cells.append(f"{_signed(other, cell.gain)}\n{_interval(other, cell.ci_low, cell.ci_high)}")
        rows.append((search.record.task, *cells))
    level = searches[0].settings.level
    return Table(
        title="transfer: the gain of the recipe tuned on the row, scored on the column",
        columns=("tuned on", *by_task),
        rows=rows,
        notes=(
            f"{level:.0%} intervals; no document was both tuned on and scored: on the diagonal, and where two"
            " benchmarks share documents, by cross-fitting",
            *notes,
        ),
    )


def recipes_table(search: Search, most: int | None = None) -> Table:
    """Return the recipes, the best first; at most so many, the pick and the base among them."""
    kept = sorted(search.recipes, key=lambda one: (one.gain is None, -(one.gain or 0.0)))
    if most is not None and len(kept) > most:
        kept = [
            one
            for place, one in enumerate(kept)
            if place < most or one.recipe.kind == "base" or one.recipe.name == search.pick
        ]
    near = set(search.near_best)
    rows = []
    for one in kept:
        recipe = one.recipe
        words = [str(recipe.kind)] if recipe.kind != search.record.sought else []
        words += ["the pick"] if recipe.name == search.pick else []
        words += ["within noise"] if recipe.name in near and recipe.name != search.pick else []
        words += [f"dropped: {recipe.dropped_why}"] if recipe.dropped_after is not None else []
        rows.append(
            (
                recipe.name,
                str(recipe),
                "; ".join(words),
                "" if one.score is None else f"{one.score:.{decimals(search.perfect)}f}",
                "" if one.gain is None else _signed(search, one.gain),
                "" if one.ci_low is None else _interval(search, one.ci_low, one.ci_high),
                f"{one.documents:,}",
            )
        )
    left_out = len(search.recipes) - len(kept)
    sought = NOUNS[search.record.sought][1]
    notes = [f"scores and gains are {TUNED_HERE}; intervals hold for all {sought} asked on all documents at once"]
    notes += [f"{left_out} recipes with smaller gains are in {SEARCH}"] if left_out else []
    return Table(
        title="recipes",
        columns=(
            "recipe",
            "what",
            "",
            "score,\ntuned here",
            "gain,\ntuned here",
            f"{search.settings.level:.0%} interval",
            "documents",
        ),
        rows=rows,
        notes=notes,
        labels=3,
    )


def recipe_yaml(search: Search) -> str:
    """Return the pick as a model config's `merge`, with where it comes from as comments."""
    record, picked = search.record, search.in_sample
    unit = decimals(search.perfect)
    score = "" if picked.score is None else f"{picked.score:.{unit}f}"
    lines = [
        f"The pick of {record.task}: {picked.recipe}. A model config's `merge`, usable as it is.",
        f"model {record.config or 'unknown'} ({record.model or 'no fingerprint'}); {record.date or 'no date'}",
        f"searched: {record.space or 'no description'}; {_count(search)} on {search.documents:,} documents",
        "gain on documents that the choice did not see: "
        + (f"{_gain(search, search.unseen)}; {search.estimand}" if search.unseen else "unknown"),
        f"score {score} against the base's {search.base:.{unit}f}: {TUNED_HERE}, no estimate of the gain",
        f"within its noise: {len(search.near_best)} recipes",
        *(f"at the edge of what was asked: {border}" for border in search.borders),
    ]
    fields = {name: value for name, value in recipe_fields(picked.recipe).items() if value is not None}
    comments = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return comments + yaml.safe_dump(fields, sort_keys=False, default_flow_style=None)


def ablation(search: Search, kind: str = "svg") -> bytes | None:
    """Draw regions, modules and whatever else varied, at the pick's coefficients, as a forest plot.

    None where nothing varied but start layer and coefficients.
    """
    picked = search.in_sample.recipe
    alike = [
        one
        for one in search.recipes
        if one.recipe.kind == picked.kind and one.recipe.coefficients == picked.coefficients and one.gain is not None
    ]
    if len({one.recipe.plane for one in alike}) < 2:
        return None
    rows = [_forest_row(search, one) for one in alike]
    lm, vlm = picked.coefficients
    title = f"{search.record.task}: what is merged, at {lm:g} LM + {vlm:g} VLM"
    axis = (
        f"gain in points, {TUNED_HERE};\n{search.settings.level:.0%} intervals that hold for all recipes at once;"
        f" blue: better, red: worse, grey: may be none\n{provenance(search)}"
    )
    return draw_forest(rows, title, axis, kind)


def write(search: Search, folder: Path, searches: Sequence[Search] = (), fragments: Sequence[str] = ()) -> None:
    """Write the pictures, `recipe.yaml`, the page, and last `search.json`.

    Args:
        search: what was found.
        folder: where the files go.
        searches: all of a run, where there are several: the page shows their transfer.
        fragments: HTML that the page shows below the pictures.
    """
    pictures = []
    if len([one for one in search.recipes if _in_plane(search, one)]) >= _LEAST_CELLS:
        draw_surface(search, folder)
        pictures.append(SURFACE[1])
    if len(search.layers) > 1:
        draw_sweep(search, folder)
        pictures.append(SWEEP[1])
    for name in ABLATION:
        drawn = ablation(search, name.rpartition(".")[2])
        if drawn is not None:
            write_bytes(folder / name, drawn)
            pictures += [name] if name.endswith("svg") else []
    drawn_now = {name.rpartition(".")[0] for name in pictures}
    for name in (*SURFACE, *SWEEP, *ABLATION):
        if name.rpartition(".")[0] not in drawn_now:
            (folder / name).unlink(missing_ok=True)
    write_text(folder / RECIPE, recipe_yaml(search))
    write_text(folder / PAGE, _page(search, [*(inline_svg(folder / name) for name in pictures), *fragments], searches))
    search.write(folder)


def _page(search: Search, pictures: Sequence[str], searches: Sequence[Search]) -> str:
    found = "".join(f"<li>{html.escape(line)}</li>" for line in sentences(search))
    parts = [f"<ul>{found}</ul>", *pictures]
    if search.stability is not None:
        parts += ["<h2>How stable is the choice?</h2>", *map(_titled, _stability(search))]
    if len(searches) > 1:
        parts += ["<h2>Transfer</h2>", _titled(transfer_table(searches))]
    parts += [f"<h2>Recipes, {TUNED_HERE}</h2>", recipes_table(search).to_html()]
    parts += ["<h2>recipe.yaml</h2>", f"<pre>{html.escape(recipe_yaml(search))}</pre>"]
    settings, record = search.settings, search.record
    versions = ", ".join(f"{name} {number}" for name, number in search.to_dict()["versions"].items())
    plan = settings.plan
    footer = (
        f"{provenance(search)}. Space: {record.space}. Model {record.model or 'unknown'}. Cross-fitting: {plan.folds}"
        f" folds, {plan.repeats} repeats, {plan.halvings} halvings. Intervals over all recipes: max-T,"
        f" {settings.draws:,} bootstrap draws of {search.clusters:,} clusters in {search.strata} strata."
        f" Seed {settings.seed}. {versions}."
    )
    return page(f"{record.task}: recipe search", parts, footer)


def _titled(found: Table) -> str:
    return f"<h3>{html.escape(found.title[0].upper() + found.title[1:])}</h3>{found.to_html()}"


def _stability(search: Search) -> list[Table]:
    found = search.stability
    assert found is not None
    names = list(dict.fromkeys([search.pick, *found.by_bootstrap, *found.by_fold]))
    names = names[:_SHOWN]
    picks = Table(
        title="picks",
        columns=("recipe", "what", "picked by resampled\ndocuments", "picked without\na fold"),
        rows=[
            (
                name,
                str(search.measured(name).recipe),
                f"{found.by_bootstrap.get(name, 0):.1%}",
                f"{found.by_fold.get(name, 0):.1%}",
            )
            for name in names
        ],
        notes=(
            f"the gain on unseen documents by {len(found.by_seed)} dealings of the documents into folds:"
            f" {_signed(search, min(found.by_seed))} to {_signed(search, max(found.by_seed))}",
        ),
        labels=2,
    )
    near = [search.in_sample, *(search.measured(name) for name in found.neighbours)]
    steps = Table(
        title="one step away",
        columns=("recipe", "what", "gain,\ntuned here", f"{search.settings.level:.0%} interval"),
        rows=[
            (
                one.recipe.name,
                f"{one.recipe}{' (the pick)' if one.recipe.name == search.pick else ''}",
                "" if one.gain is None else _signed(search, one.gain),
                "" if one.ci_low is None else _interval(search, one.ci_low, one.ci_high),
            )
            for one in near
        ],
        notes=(f"one start layer or one step of the coefficients away; {TUNED_HERE}",),
        labels=2,
    )
    return [picks, steps]


def _in_plane(search: Search, one: Measured) -> bool:
    """Say whether a recipe that may be picked differs from the pick in start layer and coefficients alone."""
    return one.recipe.kind == search.record.sought and one.recipe.plane == search.in_sample.recipe.plane


def _forest_row(search: Search, one: Measured) -> ForestRow:
    recipe, points = one.recipe, search.points
    fields = recipe.fields
    assert fields is not None
    assert one.gain is not None
    words = f"{one.gain * points:+.2f}" + ("  the pick" if recipe.name == search.pick else "")
    if recipe.dropped_after is not None:
        words += f"  dropped after {recipe.dropped_after:,}"
    return ForestRow(
        group="",
        label=recipe.name,
        value=one.gain * points,
        low=None if one.ci_low is None else one.ci_low * points,
        high=None if one.ci_high is None else one.ci_high * points,
        higher_is_better=True,
        words=words,
    )


def _count(search: Search) -> str:
    counts = Counter(one.recipe.kind for one in search.recipes if one.recipe.kind != "base")
    return " and ".join(f"{count} {NOUNS[kind][count > 1]}" for kind, count in sorted(counts.items()))


def _gain(search: Search, unseen: Unseen) -> str:
    interval = _interval(search, unseen.ci_low, unseen.ci_high)
    return f"{_signed(search, unseen.gain)} ({search.settings.level:.0%} interval {interval})"


def _signed(search: Search, value: float) -> str:
    return f"{value:+.{decimals(search.perfect)}f}"


def _interval(search: Search, low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{_signed(search, low)} to {_signed(search, high)}"
