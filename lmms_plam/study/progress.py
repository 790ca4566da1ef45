"""What a person sees of a worker: cells, the documents of the current one, and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lmms_plam.study.cell import Cell
from lmms_plam.study.running import Ended, documents
from lmms_plam.study.state import Standing

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))


class Display:
    """Shows a worker's progress on a terminal; elsewhere, a line for each cell that begins and ends.

    Args:
        cells: all that are to be run.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress = Progress(
            *_COLUMNS, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._all = self._progress.add_task("cells", total=len(cells), told="")
        self._one = self._progress.add_task("", total=None, told="", visible=False)
        self._waiting = False

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begins(self, cell: Cell, standings: dict[str, Standing]) -> None:
        """Show the cell, and what is left."""
        self._waiting = False
        self._began, self._left = monotonic(), time_left(self._cells, standings)
        self._show(standings)
        self._console.print(f"plam: {cell.name} begins")
        self._progress.reset(self._one, description=cell.name, total=None, visible=True, told="")

    def runs(self, log: Path) -> None:
        """Show the documents of the cell that runs."""
        if (told := documents(log)) is not None:
            done, total = told
            self._progress.update(self._one, completed=done, total=total, told=f"{done:,} of {total:,} documents")
        self._progress.update(self._all, told=self._time())

    def ended(self, cell: Cell, how: Ended | None) -> None:
        """Say how the cell ended."""
        self._progress.update(self._one, visible=False)
        if how is None:
            kept = "; its answers so far are kept" if cell.keeps_answers else " and will begin again"
            self._console.print(f"plam: {cell.name} was stopped{kept}")
        elif how.code:
            self._console.print(f"plam: {cell.name} failed after {how.seconds:,.0f} s: {how.reason}")
        else:
            self._console.print(f"plam: {cell.name} finished in {how.seconds:,.0f} s")

    def waits(self, standings: dict[str, Standing]) -> None:
        """Say whom the worker waits for."""
        self._show(standings)
        if not self._waiting:
            self._waiting = True
            who = next((one.why for one in standings.values() if one.state == "running"), "another worker")
            self._console.print(f"plam: waits for {who}")

    def _show(self, standings: dict[str, Standing]) -> None:
        done = sum(standings[cell.name].state == "finished" for cell in self._cells)
        self._progress.update(self._all, completed=done)

    def _time(self) -> str:
        if self._left is None:
            return ""
        left = max(0, round(self._left - (monotonic() - self._began)))
        return f"about {timedelta(seconds=left)} left"


def time_left(cells: Sequence[Cell], standings: dict[str, Standing]) -> float | None:
    """Return the seconds that the unfinished cells will take one after another, as the finished ones tell.

    None where none is finished yet. Each counts by its cost, and half an ordinary run for its start.
    """
    done = [(cell, seconds) for cell in cells if (seconds := standings[cell.name].seconds) is not None]
    if not done:
        return None
    pace = sum(seconds for _, seconds in done) / sum(_weight(cell) for cell, _ in done)
    open_states = ("ready", "waiting", "running")
    return pace * sum(_weight(cell) for cell in cells if standings[cell.name].state in open_states)


def _weight(cell: Cell) -> float:
    return cell.cost + 0.5
