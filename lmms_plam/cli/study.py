"""`plam study`: a YAML of models, benchmarks and steps, run cell by cell, here or wherever there are machines."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lmms_plam.cli import cells, report
from lmms_plam.errors import DataError

NAME = "study"
SITE = "site"
"""The folder of a study that holds its page."""
HELP = "run a study of models and benchmarks from one YAML file; the same command goes on where it stopped"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("study", type=Path, metavar="YAML", help="models, benchmarks, tune_on, steps, limit, ...")
    cells.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan the study, then show or run it as asked, and write its page at the end."""
    from lmms_plam.runs.paired import Options
    from lmms_plam.study.expand import plan_study
    from lmms_plam.study.schema import Study, read_asked
    from lmms_plam.study.state import MANIFEST

    study, text = read_asked(arguments.study, Study)
    plan, root = plan_study(study), arguments.output
    ending = f"makes the page, and so does `plam {shlex.join(['report', str(root), '--out', str(root / SITE)])}`"
    code = cells.run(arguments, plan, text, [NAME, str(arguments.study.resolve())], ending)
    if (
        code <= 1
        and cells.runs_to_the_end(arguments)
        and any((root / one.folder / MANIFEST).exists() for one in plan.cells)
    ):
        try:
            report.write_page(root, root / SITE, root.resolve().name, Options())
        except DataError as error:  # such as exports alone
            print(f"plam: no page: {error}", file=sys.stderr)
    return code
