"""What the installed plugin adds to the start of `lmms-eval models`, and what `plam --help` costs over bare Python.

    python benchmarks/startup.py [--runs 15]

"Without the plugin" is the same command with the entry point hidden from importlib.metadata. Runs alternate; medians.
Claim: at most 0.1 s each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

HIDE = """
import importlib.metadata as metadata
find = metadata.entry_points
def entry_points(**selection):
    return metadata.EntryPoints(point for point in find(**selection) if point.name != "plam")
metadata.entry_points = entry_points
"""
LISTING = "import sys; sys.argv = ['lmms-eval', 'models']; from lmms_eval.cli.dispatch import main; main()"
HELP = "import sys; sys.argv = ['plam', '--help']; from lmms_plam.cli import main; main()"
COMMANDS = {"lmms-eval models": (HIDE + LISTING, "pass;" + LISTING), "plam --help": ("pass", HELP)}


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    for name, (without, with_plugin) in COMMANDS.items():
        pairs = [(seconds(without), seconds(with_plugin)) for _ in range(runs)]
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        print(f"{name:18} without {medians[0]:.3f} s, with {medians[1]:.3f} s: adds {medians[1] - medians[0]:+.3f} s")


if __name__ == "__main__":
    main()
