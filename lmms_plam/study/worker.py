"""A worker: takes whatever cell is ready, until none is left that it could take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Protocol

from lmms_plam.errors import ConfigError, DataError
from lmms_plam.files import check_folder, write_text
from lmms_plam.study.cell import Cell
from lmms_plam.study.claim import PATIENCE, Claim
from lmms_plam.study.plan import ASKED, Plan
from lmms_plam.study.running import LAUNCH, Ended, Stop, check_room, run_cell
from lmms_plam.study.state import Standing, clear_failures, is_settled, look

_POLL = 2.0
"""Seconds between two looks at what other workers do."""


class Watcher(Protocol):
    """Is told what a worker does."""

    def begins(self, cell: Cell, standings: dict[str, Standing]) -> None:
        """A cell begins."""

    def runs(self, log: Path) -> None:
        """It still runs."""

    def ended(self, cell: Cell, how: Ended | None) -> None:
        """It has ended."""

    def waits(self, standings: dict[str, Standing]) -> None:
        """Cells are left that need what other workers do."""


def check_place(root: Path) -> None:
    """Refuse a path where no study can lie.

    Raises:
        ConfigError: it is a file, or one that lmms-eval couldn't be given.
    """
    check_folder("--output", root)
    if "," in str(root.resolve()):
        raise ConfigError(f"{root.resolve()}: a comma ends a field in --model_args, so give an --output without one")


def open_folder(root: Path, plan: Plan, asked: str) -> None:
    """Make a study's folder, or go on with one.

    Args:
        root: the folder.
        plan: what is wanted.
        asked: the YAML that it comes from, of which a copy is kept.

    Raises:
        ConfigError: a path that lmms-eval couldn't be given.
        DataError: another version's folder, a full disk, or one in which workers follow another plan.
    """
    check_place(root)
    root.mkdir(parents=True, exist_ok=True)
    check_room(root, 0)
    known = Plan.read(root)
    if known is not None and known.cells != plan.cells:
        at_work = [(name, one.why) for name, one in look(root, known).items() if one.state == "running"]
        if at_work:
            name, who = at_work[0]
            raise DataError(
                f"{root} is at work on another plan than this YAML's ({name}: {who}): let it end, or stop it, and then "
                "change the plan"
            )
    if known is None or known != plan:
        write_text(root / ASKED, asked)
        plan.write(root)


def work(
    root: Path,
    plan: Plan,
    launch: tuple[str, ...] = LAUNCH,
    watcher: Watcher | None = None,
    *,
    only: Collection[str] = (),
    again: bool = True,
    patience: float = PATIENCE,
    poll: float = _POLL,
) -> int:
    """Run cells until none is left, as one of any number of workers.

    Args:
        root: the study's folder.
        plan: its cells.
        launch: what stands before `lmms_eval`.
        watcher: is told what happens.
        only: names of the cells to run; empty for all.
        again: whether what failed before is tried again.
        patience: seconds after which a silent worker on another machine counts as gone.
        poll: seconds between two looks at what others do.

    Returns:
        0; or the exit code that a signal asks for.

    Raises:
        DataError: the disk has no room for the next cell.
    """
    wanted = [cell for cell in plan.cells if not only or cell.name in only]
    if again:
        clear_failures(root, wanted)
    with _stopped_by_signals() as stop:
        while stop.signal is None:
            standings = look(root, plan, patience)
            ready = [cell for cell in wanted if standings[cell.name].state == "ready"]
            if any(_try(root, cell, stop, launch, watcher, standings, patience) for cell in ready):
                continue
            if ready:
                continue  # others took them
            if not any(standings[cell.name].state in ("running", "waiting") for cell in wanted):
                return 0
            if only and not any(one.state == "running" for one in standings.values()):
                return 0
            if watcher is not None:
                watcher.waits(standings)
            sleep(poll)
    return 128 + stop.signal if stop.signal is not None else 0


def _try(
    root: Path,
    cell: Cell,
    stop: Stop,
    launch: tuple[str, ...],
    watcher: Watcher | None,
    standings: dict[str, Standing],
    patience: float,
) -> bool:
    """Run a cell, unless another worker does; return whether it was run."""
    claim = Claim.take(root / cell.folder, patience)
    if claim is None:
        return False
    with claim:
        if is_settled(root / cell.folder):
            return True
        if watcher is not None:
            watcher.begins(cell, standings)
        how = run_cell(root, cell, claim, stop, launch, watcher.runs if watcher is not None else lambda log: None)
        if watcher is not None:
            watcher.ended(cell, how)
    return True


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Pass Ctrl-C and a scheduler's SIGTERM on to the cell that runs, and end after it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.ask) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
