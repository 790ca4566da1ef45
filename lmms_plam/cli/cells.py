"""What `plam study` and `plam checkpoints` have in common: cells, shown or run."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_plam.errors import ConfigError

if TYPE_CHECKING:
    from lmms_plam.study.plan import Plan
    from lmms_plam.study.state import Standing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where cells go and how they are run."""
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="holds a folder for each cell")
    parser.add_argument("--dry-run", action="store_true", help="show cells, commands, cost and disk; run nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print plan and states for programs")
    parser.add_argument("--cell", action="append", default=[], metavar="NAME", help="run this cell alone; repeatable")
    parser.add_argument(
        "--launcher",
        default="",
        metavar="WORDS",
        help="what stands before lmms_eval: 'accelerate launch --num_processes 8 -m' (default: this Python, -m)",
    )
    parser.add_argument(
        "--worker",
        action="store_true",
        help="as one of several: leave alone what failed, and say nothing at the end; the command without it does",
    )
    parser.add_argument(
        "--slurm",
        type=Path,
        metavar="YAML",
        help="submit workers by submitit, with these parameters: slurm_partition, timeout_min (720), ...; `cluster: "
        "local` starts them on this machine",
    )
    parser.add_argument(
        "--slurm-script", type=Path, metavar="FILE", help="write an array script of workers for sbatch; run nothing"
    )


def runs_to_the_end(arguments: argparse.Namespace) -> bool:
    """Whether the cells are run here and now, and not by workers or one alone, so that a report can follow."""
    others = (arguments.dry_run, arguments.worker, arguments.slurm, arguments.slurm_script, arguments.cell)
    return not any(others)


def run(arguments: argparse.Namespace, plan: Plan, asked: str, words: Sequence[str], ending: str) -> int:
    """Show the cells, submit workers or be one, as asked; exit code 1 if a cell failed.

    Args:
        arguments: the command line.
        plan: the cells.
        asked: the YAML that they come from.
        words: of this command, the YAML's path among them.
        ending: what it does when all cells are finished, which workers leave undone.

    Raises:
        ConfigError: options that don't go together, or that can't be meant.
    """
    from lmms_plam.study.running import LAUNCH
    from lmms_plam.study.worker import check_place, open_folder, work

    root, launch = arguments.output, tuple(shlex.split(arguments.launcher)) or LAUNCH
    if arguments.json and not arguments.dry_run:
        raise ConfigError("--json prints a plan and runs nothing: give --dry-run too")
    check_place(root)
    for name in arguments.cell:
        plan.find(name)
    if arguments.dry_run:
        _show(root, plan, launch, arguments.json)
        return 0
    open_folder(root, plan, asked)
    afterwards = f"When they are done, `plam {shlex.join([*words, '--output', str(root)])}` {ending}"
    if arguments.slurm_script is not None:
        from lmms_plam.files import write_text
        from lmms_plam.study.slurm import array_script

        write_text(arguments.slurm_script, array_script(root, plan, _as_worker(arguments, words), afterwards))
        print(f"wrote {arguments.slurm_script}: sbatch {arguments.slurm_script}\n{afterwards}")
        return 0
    if arguments.slurm is not None:
        from lmms_plam.study.slurm import submit

        jobs = submit(root, plan, launch, arguments.slurm)
        print(f"submitted {len(jobs)} workers: {', '.join(job.job_id for job in jobs)}; --dry-run shows what is done")
        print(afterwards)
        return 0
    from lmms_plam.study.progress import Display

    if not arguments.cell and not arguments.worker:
        for line in _left_for_others(plan, root):
            print(f"plam: {line}", file=sys.stderr)
    wanted = [plan.find(name) for name in arguments.cell] or plan.cells
    with Display(wanted) as display:
        code = work(root, plan, launch, display, only=arguments.cell, again=not arguments.worker)
    if code:
        print("plam: stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return code
    return _sum_up(root, plan, arguments)


def _as_worker(arguments: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """Return this command as one worker's."""
    launcher = ["--launcher", arguments.launcher] if arguments.launcher else []
    command = [sys.executable, "-m", "lmms_plam.cli", *words, "--output", str(arguments.output.resolve())]
    return [*command, *launcher, "--worker"]


def _show(root: Path, plan: Plan, launch: tuple[str, ...], as_json: bool) -> None:
    from rich.console import Console

    from lmms_plam.cli.inference import print_table
    from lmms_plam.report.tables import Table
    from lmms_plam.study.cell import command
    from lmms_plam.study.state import look

    standings = look(root, plan)
    commands = {cell.name: command(cell, root, launch) for cell in plan.cells}
    if as_json:
        told = [
            {**cell.to_dict(), "state": standings[cell.name].state, "command": commands[cell.name]}
            for cell in plan.cells
        ]
        print(json.dumps({"cells": told, "notes": list(plan.notes)}, indent=2))
        return
    rows = [
        (cell.name, standings[cell.name].state, f"{cell.cost:.1f}", f"{cell.disk / 1e6:,.0f}") for cell in plan.cells
    ]
    left = [cell for cell in plan.cells if standings[cell.name].state != "finished"]
    total = f"{sum(cell.cost for cell in left):.1f} ordinary runs and {sum(cell.disk for cell in left) / 1e6:,.0f} MB"
    notes = (
        *plan.notes,
        *_left_for_others(plan, root),
        f"{len(left)} of {len(plan.cells)} cells are left, about {total}",
    )
    print_table(Table("", ("cell", "state", "ordinary\nruns", "MB"), rows, notes, labels=2))
    console = Console(markup=False, emoji=False, soft_wrap=True)
    for cell in plan.cells:
        console.print(f"\n# {cell.name}" + (f", after {', '.join(cell.after)}" if cell.after else ""), style="bold")
        console.print(shlex.join(commands[cell.name]), highlight=False)


def _left_for_others(plan: Plan, root: Path) -> list[str]:
    """Say how many cells can't be run here, and why."""
    from lmms_plam.study.state import look

    counts = Counter(one.why for one in look(root, plan).values() if one.state == "left")
    return [
        f"{count} of {len(plan.cells)} cells {'is' if count == 1 else 'are'} left for another machine: {why}"
        for why, count in counts.items()
    ]


def _sum_up(root: Path, plan: Plan, arguments: argparse.Namespace) -> int:
    """Say what is finished and name what isn't; return the exit code."""
    from lmms_plam.study.state import LOG, look

    standings = look(root, plan)
    if arguments.cell:
        standings = {name: standings[name] for name in arguments.cell}
        for name, one in standings.items():
            if one.state == "waiting":
                raise ConfigError(f"{name} {one.why}, which isn't finished: run that first")
    lost = {name: one for name, one in standings.items() if one.state in ("failed", "skipped")}
    if not arguments.worker:
        _print_summary(root, standings, plan.notes)
        for name, one in lost.items():
            log = f" ({root / plan.find(name).folder / LOG})" if one.state == "failed" else ""
            print(f"plam: {name}, {one.state}: {one.why}{log}", file=sys.stderr)
    return 1 if lost else 0


def _print_summary(root: Path, standings: Mapping[str, Standing], notes: tuple[str, ...]) -> None:
    states = Counter(one.state for one in standings.values())
    told = ", ".join(f"{states[state]} {state}" for state in ("finished", "failed", "skipped") if states[state])
    seconds = sum(one.seconds or 0 for one in standings.values())
    print(f"{root}: of {len(standings)} cells {told or 'none finished'}; {seconds:,.0f} s of work")
    for line in notes:
        print(f"- {line}")
    for name, one in standings.items():
        if one.state == "left":
            print(f"- {name} is left for another machine: {one.why}")
