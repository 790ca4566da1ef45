"""Runs a command that doesn't outlive its starter: `python guard.py COMMAND ...`, its input a pipe of the starter's.

It begins when a first byte comes, so that its starter can say first, where others look, that this process is there.
The command, and what it starts, are a group of processes. A signal to the group reaches them and leaves this process
waiting, whose exit code is the command's. When the pipe closes, since the starter was killed, the group is ended: so no
other worker takes a cell up while a lost one still writes into its folder. A file that imports nothing of ours, since
it starts with every cell.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 30
"""Seconds between asking the group to end and ending it."""


def _end_with_starter() -> None:
    os.read(0, 1)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if not os.read(0, 1):
        return 128 + signal.SIGTERM
    try:
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{sys.argv[1]} can't be run: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_end_with_starter, daemon=True).start()
    code = command.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = _main()
    sys.stderr.flush()
    os._exit(code)
