"""`plam report FOLDER --out SITE`: one page of a study, or of any folder of runs, and what belongs beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.cli.inference import add_settings, read_settings, say, stay_offline
from lmms_plam.errors import DataError
from lmms_plam.files import check_folder

if TYPE_CHECKING:
    from lmms_plam.runs.paired import Options
    from lmms_plam.site.boards import Board
    from lmms_plam.site.found import Study

NAME = "report"
HELP = (
    "make one page of a study, or of any folder of runs: curves, searches, gains, leaderboards, in words and pictures"
)
EXAMPLES = 40
EXIT_CODES = "exit code: 0 if the page was written, and what had to be left out is named on it; otherwise 2"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXIT_CODES
    parser.add_argument("folder", type=Path, help="of a study, or with any runs of lmms-eval, at whatever depth")
    parser.add_argument("--out", type=Path, required=True, help="folder for index.html and what belongs beside it")
    parser.add_argument("--title", help="of the page (default: the folder's name)")
    parser.add_argument("--reference", metavar="MODEL", help="leaderboards also show paired differences to this model")
    parser.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES,
        help=f"documents shown with their pictures, in all; they make the page large ({EXAMPLES})",
    )
    parser.add_argument(
        "--intersection",
        action="store_true",
        help="rank on the documents that all runs were asked alike, and say how many",
    )
    parser.add_argument(
        "--wandb",
        metavar="[ENTITY/]PROJECT",
        help="also log to W&B, a run a cell; offline unless WANDB_MODE says otherwise",
    )
    parser.add_argument(
        "--wandb-views",
        metavar="ENTITY/PROJECT",
        help="save a W&B report and workspace of what was logged there (needs the network and wandb-workspaces)",
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and log to W&B where that is asked."""
    stay_offline()
    from lmms_plam.runs.paired import Options
    from lmms_plam.site.build import PAGE

    check_folder("--out", arguments.out)
    if arguments.examples < 0:
        raise DataError(f"--examples is 0 or more, not {arguments.examples}")
    if arguments.wandb_views and not all(arguments.wandb_views.partition("/")):
        raise DataError(f"--wandb-views takes ENTITY/PROJECT, not '{arguments.wandb_views}'")
    options = Options(read_settings(arguments), {}, arguments.intersection)
    title = arguments.title or arguments.folder.resolve().name
    study, boards = write_page(arguments.folder, arguments.out, title, options, arguments.reference, arguments.examples)
    if arguments.wandb:
        from lmms_plam.site.wandb_study import log_study

        log_study(study, boards, arguments.out / PAGE, arguments.wandb, title)
    if arguments.wandb_views:
        from lmms_plam.site.wandb_views import save_views

        say(f"saved {where}" for where in save_views(study, boards, arguments.wandb_views, title))
    return 0


def write_page(
    folder: Path, out: Path, title: str, options: Options, reference: str | None = None, examples: int = EXAMPLES
) -> tuple[Study, list[Board]]:
    """Read a folder, rank what can be ranked, and write the page; return what was read and its leaderboards."""
    from rich.console import Console
    from rich.progress import track

    from lmms_plam.site.boards import find_boards
    from lmms_plam.site.build import PAGE, build_site
    from lmms_plam.site.found import find_study

    console = Console(stderr=True)

    def progress(items: Sequence[str], what: str) -> Iterable[str]:
        return track(items, what, console=console, transient=True)

    study = find_study(folder)
    boards, unranked = find_boards(study, reference, options, progress)
    say(build_site(study, boards, unranked, out, title, examples, progress))
    print(f"plam: wrote {out / PAGE}", file=sys.stderr)
    return study, boards
