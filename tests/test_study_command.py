"""`plam study` as a user types it: what it shows, runs, sums up, and hands to a cluster."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from study_cells import FAKE

from lmms_plam.cli import main
from lmms_plam.errors import ConfigError
from lmms_plam.study import slurm
from lmms_plam.study.plan import ASKED, Plan
from lmms_plam.study.state import look

LAUNCHER = shlex.join(FAKE)
STUDY = {"models": ["digits"], "benchmarks": ["digits"], "steps": ["probe", "compare"], "limit": 5}


@pytest.fixture
def study(tmp_path):
    """Write a study's YAML and run it, further words behind."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))

    def run(*words: str) -> int:
        return main(["study", str(path), "--output", str(tmp_path / "runs"), "--launcher", LAUNCHER, *words])

    run.path, run.root = path, tmp_path / "runs"
    return run


def states(root: Path) -> list[str]:
    plan = Plan.read(root)
    return [one.state for one in look(root, plan).values()]


def test_a_dry_run_shows_cells_commands_cost_and_disk_and_writes_nothing(study, capsys):
    assert study("--dry-run") == 0
    told = capsys.readouterr().out
    assert "2 of 2 cells are left, about 3.4 ordinary runs and 4 MB" in told
    assert "lmms_eval --model plam --model_args config=digits,name=digits --tasks plam_probe_digits --limit 5" in told
    assert not study.root.exists()


def test_on_80_columns_a_dry_run_breaks_no_cells_name(study, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    study.path.write_text(
        yaml.safe_dump({"models": ["microworld_narrow"], "benchmarks": ["microworld_held_out"], "steps": ["compare"]})
    )
    study("--dry-run", "--json")
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    study("--dry-run")
    assert f"{cell['name']}  ready" in capsys.readouterr().out


def test_a_dry_run_tells_programs_the_states(study, capsys):
    study()
    capsys.readouterr()
    study("--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in told["cells"]] == ["finished", "finished"]


def test_a_study_is_summed_up_and_its_yaml_kept(study, capsys):
    assert study() == 0
    told = capsys.readouterr()
    assert "of 2 cells 2 finished" in told.out
    assert told.err.count(" finished in ") == 2
    assert (study.root / ASKED).read_text() == study.path.read_text()


def test_failures_are_named_at_the_end_and_decide_the_exit_code(study, capsys):
    assert main(["study", str(study.path), "--output", str(study.root), "--launcher", "false"]) == 1
    told = capsys.readouterr()
    assert "2 failed" in told.out
    assert told.err.count(", failed: exit code 1: nothing was said (") == 2
    assert "log.txt" in told.err.splitlines()[-1]


def test_one_cell_is_run_by_name_and_what_it_needs_is_said(study, capsys):
    study.path.write_text(yaml.safe_dump({**STUDY, "steps": ["probe", "search"]}))
    study("--dry-run", "--json")
    probe, search = (one["name"] for one in json.loads(capsys.readouterr().out)["cells"])
    assert study("--cell", search) == 2
    assert f"{search} needs {probe}, which isn't finished: run that first" in capsys.readouterr().err
    assert study("--cell", probe) == 0
    assert states(study.root) == ["finished", "ready"]
    assert study("--cell", probe[:-1]) == 2
    assert f"no cell '{probe[:-1]}' in this study. Did you mean '{probe}'?" in capsys.readouterr().err


def test_an_export_for_an_engine_that_isnt_here_is_left_in_a_sentence(study, capsys):
    study.path.write_text(yaml.safe_dump({**STUDY, "report_with": "vllm"}))
    said = "2 of 4 cells are left for another machine: needs vllm, which isn't installed here"
    assert study("--dry-run") == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert study() == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"plam: {said}\n")  # before anything runs
    assert told.out.count("is left for another machine: needs vllm, which isn't installed here") == 2


def test_workers_on_slurm_finish_a_study(study, tmp_path, capsys):
    submitit = pytest.importorskip("submitit")
    parameters = tmp_path / "slurm.yaml"
    parameters.write_text("cluster: local\nworkers: 2\ntimeout_min: 1\n")
    assert study("--slurm", str(parameters)) == 0
    assert "submitted 2 workers: " in capsys.readouterr().out
    folder = study.root / slurm.LOGS
    jobs = [
        submitit.LocalJob(folder, name) for name in {path.name.split("_")[0] for path in folder.glob("*_submitted.pkl")}
    ]
    assert [job.result() for job in jobs] == [0, 0]
    assert states(study.root) == ["finished", "finished"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster: local\nno_such: 1", "submitit says: .*no_such"),
        ("- a", "must hold parameters of submitit"),
        ("{", "no valid YAML"),
        (
            "cluster: local\nworkers: x",
            r"slurm\.yaml: workers is how many jobs are submitted, a whole number from 1 on, not 'x'",
        ),
        ("cluster: local\nworkers: 0", "a whole number from 1 on, not '0'"),
    ],
)
def test_parameters_that_submitit_doesnt_have_are_said(study, tmp_path, text, words):
    pytest.importorskip("submitit")
    study()
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        slurm.submit(study.root, Plan.read(study.root), FAKE, tmp_path / "slurm.yaml")


@pytest.mark.parametrize(("given", "minutes"), [("", slurm.MINUTES), ("timeout_min: 90", 90), ("slurm_time: 30", 30)])
def test_workers_on_slurm_have_time_unless_somebody_says_how_much(study, tmp_path, monkeypatch, capsys, given, minutes):
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\necho Submitted batch job 12\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "slurm.yaml").write_text(f"slurm_partition: a\n{given}\n")
    assert study("--slurm", str(tmp_path / "slurm.yaml")) == 0
    (script,) = (study.root / slurm.LOGS).glob("*_submission.sh")
    assert f"#SBATCH --time={minutes}\n" in script.read_text()
    told = capsys.readouterr().out.splitlines()[-1]
    again = f"When they are done, `plam study {study.path} --output {study.root}` makes the page"
    assert told == f"{again}, and so does `plam report {study.root} --out {study.root / 'site'}`"


def test_without_slurm_workers_are_local_only_by_name(study, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "slurm.yaml").write_text("workers: 2\ntimeout_min: 1\n")
    assert study("--slurm", str(tmp_path / "slurm.yaml")) == 2
    assert "there is no sbatch on the PATH here" in capsys.readouterr().err
    assert not (study.root / slurm.LOGS).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json"], "--json prints a plan and runs nothing: give --dry-run too"),
        (["--output", "a,b", "--dry-run"], "a comma ends a field in --model_args"),
        (["--output", __file__], f"--output takes a folder, and {__file__} is a file"),
        (["--output", f"{__file__}/runs", "--dry-run"], f"--output takes a folder, and {__file__} is a file"),
    ],
)
def test_options_that_cant_be_meant_are_refused_before_anything_runs(study, capsys, words, said):
    assert study(*words) == 2
    assert said in capsys.readouterr().err
    assert not study.root.exists()


def test_a_page_isnt_written_where_a_file_is(study, capsys):
    study()
    assert main(["report", str(study.root), "--out", str(study.path)]) == 2
    assert f"--out takes a folder, and {study.path} is a file" in capsys.readouterr().err


def test_without_submitit_slurm_says_how_to_get_it(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    (tmp_path / "slurm.yaml").write_text("workers: 2")
    assert study("--slurm", str(tmp_path / "slurm.yaml")) == 2
    assert "pip install 'lmms-plam[slurm]'; --slurm-script does without" in capsys.readouterr().err


def test_an_array_script_is_a_worker_of_this_study(study, tmp_path, capsys):
    script = tmp_path / "study.sbatch"
    assert study("--slurm-script", str(script)) == 0
    text = script.read_text()
    assert "#SBATCH --array=0-1\n" in text
    afterwards = f"When they are done, `plam study {study.path} --output {study.root}` makes the page"
    assert f"\n# {afterwards}" in text
    assert capsys.readouterr().out.splitlines()[-1].startswith(afterwards)
    assert states(study.root) == ["ready", "ready"]
    (command,) = [line for line in text.splitlines() if line.startswith("exec srun --ntasks=1 ")]
    worker = text.replace("exec srun --ntasks=1 ", "exec ")
    assert "--worker" in command
    assert subprocess.run(["bash", "-c", worker], check=False).returncode == 0
    assert states(study.root) == ["finished", "finished"]
