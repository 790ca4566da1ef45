"""`plam compare A B`: paired differences between two runs of lmms-eval, on every metric of the tasks in common."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

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
from lmms_plam.errors import DataError

NAME = "compare"
HELP = "compare two runs of lmms-eval (--log_samples), with intervals and p-values"
EXIT_CODES = (
    "exit code: 0 if every task in common was compared; 1 if some had to be left out; 2 if nothing was compared"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXIT_CODES
    parser.add_argument("a", type=Path, help="folder, or results file, of the reference run")
    parser.add_argument("b", type=Path, help="folder, or results file, of the other run; differences are B - A")
    add_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="folder for comparison.json, .csv, .md, .html, forest.svg, .png and audit.*"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare task by task and print a table or JSON."""
    stay_offline()
    from lmms_plam.report.audit import audit_sentences, audit_warnings, audits_to_html, write_audits
    from lmms_plam.report.comparison import records, table, write
    from lmms_plam.runs.paired import compare_task, runs_by_task
    from lmms_plam.stats.results import adjust_results

    options = read_options(arguments)
    label_a, label_b = _labels(arguments.a, arguments.b)
    a, b = runs_by_task(arguments.a, label_a), runs_by_task(arguments.b, label_b)
    common = [task for task in a if task in b]
    if any(a[task].results_file.samefile(b[task].results_file) for task in common):
        raise DataError(f"{arguments.a} and {arguments.b} are the same run")
    if not common:
        raise DataError(f"no task in common: {arguments.a} has {', '.join(a)}; {arguments.b} has {', '.join(b)}")
    say(f"{task} is only in {arguments.a if task in a else arguments.b}" for task in sorted(set(a) ^ set(b)))
    tasks = select_tasks(common, arguments.tasks, options.clusters)
    compared, left_out = task_by_task(tasks, "comparing", lambda task: compare_task(a[task], b[task], options))
    results = adjust_results(chain.from_iterable(found_in_task for found_in_task, _, _ in compared))
    audits = [one for _, _, own in compared for one in own]
    found = table(results, left_out)
    if arguments.out:
        write(results, arguments.out, [changes for _, changes, _ in compared], left_out, [audits_to_html(audits)])
        write_audits(audits, arguments.out)
        print(f"plam: wrote {arguments.out}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(records(results), indent=2))
        print(*found.notes, *audit_sentences(audits), sep="\n", file=sys.stderr)
    else:
        print_table(found)
        print_audits(audits)
    say(audit_warnings(audits))
    return 1 if left_out else 0


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
