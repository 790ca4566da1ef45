"""`plam leaderboard DIR`: all runs and comparisons in a folder in one table, with intervals, ranks and differences."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

from lmms_plam.cli.inference import (
    add_arguments,
    print_table,
    read_options,
    say,
    select_tasks,
    stay_offline,
    task_by_task,
)
from lmms_plam.errors import DataError, did_you_mean

NAME = "leaderboard"
EXIT_CODES = "exit code: 0 if anything could be shown, and what had to be left out is named; otherwise 2"
HELP = "put all runs of lmms-eval and comparisons' recipes in a folder into one table, with intervals and ranks"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXIT_CODES
    parser.add_argument("folder", type=Path, help="folder with runs (--log_samples) and comparisons")
    parser.add_argument("--reference", metavar="MODEL", help="also show paired differences to this model")
    add_arguments(parser)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--csv", action="store_true", help="print the records as CSV")
    parser.add_argument("--out", type=Path, help="folder for leaderboard.json, .csv, .md and .html")


def run(arguments: argparse.Namespace) -> int:
    """Rank task by task and print a table, Markdown or JSON."""
    stay_offline()
    from lmms_plam.report.comparison import to_csv
    from lmms_plam.report.leaderboard import records, table, write
    from lmms_plam.runs.matrices import by_task, find_saved
    from lmms_plam.runs.samples import Found, TaskRun, find_runs
    from lmms_plam.runs.standings import rank_saved, rank_task
    from lmms_plam.scoring.saved import RECORD
    from lmms_plam.stats.results import Standing, adjust_standings

    options = read_options(arguments)
    saved = by_task(find_saved([arguments.folder]) if _holds(arguments.folder, RECORD) else [])
    try:
        content = find_runs(arguments.folder)
    except DataError:
        if not saved:
            raise
        content = Found([], [])
    say(content.unreadable)
    tasks: dict[str, dict[str, TaskRun]] = {}
    for found_run in content.runs:
        tasks.setdefault(found_run.task, {})[found_run.label] = found_run
    models = list(dict.fromkeys(model for runs in tasks.values() for model in runs))
    variants = (f"{one.label}/{name}" for each in saved.values() for one in each for name in one.record.recipes)
    models += list(dict.fromkeys(variants))
    reference = arguments.reference
    if reference is not None and reference not in models:
        raise DataError(
            f"no model '{reference}' in {arguments.folder}.{did_you_mean(reference, models)}"
            f" There are {', '.join(models)}"
        )

    def rank(task: str) -> list[Standing]:
        if task in tasks:
            return rank_task(tasks[task], reference, options)
        return rank_saved(saved[task], reference, options)

    chosen = select_tasks([*tasks, *saved], arguments.tasks, options.clusters)
    ranked, left_out = task_by_task(chosen, "ranking", rank)
    standings = adjust_standings(chain.from_iterable(ranked))
    left_out = [*content.unreadable, *left_out]
    found = table(standings, reference, left_out)
    if arguments.out:
        write(standings, reference, arguments.out, left_out)
        print(f"plam: wrote {arguments.out}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(records(standings), indent=2))
        print(*found.notes, sep="\n", file=sys.stderr)
    elif arguments.csv:
        print(to_csv(records(standings)), end="")
        print(*found.notes, sep="\n", file=sys.stderr)
    elif arguments.markdown:
        print(found.to_markdown())
    else:
        print_table(found)
    return 0


def _holds(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and next(folder.rglob(pattern), None) is not None
