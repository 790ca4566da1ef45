"""`plam study`: a YAML of models, benchmarks and steps, run cell by cell, here or wherever there are machines."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmms_plam.cli import cells

NAME = "study"
HELP = "run a study of models and benchmarks from one YAML file; the same command goes on where it stopped"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("study", type=Path, metavar="YAML", help="models, benchmarks, tune_on, steps, limit, ...")
    cells.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan the study, then show or run it as asked."""
    from lmms_plam.study.expand import plan_study
    from lmms_plam.study.schema import Study, read_asked

    study, text = read_asked(arguments.study, Study)
    return cells.run(arguments, plan_study(study), text, [NAME, str(arguments.study.resolve())])
