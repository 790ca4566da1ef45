"""`plam`: looks after the plugin and reads its results again; the evaluation itself is `lmms-eval --model plam`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from lmms_plam import __version__
from lmms_plam.cli import (
    attention,
    check,
    checkpoints,
    compare,
    doctor,
    fisher,
    leaderboard,
    lineage,
    merge,
    plateau,
    report,
    search,
    study,
)
from lmms_plam.errors import PlamError
from lmms_plam.harness import outcome

COMMANDS: tuple[ModuleType, ...] = (
    doctor,
    check,
    lineage,
    fisher,
    merge,
    plateau,
    attention,
    search,
    compare,
    leaderboard,
    study,
    checkpoints,
    report,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with one subcommand for each module in COMMANDS."""
    parser = argparse.ArgumentParser(prog="plam", description=__doc__)
    parser.add_argument("--version", action="version", version=f"lmms-plam {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.configure(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what a user can cause is one line on standard error and exit code 2, Ctrl-C is 130."""
    try:
        try:
            arguments = build_parser().parse_args(argv)
            code: int = arguments.run(arguments)
            return code
        finally:
            sys.stdout.flush()  # where it fails as print does, and not when Python has ended
    except BrokenPipeError:  # `plam ... | head -1`
        outcome.silence_output()
        return outcome.NOBODY_READS
    except (PlamError, OSError) as error:  # such as a file that may not be read
        print(f"plam: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return outcome.INTERRUPTED
