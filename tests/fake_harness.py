"""A stand-in for lmms-eval that takes no time: `python tests/fake_harness.py lmms_eval ARGUMENTS`.

It writes results into --output_path. A task called `fail...` fails, as the plugin fails; one called `slow...` answers
documents until it is stopped, or somebody has made a file `go` in the folder above the cells.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> int:
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    folder, task = Path(given["--output_path"]), given["--tasks"]
    with (folder / "runs.txt").open("a") as file:
        file.write("run\n")
    if task.startswith("fail"):
        print("Traceback (most recent call last): ...", "lmms-plam: it broke", sep="\n", file=sys.stderr)
        return 1
    if task.startswith("slow"):
        for document in range(1, 1000):
            print(
                f"Model Responding: {document / 10:.0f}%|##   | {document}/1000 [00:01<00:01]",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(0.05)
            if (folder.parents[1] / "go").exists():
                break
    (folder / "0_results.json").write_text(json.dumps({"arguments": sys.argv[1:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
