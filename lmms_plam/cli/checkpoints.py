"""`plam checkpoints`: every pair of a VLM's and a base LM's checkpoint, merged by recipes, scored and chosen from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.cli import cells

if TYPE_CHECKING:
    from lmms_plam.search.checkpoints import Checkpoints
    from lmms_plam.study.plan import Plan
    from lmms_plam.study.sweep import Pair, Sweep

NAME = "checkpoints"
HELP = "merge every pair of checkpoints that a YAML names, and say which is best on documents that didn't choose it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", type=Path, metavar="YAML", help="config, vlm, base_lm, alpha or recipes, tasks, ...")
    cells.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show or run the cells as asked; then, where all are finished, analyse them."""
    from lmms_plam.study.schema import read_asked
    from lmms_plam.study.sweep import Sweep, plan_sweep

    sweep, text = read_asked(arguments.sweep, Sweep)
    plan, pairs = plan_sweep(sweep)
    code = cells.run(arguments, plan, text, [NAME, str(arguments.sweep.resolve())], "says which pair is best")
    if code == 0 and cells.runs_to_the_end(arguments):
        _report(arguments.output, sweep, plan, pairs)
    return code


def _report(root: Path, sweep: Sweep, plan: Plan, pairs: dict[str, Pair]) -> None:
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.cli.inference import print_table
    from lmms_plam.report import checkpoints
    from lmms_plam.study.state import MANIFEST

    if not all((root / cell.folder / MANIFEST).exists() for cell in plan.cells):
        return  # other workers have the rest
    console = Console(stderr=True)
    tasks = plan.cells[0].tasks
    found = [
        _analyse(root, task, sweep, plan, pairs) for task in track(tasks, "choosing", console=console, transient=True)
    ]
    checkpoints.write(found, root)
    print_table(checkpoints.choices(found))
    print(f"wrote {root / checkpoints.CSV}, {checkpoints.TABLE} and {checkpoints.PICTURES[0]}")


def _analyse(root: Path, task: str, sweep: Sweep, plan: Plan, pairs: dict[str, Pair]) -> Checkpoints:
    from lmms_plam.runs.matrices import SavedComparison, join_saved
    from lmms_plam.scoring.saved import ComparisonRecord
    from lmms_plam.search.checkpoints import UNTOUCHED, Column, analyse_checkpoints
    from lmms_plam.stats.metrics import find_metric
    from lmms_plam.stats.units import perfect_value

    saved = []
    for cell in plan.cells:
        folder = root / cell.folder / "plam" / cell.model / task
        saved.append(SavedComparison(folder, cell.model, ComparisonRecord.read(folder)))
    joined, _ = join_saved(saved, apart=True)
    first, *others = sweep.all_recipes()
    called = {UNTOUCHED: "base", first: "merged", **{name: name for name in others}}
    columns, places = [], []
    for cell in plan.cells:
        for recipe, name in called.items():
            columns.append(Column(pairs[cell.name].vlm, pairs[cell.name].base_lm, recipe))
            places.append(joined.matrix.column(f"{cell.model}/{name}"))
    headline, record = joined.benchmark.headline, saved[0].record
    metric = find_metric(headline.metric)
    matrix = joined.matrix.take(places)
    perfect = perfect_value(matrix.take([0]), metric, joined.benchmark.perfect_answer)
    upwards = record.points_up(headline.key)
    return analyse_checkpoints(task, matrix, columns, metric, perfect, higher_is_better=upwards)
