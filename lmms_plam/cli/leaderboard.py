"""`plam leaderboard DIR`: all runs of lmms-eval in a folder in one table, with intervals, ranks and differences."""

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
HELP = "put all runs of lmms-eval in a folder into one table, with intervals and ranks"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXIT_CODES
    parser.add_argument("folder", type=Path, help="folder with runs of lmms-eval, each with --log_samples")
    parser.add_argument("--reference", metavar="MODEL", help="also show paired differences to this model")
    add_arguments(parser)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--out", type=Path, help="folder for leaderboard.json, .csv, .md and .html")


def run(arguments: argparse.Namespace) -> int:
    """Rank task by task and print a table, Markdown or JSON."""
    stay_offline()
    from lmms_plam.report.leaderboard import records, table, write
    from lmms_plam.runs.samples import TaskRun, find_runs
    from lmms_plam.runs.standings import rank_task
    from lmms_plam.stats.results import adjust_standings

    options = read_options(arguments)
    tasks: dict[str, dict[str, TaskRun]] = {}
    content = find_runs(arguments.folder)
    say(content.unreadable)
    for found_run in content.runs:
        tasks.setdefault(found_run.task, {})[found_run.label] = found_run
    models = list(dict.fromkeys(model for runs in tasks.values() for model in runs))
    reference = arguments.reference
    if reference is not None and reference not in models:
        raise DataError(
            f"no model '{reference}' in {arguments.folder}.{did_you_mean(reference, models)}"
            f" There are {', '.join(models)}"
        )
    chosen = select_tasks(list(tasks), arguments.tasks, options.clusters)
    ranked, left_out = task_by_task(chosen, "ranking", lambda task: rank_task(tasks[task], reference, options))
    standings = adjust_standings(chain.from_iterable(ranked))
    left_out = [*content.unreadable, *left_out]
    found = table(standings, reference, left_out)
    if arguments.out:
        write(standings, reference, arguments.out, left_out)
        print(f"plam: wrote {arguments.out}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(records(standings), indent=2))
        print(*found.notes, sep="\n", file=sys.stderr)
    elif arguments.markdown:
        print(found.to_markdown())
    else:
        print_table(found)
    return 0
