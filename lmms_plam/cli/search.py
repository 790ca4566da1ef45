"""`plam search`: read recipe searches again from their saved matrices, by other rules; no model is loaded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.errors import DataError

if TYPE_CHECKING:
    from lmms_plam.scoring.audits import TaskAudit
    from lmms_plam.search.result import Search

NAME = "search"
HELP = "choose recipes again from saved searches: by another criterion, other folds, or in a smaller space"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of a search, or of a run with several: then with the table of transfer",
    )
    parser.add_argument(
        "--criterion",
        default="metric",
        choices=("metric", "label-free"),
        help="what the pick is best in: the benchmark's metric (default), or agreement with its neighbours' answers",
    )
    parser.add_argument("--folds", type=int, default=5, help="of the cross-fitting (5)")
    parser.add_argument("--repeats", type=int, default=10, help="of the cross-fitting, with other folds (10)")
    parser.add_argument("--halvings", type=int, default=100, help="of the documents, for its standard error (100)")
    parser.add_argument("--start-layers", type=_layers, metavar="K,K", help="only recipes that start at these layers")
    parser.add_argument("--sums", type=_sums, metavar="S,S", help="only recipes whose coefficients have these sums")
    parser.add_argument("--level", type=float, default=0.95, help="confidence level (0.95)")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws and random sign flips (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all random streams (0)")
    parser.add_argument("--write", action="store_true", help="replace search.json, recipe.yaml, the page and pictures")
    parser.add_argument("--json", action="store_true", help="print what search.json would hold, as a list")


def run(arguments: argparse.Namespace) -> int:
    """Analyse every search, print what was found or JSON, and write the results beside the matrices if asked."""
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.cli.inference import say
    from lmms_plam.report.audit import audit_warnings, audits_to_html, write_audits
    from lmms_plam.report.search import write
    from lmms_plam.scoring.audits import audit_pick
    from lmms_plam.search.analyse import analyse
    from lmms_plam.search.crossfit import Plan
    from lmms_plam.search.record import SearchRecord
    from lmms_plam.search.result import SearchSettings
    from lmms_plam.search.surface import Surface
    from lmms_plam.search.transfer import add_transfer

    plan = Plan(arguments.folds, arguments.repeats, arguments.halvings)
    settings = SearchSettings(arguments.criterion, plan, arguments.level, arguments.draws, arguments.seed)
    folders = _folders(arguments.folders)
    surfaces = []
    for folder in folders:
        record = SearchRecord.read(folder).restrict(arguments.start_layers, arguments.sums)
        surfaces.append(Surface.read(folder, record))
    console = Console(stderr=True)
    searches = [analyse(surface, settings) for surface in track(surfaces, "searching", console=console, transient=True)]
    searches = add_transfer(surfaces, searches)
    audits = [audit_pick(*both) for both in zip(surfaces, searches, strict=True)]
    if arguments.write:
        for folder, search, audit in zip(folders, searches, audits, strict=True):
            write(search, folder, searches, [audits_to_html([audit])])
            write_audits([audit], folder)
            print(f"plam: wrote {folder}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([search.to_dict() for search in searches], indent=2))
    else:
        _print(searches, audits)
    say(audit_warnings(audits))
    return 0


def _folders(paths: Sequence[Path]) -> list[Path]:
    """Return the searches named, and those in the folders named."""
    from lmms_plam.search.record import RECIPES

    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no folder {path}: give that of a recipe search")
        here = [record.parent for record in sorted(path.rglob(RECIPES))]
        if not here:
            raise DataError(f"{path} holds no {RECIPES} of a recipe search: give a folder that lmms-eval wrote to")
        found += here
    return list({path.resolve(): path for path in found}.values())


def _print(searches: Sequence[Search], audits: Sequence[TaskAudit]) -> None:
    from rich.console import Console

    from lmms_plam.cli.inference import print_table
    from lmms_plam.report.audit import audit_sentences
    from lmms_plam.report.search import sentences, table, transfer_table
    from lmms_plam.search.result import TUNED_HERE

    print_table(table(searches))
    if len(searches) > 1:
        print_table(transfer_table(searches))
    console = Console(markup=False, emoji=False)
    for search, audit in zip(searches, audits, strict=True):
        console.print(f"\n{search.record.task}", style="bold", highlight=False)
        for line in (*sentences(search), *(f"{line} ({TUNED_HERE})" for line in audit_sentences([audit]))):
            console.print(f"- {line}", highlight=False)


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes layers separated by commas, such as 17,18,19, not '{text}'") from None


def _sums(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers separated by commas, such as 1,1.2, not '{text}'") from None
