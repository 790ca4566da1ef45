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
    from lmms_plam.runs.standings import find_contestants
    from lmms_plam.stats.results import adjust_standings

    options = read_options(arguments)
    found_there = find_contestants(arguments.folder)
    say(found_there.unreadable)
    reference = arguments.reference
    found_there.require(reference, arguments.folder)
    chosen = select_tasks(found_there.tasks, arguments.tasks, options.clusters)
    ranked, left_out = task_by_task(chosen, "ranking", lambda task: found_there.rank(task, reference, options))
    standings = adjust_standings(chain.from_iterable(ranked))
    left_out = [*found_there.unreadable, *left_out]
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
