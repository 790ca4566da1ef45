"""The README's jobs on the embedded models, run as they stand there, give the figures that it shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
MODEL = r"--model plam --model_args config=(?:digits|microworld)"
COMMAND = rf"lmms-eval ({MODEL} --tasks (\w+)(?:,\w+)*(?: --output_path runs)?)(?=\s)"
ROW = r"^\|(plam_\w+) *\|\w+ *\| *\d+\|(\w+) *\|. *\|(\d\.\d{4})\|"
COMPARED = r"^\| (plam_\w+) \| \w+ \| ([+-]\d\.\d{4}) \| [^|]+ \| [^|]+ \| (\d\.\d{4}) \| (\d\.\d{4}) \|"
TOLERANCE = 2.5 / 100  # two of a kind's hundred answers: in bfloat16 near ties fall as processor and release have it


def figures_shown() -> dict[str, dict[str, float]]:
    """Return what the README's tables show, by task and metric."""
    shown: dict[str, dict[str, float]] = {}
    for task, metric, value in re.findall(ROW, README, re.MULTILINE):
        shown.setdefault(task, {})[metric] = float(value)
    for task, *values in re.findall(COMPARED, README, re.MULTILINE):
        shown[task] = dict(zip(("difference", "base", "merged"), map(float, values), strict=True))
    return shown


COMMANDS = {task: shlex.split(arguments) for arguments, task in re.findall(COMMAND, README)}


@pytest.mark.parametrize("job", ["plam_microworld", "plam_digits", "plam_probe_digits", "plam_compare_digits"])
def test_a_command_of_the_readme_gives_the_figures_that_it_shows(job, tmp_path):
    arguments = COMMANDS[job]
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *arguments, *([] if "runs" in arguments else ["--output_path", "runs"])],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "runs by itself" not in log, "the engine has refused, and the plain way answered"
    found = json.loads(next((tmp_path / "runs").rglob("*_results.json")).read_text())["results"]
    shown = figures_shown()
    for task in found:
        measured = {metric: found[task][f"{metric},none"] for metric in shown[task]}
        assert measured == pytest.approx(shown[task], abs=TOLERANCE), task
