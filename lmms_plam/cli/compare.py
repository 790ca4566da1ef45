"""`plam compare A B`: paired differences between two runs of lmms-eval, or of comparisons' saved matrices."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.cli.inference import (
    add_arguments,
    print_audits,
    print_table,
    read_options,
    say,
    select_tasks,
    stay_offline,
    task_by_task,
)
from lmms_plam.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from lmms_plam.runs.paired import Options
    from lmms_plam.scoring.audits import TaskAudit
    from lmms_plam.scoring.changes import Changes
    from lmms_plam.scoring.saved import ComparisonRecord
    from lmms_plam.stats.results import Result


@dataclass(frozen=True, slots=True)
class _Compared:
    """What was found of a task.

    Attributes:
        results: its differences.
        changes: the documents that change.
        audits: of the answers' format.
        record: of its only matrix, if against the variant that this names; of runs, None.
    """

    results: list[Result]
    changes: Changes
    audits: list[TaskAudit]
    record: ComparisonRecord | None = None


Found = tuple[list[_Compared], list[str]]
"""By task; and a line for each task that is left out."""

NAME = "compare"
HELP = "compare two runs of lmms-eval (--log_samples), or comparisons' matrices again, with intervals and p-values"
EXIT_CODES = (
    "exit code: 0 if every task in common was compared; 1 if some had to be left out; 2 if nothing was compared"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXIT_CODES
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="two folders, or results files, of runs, the reference first: differences are B - A; or any number of"
        " folders with comparisons' matrices (OUTPUT/plam, or MODEL or MODEL/TASK in it): all their variants",
    )
    parser.add_argument("--reference", metavar="VARIANT", help="of matrices: compare with this one (default: the base)")
    add_arguments(parser)
    parser.add_argument("--csv", action="store_true", help="print the records as CSV")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for comparison.json, .csv, .md, .html, forest.svg, .png, audit.* and a grid's pictures, grid.*",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare task by task and print a table or JSON."""
    stay_offline()
    from lmms_plam.report.audit import audit_sentences, audit_warnings, audits_to_html, write_audits
    from lmms_plam.report.comparison import records, table, to_csv, write
    from lmms_plam.stats.results import adjust_results

    options = read_options(arguments)
    saved = _are_saved(arguments.runs)
    if saved:
        compared, left_out = _compare_saved(arguments.runs, arguments.reference, arguments.tasks, options)
    elif arguments.reference is not None:
        raise DataError("--reference is for comparisons' matrices; of two runs, the first is the reference")
    elif len(arguments.runs) != 2:
        missing = [place for place in arguments.runs if not place.exists()]
        if missing:
            raise DataError(f"no file or folder {missing[0]}")
        raise DataError(
            f"a comparison of runs takes two of them, and one of matrices a folder that holds some, not"
            f" {' '.join(map(str, arguments.runs))}"
        )
    else:
        compared, left_out = _compare_runs(arguments.runs[0], arguments.runs[1], arguments.tasks, options)
    results = adjust_results(chain.from_iterable(one.results for one in compared))
    audits = [own for one in compared for own in one.audits]
    found = table(results, left_out)
    if arguments.out:
        shown = [*_draw_grids(compared, arguments.out), audits_to_html(audits)]
        write(results, arguments.out, [one.changes for one in compared], left_out, shown)
        write_audits(audits, arguments.out)
        print(f"plam: wrote {arguments.out}", file=sys.stderr)
    notes = (*found.notes, *audit_sentences(audits))
    if arguments.csv and not arguments.json:
        print(to_csv(records(results, named=saved)), end="")
        print(*notes, sep="\n", file=sys.stderr)
    elif arguments.json:
        print(json.dumps(records(results, named=saved), indent=2))
        print(*notes, sep="\n", file=sys.stderr)
    else:
        print_table(found)
        print_audits(audits)
    say(audit_warnings(audits))
    return 1 if left_out else 0


def _are_saved(places: Sequence[Path]) -> bool:
    """Whether matrices are meant: one folder, or several that hold matrices and not each a run of lmms-eval."""
    from lmms_plam.probes.record import MATRIX
    from lmms_plam.runs.samples import find_runs

    if not all(place.is_dir() and next(place.rglob(MATRIX), None) is not None for place in places):
        return False
    try:
        return len(places) == 1 or not all(find_runs(place).runs for place in places)
    except DataError:
        return True


def _compare_saved(places: Sequence[Path], reference: str | None, tasks: str | None, options: Options) -> Found:
    from lmms_plam.runs.differences import differences
    from lmms_plam.runs.matrices import by_task, find_saved, join_saved
    from lmms_plam.scoring.audits import audit_task
    from lmms_plam.scoring.changes import Changes

    if options.clusters:
        raise DataError("--clusters is for runs: a comparison's matrix has its clusters")
    saved = by_task(find_saved(places))

    def compare(task: str) -> _Compared:
        joined, own = join_saved(saved[task], intersection=options.intersection)
        base, variants = reference or own, joined.matrix.variants
        if base not in variants:
            raise DataError(
                f"{task}: no variant '{base}'.{did_you_mean(base, variants)} There are {', '.join(variants)}"
            )
        joined.matrix.require_variants()
        results = differences(joined, base, options.settings, saved[task][0].record.points_up)
        audits = audit_task(task, joined.benchmark, joined.matrix, base, options.settings)
        record = saved[task][0].record if len(saved[task]) == 1 and base == own else None
        return _Compared(results, Changes.of(task, joined.matrix, base, joined.examples), audits, record)

    return task_by_task(select_tasks(list(saved), tasks, ()), "comparing", compare)


def _compare_runs(place_a: Path, place_b: Path, tasks: str | None, options: Options) -> Found:
    from lmms_plam.runs.paired import compare_task, runs_by_task

    label_a, label_b = _labels(place_a, place_b)
    a, b = runs_by_task(place_a, label_a), runs_by_task(place_b, label_b)
    common = [task for task in a if task in b]
    if any(a[task].results_file.samefile(b[task].results_file) for task in common):
        raise DataError(f"{place_a} and {place_b} are the same run")
    if not common:
        raise DataError(f"no task in common: {place_a} has {', '.join(a)}; {place_b} has {', '.join(b)}")
    say(f"{task} is only in {place_a if task in a else place_b}" for task in sorted(set(a) ^ set(b)))
    chosen = select_tasks(common, tasks, options.clusters)
    return task_by_task(chosen, "comparing", lambda task: _Compared(*compare_task(a[task], b[task], options)))


def _draw_grids(compared: Sequence[_Compared], folder: Path) -> list[str]:
    """Draw the grids that recipes form, each in a folder of its task's name where several tasks were compared."""
    from lmms_plam.report.grid import draw_grid_of

    drawn = []
    for one in compared:
        if one.record is not None:
            place = folder / one.record.task if len(compared) > 1 else folder
            drawn += draw_grid_of(one.record, one.results, place)
    return drawn


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """Return the shortest ends of two paths that differ, such as base and merged.

    Raises:
        DataError: they are the same folder.
    """
    parts_a, parts_b = a.resolve().parts, b.resolve().parts
    if parts_a == parts_b:
        raise DataError(f"{a} and {b} are the same folder")
    for length in range(1, max(len(parts_a), len(parts_b)) + 1):
        if parts_a[-length:] != parts_b[-length:]:
            break
    return "/".join(parts_a[-length:]), "/".join(parts_b[-length:])
