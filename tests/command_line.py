"""Runs of lmms-eval's command line as processes of their own, without starting each of them from nothing.

One process imports what lmms-eval imports and reads its task index once; for each run it forks, and the child goes on
as `lmms-eval ARGUMENTS` does, through the interpreter's real end. `python tests/command_line.py` is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    code: int
    output: str
    errors: str

    @property
    def last_line(self) -> str:
        return self.errors.rstrip("\n").rpartition("\n")[2]


class CommandLine:
    """Starts runs; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __enter__(self) -> CommandLine:
        paths = (Path(__file__).parents[1], Path(__file__).parent, os.environ.get("PYTHONPATH", ""))
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __call__(self, arguments: str, *, head: int | None = None, variables: Mapping[str, str] | None = None) -> Run:
        """Run `lmms-eval ARGUMENTS`; with `head`, close its standard output after so many lines."""
        self._count += 1
        files = [self._folder / f"{self._count}.{name}" for name in ("out", "err")]
        if head is not None:
            os.mkfifo(files[0])
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"arguments": arguments.split(), "files": list(map(str, files)), "variables": dict(variables or {})}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        read = ""
        if head is not None:
            with files[0].open(encoding="utf-8") as pipe:
                read = "".join(pipe.readline() for _ in range(head))
        code = int(self._process.stdout.readline())
        output = read if head is not None else files[0].read_text(encoding="utf-8")
        return Run(code, output, files[1].read_text(encoding="utf-8"))


def _serve() -> list[str]:
    """Fork for each order; return a run's arguments in its child."""
    from functools import cache

    sys.argv = ["lmms-eval", "--model", "plam"]
    import lmms_eval.__main__  # noqa: F401
    from lmms_eval.models import get_model
    from lmms_eval.tasks import TaskManager

    index = TaskManager._get_task_and_group
    by_folder = cache(lambda folder: index(manager, folder))
    manager = TaskManager()
    get_model("plam")

    def indexed_once(self: TaskManager, folder: str) -> dict[str, object]:
        installed = folder.startswith((sys.prefix, sys.base_prefix)) or "site-packages" in folder
        return dict(by_folder(folder)) if installed else index(self, folder)

    TaskManager._get_task_and_group = indexed_once
    TaskManager()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            for descriptor, path in zip((1, 2), order["files"], strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(order["variables"])
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
            return [str(argument) for argument in order["arguments"]]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)
    os._exit(0)


if __name__ == "__main__":
    from lmms_eval.cli import dispatch

    sys.argv = ["lmms-eval", *_serve()]
    dispatch.main()
