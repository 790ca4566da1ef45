"""Who works on a cell: a claim that one worker holds, and that another may take up when the first is gone.

Workers on many machines see each other by the study's folder alone. Claims are numbered files, `claim.0`, `claim.1`,
..., of which the last one counts, and none is ever removed: to take a cell is to make the next number, which the file
system lets one worker do. A claim is given back by writing so into it. Its holder touches it; one whose process is gone
(on this machine), or that nobody has touched for `PATIENCE` seconds (on another), may be followed by the next number.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lmms_plam.files import write_text

PATIENCE = 180.0
"""Seconds without a sign of life after which a worker on another machine counts as gone."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a claim.

    Attributes:
        place: the machine, as far as process numbers count.
        processes: numbers of the worker and of what it has started; the claim stands while one of them lives.
    """

    place: str
    processes: tuple[int, ...]

    def __str__(self) -> str:
        """Say who it is."""
        return f"process {self.processes[0]} on {self.place.partition(' ')[0]}"


class Claim:
    """A cell's claim, held until the block ends; made by `take`.

    Args:
        folder: the cell's.
        number: of the claim.
        patience: of whoever looks at it.
    """

    def __init__(self, folder: Path, number: int, patience: float) -> None:
        self._folder, self._number, self._patience = folder, number, patience
        self._path = folder / f"claim.{number}"
        self._processes = [os.getpid()]
        self._given_back = threading.Event()
        self._lost: Callable[[], None] | None = None

    @classmethod
    def take(cls, folder: Path, patience: float = PATIENCE) -> Claim | None:
        """Claim a cell; None where another worker holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        last = _last(folder)
        if last is not None and _holder(folder, last, patience) is not None:
            return None
        claim = cls(folder, 0 if last is None else last + 1, patience)
        try:
            descriptor = os.open(claim._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return None  # somebody was quicker
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(claim._content())
        return claim

    @property
    def stands(self) -> bool:
        """Whether nobody has taken the cell up in the belief that this worker is gone."""
        return _last(self._folder) == self._number

    def add(self, process: int, lost: Callable[[], None]) -> None:
        """Name a process that works on the cell, too, and what ends it should the cell be another's."""
        self._processes.append(process)
        self._lost = lost
        write_text(self._path, self._content())

    def __enter__(self) -> Claim:
        self._beat = threading.Thread(target=self._touch, daemon=True)
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_back.set()
        self._beat.join()
        with suppress(OSError):  # a full disk; then it stands until this process ends
            write_text(self._path, json.dumps({"given_back": True}))

    def _touch(self) -> None:
        while not self._given_back.wait(self._patience / 8):
            with suppress(OSError):
                os.utime(self._path)
                if not self.stands and self._lost is not None:
                    self._lost()
                    return

    def _content(self) -> str:
        return json.dumps({"place": _place(), "processes": self._processes})


def holder(folder: Path, patience: float = PATIENCE) -> Holder | None:
    """Return who works on a cell, if anybody does."""
    last = _last(folder)
    return None if last is None else _holder(folder, last, patience)


def _last(folder: Path) -> int | None:
    numbers = [int(path.suffix[1:]) for path in folder.glob("claim.*") if path.suffix[1:].isdecimal()]
    return max(numbers, default=None)


def _holder(folder: Path, number: int, patience: float) -> Holder | None:
    path = folder / f"claim.{number}"
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        told = {"place": "another machine", "processes": [0]}  # taken this moment, and not yet written
    if told.get("given_back"):
        return None
    found = Holder(str(told["place"]), tuple(told["processes"]))
    if found.place == _place() and not any(map(_lives, found.processes)):
        return None
    return None if _now(folder) - path.stat().st_mtime > patience else found


def _now(folder: Path) -> float:
    """Return the time by the clock that stamps the folder's files, which may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as file:
        os.utime(file.name)
        return os.stat(file.name).st_mtime


def _place() -> str:
    """Return this machine's name, and where there are such, its boot and its room for process numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
