"""A comparison whose recipes form a grid as a heat map: what is merged how, over the base LM's weight.

The blog of 2025-03-13 draws its 18 recipes so. Its own scores, which its figure prints, stand small in the cells where
recipe, model and benchmark are the same; intervals it has none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_plam.config import ALL_MODULES, ATTENTION, MergeRecipe
from lmms_plam.files import replacing
from lmms_plam.report.numbers import decimals
from lmms_plam.report.page import inline_svg
from lmms_plam.scoring.saved import ComparisonRecord
from lmms_plam.stats.results import Result

GRID = ("grid.png", "grid.svg")

_INK, _QUIET = "#222222", "#5f5f5f"
_COLOURS = ("#c0392b", "#ffffff", "#1f4e79")
_LEAST_REACH = 1.0  # points that the darkest colour means at least, so that noise on a flat grid looks pale
_SETS = {ATTENTION: "attention", ALL_MODULES: "all"}

_BLOGS_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
_BLOGS_ROWS = [
    (modules, schedule) for modules in (ALL_MODULES, ATTENTION) for schedule in ("constant", "linear", "loglinear")
]
_BLOGS_WEIGHTS = (0.4, 0.5, 0.6)
_MATH_V = (
    (23.61, 22.97, 23.84),
    (23.95, 23.34, 23.75),
    (23.85, 23.34, 22.45),
    (25.07, 23.72, 22.43),
    (24.80, 25.43, 23.75),
    (25.46, 24.93, 23.96),
)
_MATHVISTA = (
    (65.6, 61.4, 61.2),
    (66.3, 65.8, 62.1),
    (63.4, 63.2, 62.1),
    (68.5, 67.2, 62.3),
    (68.9, 67.2, 66.4),
    (69.8, 68.6, 67.6),
)


@dataclass(frozen=True, slots=True)
class Published:
    """What a paper or a post printed of a grid.

    Attributes:
        source: of what and where.
        baseline: of the untouched VLM, in percent.
        cells: of each row of recipes over the weights.
    """

    source: str
    baseline: float
    cells: Sequence[Sequence[float]]


_FORMATS = [
    f"mathvista_testmini_{name}{static}" for name in ("cot", "solution", "format") for static in ("", "_static")
]
_PUBLISHED = {
    "mathvision_test": Published("the blog of 2025-03-13 on MATH-V", 23.95, _MATH_V),
    **dict.fromkeys(_FORMATS, Published("the blog of 2025-03-13 on MathVista mini", 70.9, _MATHVISTA)),
}
"""By the benchmark's name. With which prompt, and by which judge, the blog doesn't say."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Recipes that differ in what is merged, the schedule and the coefficients alone, each combination of them once.

    Attributes:
        rows: modules and schedule.
        columns: the coefficients of base LM and VLM.
        names: the recipe's name, by row and column.
        published: what others printed of the same recipes, model and benchmark; None where nobody did.
    """

    rows: Sequence[tuple[tuple[str, ...], str]]
    columns: Sequence[tuple[float, float]]
    names: Sequence[Sequence[str]]
    published: Published | None = None


def find_grid(recipes: Mapping[str, MergeRecipe], vlm: str, task: str) -> Grid | None:
    """Return the grid that a comparison's recipes form, or None where they form none of at least two by two.

    Args:
        recipes: all recipes by name.
        vlm: the model that is merged.
        task: the benchmark that is asked.
    """
    rows = list(dict.fromkeys((one.modules, one.schedule) for one in recipes.values()))
    rows.sort(key=lambda row: _BLOGS_ROWS.index(row) if row in _BLOGS_ROWS else len(_BLOGS_ROWS))
    columns = sorted({(one.lambda_lm, one.lambda_vlm) for one in recipes.values()})
    at = {((one.modules, one.schedule), (one.lambda_lm, one.lambda_vlm)): name for name, one in recipes.items()}
    own = {"modules", "schedule", "lambda_lm", "lambda_vlm"}
    others = {one.model_copy(update=dict.fromkeys(own)).model_dump_json() for one in recipes.values()}
    if len(others) > 1 or min(len(rows), len(columns)) < 2 or not len(at) == len(recipes) == len(rows) * len(columns):
        return None
    first = next(iter(recipes.values()))
    same = rows == _BLOGS_ROWS and columns == [(weight, round(1 - weight, 1)) for weight in _BLOGS_WEIGHTS]
    whole = first.method == "linear" and first.start_layer == 0 and first.end_layer is None and vlm == _BLOGS_MODEL
    names = [[at[row, column] for column in columns] for row in rows]
    return Grid(rows, columns, names, _PUBLISHED.get(task) if same and whole else None)


def draw_grid_of(record: ComparisonRecord, results: Iterable[Result], folder: Path) -> list[str]:
    """Draw the grid that a comparison's recipes form, and return it for a page; nothing where they form none.

    Args:
        record: the comparison's, whose variants are named in it.
        results: of the comparison, against the untouched VLM.
        folder: where the files go.
    """
    grid = find_grid(record.merges, record.vlm, record.of)
    if grid is None:
        return []
    draw_grid(results, grid, folder, f"{record.model}, {record.date}")
    return [inline_svg(folder / GRID[1])]


def draw_grid(results: Iterable[Result], grid: Grid, folder: Path, about: str = "") -> None:
    """Draw `grid.png` and `grid.svg`: each recipe's score and what it differs from the untouched VLM, with interval.

    Args:
        results: of one task; its headline is drawn.
        grid: where each variant stands.
        folder: where the files go.
        about: which model answered and when.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    found = {one.comparison.variant: one for one in results if one.headline}
    first = next(iter(found.values()))
    unit, base = decimals(first.perfect), first.comparison.a
    reach = max(_LEAST_REACH, *(abs(_points(one)) for one in found.values()))
    scale: Any = ScalarMappable(Normalize(-reach, reach), LinearSegmentedColormap.from_list("gain", _COLOURS))
    figure = Figure(figsize=(4.2 + 2.1 * len(grid.columns), 2.6 + 0.85 * len(grid.rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for y, row in enumerate(grid.names):
        for x, name in enumerate(row):
            points = _points(found[name])
            corner = (x - 0.5, y - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=scale.to_rgba(points), edgecolor="#c4c4c4", linewidth=0.4))
            ink = "white" if abs(points) > 0.6 * reach else _INK
            centred: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
            axes.text(x, y - 0.24, f"{found[name].comparison.b:.{unit}f}", fontsize=11, fontweight="bold", **centred)
            axes.text(x, y + 0.04, _difference(found[name], unit), fontsize=8, **centred)
            if grid.published:
                axes.text(x, y + 0.3, f"published: {grid.published.cells[y][x]:g}", fontsize=7, **centred)
    axes.set_xticks(range(len(grid.columns)), [_weight(*column) for column in grid.columns], fontsize=9)
    axes.set_yticks(range(len(grid.rows)), [f"{_modules(row[0])}\n{row[1]}" for row in grid.rows], fontsize=9)
    axes.set(xlim=(-0.5, len(grid.columns) - 0.5), ylim=(len(grid.rows) - 0.5, -0.5))
    axes.set(xlabel="coefficients of base LM and VLM, and their ratio", ylabel="what is merged, and its schedule")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    worse = "" if first.higher_is_better else ", lower is better"
    figure.colorbar(scale, ax=axes, label=f"points above the untouched VLM{worse}", shrink=0.9)
    heading = f"{first.task}: {first.metric}, untouched VLM {base:.{unit}f}"
    asked = f"{first.comparison.difference.n:,} documents"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
    level = f"{first.comparison.difference.level:.0%}"
    lines = [f"Below each score: what it differs from the untouched VLM's, and the {level} interval of that."]
    if grid.published:
        lines.append(
            f"Published: {grid.published.source}, untouched VLM {grid.published.baseline:g}, without intervals."
        )
    lines.append("The best of many cells is too good by chance: see the p-value of any being better.")
    small = "\n".join(
        part for line in (*lines, f"{about}; {asked}" if about else asked) for part in textwrap.wrap(line, 100)
    )
    figure.legend(handles=[], title=small, title_fontsize=8, loc="outside lower left", frameon=False, alignment="left")
    for name in GRID:
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=150)


def _points(result: Result) -> float:
    """Return a difference in hundredths of a perfect score."""
    return 100 * result.comparison.difference.value / result.perfect


def _difference(result: Result, unit: int) -> str:
    found = result.comparison.difference
    if found.ci_low is None or found.ci_high is None:
        return f"{found.value:+.{unit}f}"
    return f"{found.value:+.{unit}f} ({found.ci_low:+.{unit}f} to {found.ci_high:+.{unit}f})"


def _modules(modules: tuple[Any, ...]) -> str:
    return _SETS.get(modules, "+".join(modules))


def _weight(lm: float, vlm: float) -> str:
    return f"{lm:g} and {vlm:g}" + (f": {lm / vlm:.2g}" if vlm else "")
