"""Arguments that commands share, and how they print a table."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lmms_plam.errors import DataError, PlamError, did_you_mean

if TYPE_CHECKING:
    from lmms_plam.report.tables import Table
    from lmms_plam.runs.paired import Options
    from lmms_plam.scoring.audits import TaskAudit
    from lmms_plam.stats.comparison import Settings

_T = TypeVar("_T")


def stay_offline() -> None:
    """Have datasets read where the runs left them, never fetched, and quietly; before `datasets` is imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an inference."""
    parser.add_argument("--tasks", help="comma-separated tasks (default: all)")
    add_settings(parser)
    parser.add_argument(
        "--intersection", action="store_true", help="use the documents that all runs were asked alike, and say how many"
    )
    parser.add_argument(
        "--clusters",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="CSV with columns doc_id and cluster: which questions belong together, such as one image's",
    )
    parser.add_argument("--json", action="store_true", help="print records for programs")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add level, draws and seed."""
    parser.add_argument("--level", type=float, default=0.95, help="confidence level (0.95)")
    parser.add_argument("--draws", type=int, default=10_000, help="random draws for intervals and p-values (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Turn level, draws and seed into settings.

    Raises:
        DataError: one of them can't be used.
    """
    from lmms_plam.stats.bootstrap import MOST_DRAWS
    from lmms_plam.stats.comparison import Settings

    if not 0 < arguments.level < 1:
        raise DataError(f"--level lies between 0 and 1, such as 0.95, not {arguments.level:g}")
    if not 1000 <= arguments.draws <= MOST_DRAWS:
        raise DataError(
            f"--draws {arguments.draws} is too few for the ends of an interval, or too many: take 1000 to {MOST_DRAWS}"
        )
    if arguments.seed < 0:
        raise DataError(f"--seed is 0 or more, not {arguments.seed}")
    return Settings(arguments.level, arguments.draws, arguments.seed)


def read_options(arguments: argparse.Namespace) -> Options:
    """Turn the arguments into options.

    Raises:
        DataError: a level, a number of draws or a file of clusters that can't be used.
    """
    from lmms_plam.runs.paired import Options

    settings = read_settings(arguments)
    clusters = dict(_read_clusters(entry) for entry in arguments.clusters)
    return Options(settings, clusters, arguments.intersection)


def select_tasks(found: list[str], wanted: str | None, clusters: Iterable[str]) -> list[str]:
    """Return the wanted tasks, or all.

    Raises:
        DataError: a wanted task, or one with stated clusters, isn't there.
    """
    names = found if wanted is None else list(dict.fromkeys(name.strip() for name in wanted.split(",")))
    for name in (*names, *clusters):
        if name not in found:
            raise DataError(f"no task '{name}' to compare.{did_you_mean(name, found)} There are {', '.join(found)}")
    return names


def task_by_task(tasks: Sequence[str], verb: str, work: Callable[[str], _T]) -> tuple[list[_T], list[str]]:
    """Do the same for each task, with a progress bar; one that can't be read costs no other.

    Returns:
        What came of the tasks, and a line for each that is left out, which is on standard error by then.

    Raises:
        PlamError: the only task can't be read.
        DataError: none of several can.
    """
    from rich.console import Console
    from rich.progress import track

    done, left_out, errors = [], [], []
    for task in track(tasks, verb, console=Console(stderr=True), transient=True):
        try:
            done.append(work(task))
        except (PlamError, OSError) as error:
            errors.append(error)
            left_out.append(f"{task} is left out: {str(error).removeprefix(f'{task}: ')}")
    if errors and len(tasks) == 1:
        raise errors[0]
    say(left_out)
    if not done:
        raise DataError(f"none of {len(tasks)} tasks can be read")
    return done, left_out


def say(lines: Iterable[str]) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(f"plam: {line}", file=sys.stderr)


def print_table(table: Table) -> None:
    """Print a table, in parts where the screen is narrower, and its notes."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    for part in table.fit(console.width):
        console.print(part.to_rich())
    for note in table.notes:
        console.print(f"- {note}", highlight=False)


def print_audits(audits: Sequence[TaskAudit]) -> None:
    """Print format audits: the parts of each difference, how answers were read, and both in words."""
    from rich.console import Console

    from lmms_plam.report.audit import audit_sentences, parts_table, sides_table

    console = Console(markup=False, emoji=False)
    for table in (parts_table(audits), sides_table(audits)):
        if table is not None:
            console.print()
            print_table(table)
    for line in audit_sentences(audits):
        console.print(f"- {line}", highlight=False)


def _read_clusters(entry: str) -> tuple[str, dict[int, str]]:
    task, _, name = entry.partition("=")
    if not name:
        raise DataError(f"--clusters takes TASK=FILE, not '{entry}'")
    try:
        with Path(name).open(encoding="utf-8", newline="") as file:
            rows = [(int(row["doc_id"]), row["cluster"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{name} is no CSV file with columns doc_id and cluster ({error})") from error
    clusters: dict[int, str] = {}
    for doc_id, cluster in rows:
        if not cluster:
            raise DataError(f"{name}: document {doc_id} has no cluster")
        if clusters.setdefault(doc_id, cluster) != cluster:
            raise DataError(f"{name}: document {doc_id} is in two clusters, {clusters[doc_id]} and {cluster}")
    return task, clusters
