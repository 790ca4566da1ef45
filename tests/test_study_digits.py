"""A study of real commands: killed and gone on with, and split over processes, it ends as one that ran through."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import yaml
from test_harness_processes import config_file

from lmms_plam.cli import main
from lmms_plam.search.surface import Surface
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.study.plan import Plan
from lmms_plam.study.state import look

VARIABLES = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
TWO = shlex.join([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"])


def write(folder: Path, **fields) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"models": ["digits"], "benchmarks": ["digits"], **fields}))
    return path


def answers(root: Path, step: str) -> tuple:
    """Return documents, variants, answers and scores of a step's only cell."""
    (path,) = root.glob(f"cells/{step}-*/plam/*/*/matrix.parquet")
    matrix = Surface.read(path.parent).matrix if step == "search" else ScoreMatrix.read(path)
    return matrix.doc_ids.tolist(), matrix.variants, matrix.answers.tolist(), matrix.scores.tolist()


def test_a_killed_study_goes_on_within_the_cell_that_it_was_killed_in(tmp_path, monkeypatch):
    path, root = write(tmp_path, steps=["probe", "compare"], limit=40), tmp_path / "runs"
    words = ["study", str(path), "--output", str(root)]
    began = subprocess.Popen([sys.executable, "-m", "lmms_plam.cli", *words], env=VARIABLES, stderr=subprocess.DEVNULL)
    end, lines = time.monotonic() + 120, 0
    while lines < 5 * 13:  # documents times cuts
        assert time.monotonic() < end
        assert began.poll() is None
        journals = list(root.glob("cells/*/plam/digits/*/answers.0.jsonl"))
        lines = len(journals[0].read_text().splitlines()) if journals else 0
        time.sleep(0.02)
    began.kill()
    began.wait()
    plan = Plan.read(root)
    while any(one.state == "running" for one in look(root, plan).values()):
        time.sleep(0.1)
    (journal,) = root.glob("cells/*/plam/digits/*/answers.0.jsonl")
    journal.write_text(re.sub('"answer": ".*"', '"answer": "taken up"', journal.read_text()))
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 0
    assert [one.state for one in look(root, plan).values()] == ["finished", "finished"]
    documents, _, given, _ = answers(root, "probe")
    assert documents == list(range(40))
    assert 5 <= sum({*own} == {"taken up"} for own in given) < 40
    assert not list(root.rglob("answers.*.jsonl"))
    told = json.loads(next(root.glob("cells/compare-*/*_results.json")).read_text())
    assert told["results"]["plam_compare_digits"]["base,none"] > 0.5


def test_a_study_split_over_two_processes_gives_the_files_of_one(pairs, tmp_path, monkeypatch):
    model = config_file(pairs["llava"], tmp_path)
    fields = {"search.start_layers": 1, "search.racing": "off", "backend_args.dtype": "float32"}
    path = write(tmp_path, models=[str(model)], steps=["probe", "search", "compare"], limit=15, model_args=fields)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert main(["study", str(path), "--output", str(tmp_path / "one")]) == 0
    assert main(["study", str(path), "--output", str(tmp_path / "two"), "--launcher", TWO]) == 0
    for step in ("search", "probe", "compare"):
        assert answers(tmp_path / "one", step) == answers(tmp_path / "two", step), step
    (log,) = (tmp_path / "two").glob("cells/search-*/log.txt")
    assert log.read_text().count("Running on rank") == 2
