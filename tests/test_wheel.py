"""The built wheel, in an empty environment, runs the main job: nothing it needs stays behind in the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An empty virtual environment with our wheel; its dependencies are borrowed from the running one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run(build, check=True)
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    site = next((folder / "env").glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env"


def run(environment: Path, *command: str, folder: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = environment / "bin" / "python"
    done = subprocess.run(
        [str(python), *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_comes_from_the_wheel(environment, tmp_path):
    printed = run(environment, "-c", "import lmms_plam; print(lmms_plam.__file__)", folder=tmp_path)
    assert printed.startswith(str(environment))


def test_the_wheel_holds_what_a_page_needs_beside_code(environment, tmp_path):
    code = "from importlib.resources import files; print(*(one.name for one in files('lmms_plam.site').iterdir()))"
    assert {"page.css", "page.js"} <= set(run(environment, "-c", code, folder=tmp_path).split())


def test_the_main_job_runs_from_the_wheel(environment, tmp_path):
    what = ("--model", "plam", "--model_args", "config=digits", "--tasks", "plam_digits")
    run(environment, "-m", "lmms_eval", *what, "--limit", "4", "--output_path", "runs", folder=tmp_path)
    results = json.loads(next(tmp_path.glob("runs/**/*_results.json")).read_text())
    assert results["n-samples"]["plam_digits"]["effective"] == 4
    record = json.loads(next(tmp_path.glob("runs/**/*_plam.json")).read_text())
    assert record["config"]["name"] == "digits"
