"""What a script sees of a run that lmms-eval's command line drives: its exit code, and why it failed as the last line.

lmms-eval prints the traceback of a failed evaluation and exits with 0. Here failures are written down where they
happen, and when the process ends, after everybody else has said goodbye, they are printed and decide the exit code.
Where nobody watches (`simple_evaluate` called by a program) they are exceptions and log messages as ever.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
from types import FrameType, TracebackType

from lmms_plam.errors import PlamError

INTERRUPTED = 130
"""Exit code of Ctrl-C, as shells have it."""

NOBODY_READS = 141
"""Exit code of a process whose output nobody reads any more, as shells have it."""

_failures: list[str] = []
_code = 1
_watched = False


def watch() -> None:
    """Let failures decide this process's exit code.

    Call it early: Python runs what is registered first last, so that W&B's goodbye, say, comes before ours.
    """
    global _watched
    if not _watched:
        _watched = True
        atexit.register(_end)


def watch_reader() -> None:
    """End quietly where nobody reads our output any more (`lmms-eval ... | head -1`), as other commands do."""
    if hasattr(signal, "SIGPIPE") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, _stop_unread)


def watch_keyboard() -> None:
    """Take over from Python, and from W&B, what is said of Ctrl-C."""
    hook = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            hook(kind, error, trace)
            return
        failed(str(error) or "interrupted", INTERRUPTED)
        sys.exit(INTERRUPTED)  # W&B learns from it how the run ended

    sys.excepthook = say


def _stop_unread(number: int, frame: FrameType | None) -> None:
    """End the process where nobody reads its output any more; the pipe may as well be some library's own."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLERR)
    if output.poll(0):
        silence_output()
        failed("", NOBODY_READS)
        sys.exit(NOBODY_READS)


def is_watched() -> bool:
    """Whether failures decide this process's exit code."""
    return _watched


def failed(reason: BaseException | str, code: int = 1) -> None:
    """Write down a failure: the process will end with this exit code and the reason as its last line."""
    global _code
    _failures.append(reason if isinstance(reason, str) else sentence(reason))
    _code = code


def sentence(error: BaseException) -> str:
    """Return one line that says why, for people: of an error of ours its text, of others the type too."""
    while type(error).__name__ == "RetryError" and error.__cause__ is not None:  # lmms-eval tries some calls five times
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, PlamError):
        return text
    name = type(error).__name__
    return f"{name}: {text} (--verbosity DEBUG shows where)" if text else f"{name} (--verbosity DEBUG shows where)"


def silence_output() -> None:
    """Send what is still to be printed nowhere: nobody reads it, and each attempt would be an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end() -> None:
    if not _failures:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_output()
    reasons = [f"lmms-plam: {reason}" for reason in dict.fromkeys(_failures) if reason]
    if reasons:
        print("", *reasons, sep="\n", file=sys.stderr)  # a progress bar may stand in the line
    sys.stderr.flush()
    os._exit(_code)  # an exit code can't be changed otherwise any more
