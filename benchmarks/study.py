"""A study's own cost: planning, what it adds to its commands, and do many workers that are killed run each cell once?

`plan`: five models on nine benchmarks in four steps. `overhead`: a study of digits, whose wall time is compared with
that of its commands alone, each timed from its own start to its own end. `scale`: 200 cells that sleep, in chains of
four, on 50 workers of which a random one is killed (SIGKILL) and replaced again and again; a cell counts twice where a
command was at work on it while another one was. Run:

    python benchmarks/study.py [plan] [overhead] [scale] [--limit 100] [--cells 200] [--workers 50] [--kills 100]
"""

from __future__ import annotations

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from lmms_plam.study.cell import STUDY, Cell
from lmms_plam.study.plan import Plan
from lmms_plam.study.state import look

MODELS = ("qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_4b", "qwen3_vl_8b", "llava_1_5_7b")
STEPS = ("probe", "search", "compare", "attention")

TIMED = """
import subprocess, sys, time
began = time.monotonic()
code = subprocess.run([sys.executable, "-m", *sys.argv[2:]]).returncode
with open(sys.argv[1], "a") as file:
    file.write(f"{time.monotonic() - began}\\n")
sys.exit(code)
"""

SLEEPER = """
for folder; do :; done
trap 'rmdir "$folder/at_work"; exit 143' TERM
mkdir "$folder/at_work" || echo "$folder" >> "$1/twice"
sleep "$2" & wait $!
echo '{}' > "$folder/0_results.json"
rmdir "$folder/at_work"
"""

WORKER = """
import sys
from pathlib import Path
from lmms_plam.study.plan import Plan
from lmms_plam.study.worker import work
root = Path(sys.argv[1])
sys.exit(work(root, Plan.read(root), tuple(sys.argv[2:]), again=False))
"""


def plan() -> None:
    from lmms_plam.study.expand import plan_study
    from lmms_plam.study.schema import Study

    began = time.perf_counter()
    study = Study(models=MODELS, benchmarks=("nine",), steps=STEPS)
    cells = plan_study(study).cells
    print(f"plan: {len(cells)} cells in {time.perf_counter() - began:.2f} s")


def overhead(limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed, times = folder / "timed.py", folder / "times"
        timed.write_text(TIMED)
        asked = {
            "models": ["digits"],
            "benchmarks": ["digits"],
            "steps": ["probe", "compare", "attention"],
            "limit": limit,
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(asked))
        launcher = shlex.join([sys.executable, str(timed), str(times)])
        words = ["study", str(folder / "study.yaml"), "--output", str(folder / "runs"), "--launcher", launcher]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "lmms_plam.cli", *words], check=True, stderr=subprocess.DEVNULL)
        wall, inside = time.monotonic() - began, [float(line) for line in times.read_text().split()]
    share = wall / sum(inside) - 1
    print(f"overhead: {len(inside)} commands took {sum(inside):.1f} s, the study {wall:.1f} s: {share:+.1%}")


def scale(n_cells: int, n_workers: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sleeper = root / "sleeper.sh"
        sleeper.write_text(SLEEPER)
        cells = [_sleeping(number) for number in range(n_cells)]
        made = Plan.of(cells)
        made.write(root)
        launch = ("sh", str(sleeper), str(root), "1.5")
        command = [sys.executable, "-c", WORKER, str(root), *launch]
        began = time.monotonic()
        workers = [subprocess.Popen(command) for _ in range(n_workers)]
        killed = 0
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.2)
            living = [place for place, worker in enumerate(workers) if worker.poll() is None]
            if killed < kills and living:
                place = rng.choice(living)
                workers[place].kill()
                workers[place].wait()
                workers[place] = subprocess.Popen(command)
                killed += 1
        seconds = time.monotonic() - began
        states = Counter(one.state for one in look(root, made).values())
        begun = sum(len(list((root / cell.folder).glob("claim.*"))) for cell in cells)
        twice = (root / "twice").read_text().count("\n") if (root / "twice").exists() else 0
    print(
        f"scale: {dict(states)} of {n_cells} cells after {seconds:.0f} s on {n_workers} workers, {killed} of which were"
        f" killed; cells were taken {begun} times, and {twice} times while another command was at work on them"
    )


def _sleeping(number: int) -> Cell:
    name, after = f"cell-{number}", (f"cell-{number - 1}",) if number % 4 else ()
    arguments = ("--output_path", f"{STUDY}/cells/{name}")
    return Cell(name, "model", "probe", ("sleep",), "lmms_eval", arguments, after)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["plan", "overhead", "scale"], help="plan, overhead, scale (all)")
    parser.add_argument("--limit", type=int, default=100, help="documents of digits (100)")
    parser.add_argument("--cells", type=int, default=200, help="cells of the simulation (200)")
    parser.add_argument("--workers", type=int, default=50, help="workers of the simulation (50)")
    parser.add_argument("--kills", type=int, default=100, help="workers that are killed (100)")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed (0)")
    arguments = parser.parse_args()
    if "plan" in arguments.parts:
        plan()
    if "overhead" in arguments.parts:
        overhead(arguments.limit)
    if "scale" in arguments.parts:
        scale(arguments.cells, arguments.workers, arguments.kills, arguments.seed)
