"""Workers run each cell once, go on where they stopped, and say what failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from study_cells import FAKE, cell, plan, runs

from lmms_plam.errors import ConfigError, DataError
from lmms_plam.study import claim as claims
from lmms_plam.study import guard, running
from lmms_plam.study.claim import Claim, holder
from lmms_plam.study.plan import Plan
from lmms_plam.study.progress import Display, time_left
from lmms_plam.study.running import documents
from lmms_plam.study.state import FAILURE, LOG, MANIFEST, look
from lmms_plam.study.worker import open_folder, work

WORKER = """
import sys
from pathlib import Path
from lmms_plam.study.plan import Plan
from lmms_plam.study.worker import work
root = Path(sys.argv[1])
sys.exit(work(root, Plan.read(root), tuple(sys.argv[2:]), poll=0.05, again=False))
"""


def study(root: Path, *cells) -> Plan:
    """Make a study's folder."""
    made = plan(*cells)
    open_folder(root, made, "models: []\n")
    return made


def states(root: Path, made: Plan) -> dict[str, str]:
    return {name: one.state for name, one in look(root, made).items()}


def start(root: Path) -> subprocess.Popen:
    """Start a worker as a process of its own."""
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(root), *FAKE], env=variables)


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_finished_cell_has_a_manifest_that_says_how_it_came_about(tmp_path):
    made = study(tmp_path, cell("a"), cell("b", "a"))
    assert work(tmp_path, made, FAKE) == 0
    assert states(tmp_path, made) == {"a": "finished", "b": "finished"}
    told = json.loads((tmp_path / "cells" / "a" / MANIFEST).read_text())
    assert told["command"] == [*FAKE, "lmms_eval", "--tasks", "quick", "--output_path", str(tmp_path / "cells" / "a")]
    assert told["code"] == 0
    assert told["versions"]["lmms-plam"]
    assert told["started"] <= told["ended"]


def test_a_finished_cell_is_not_run_again(tmp_path):
    made = study(tmp_path, cell("a"))
    work(tmp_path, made, FAKE)
    work(tmp_path, made, FAKE)
    assert runs(tmp_path, "a") == 1


def test_a_failure_costs_what_needs_it_and_nothing_else(tmp_path):
    made = study(tmp_path, cell("bad", task="fail"), cell("after", "bad"), cell("last", "after"), cell("other"))
    work(tmp_path, made, FAKE)
    assert states(tmp_path, made) == {"bad": "failed", "after": "skipped", "last": "skipped", "other": "finished"}
    found = look(tmp_path, made)
    assert found["bad"].why == "exit code 1: it broke"
    assert found["after"].why == "needs bad"


def test_what_failed_is_tried_again_by_the_next_study_but_not_by_a_worker_beside_it(tmp_path):
    made = study(tmp_path, cell("bad", task="fail"))
    work(tmp_path, made, FAKE)
    work(tmp_path, made, FAKE, again=False)
    assert runs(tmp_path, "bad") == 1
    work(tmp_path, made, FAKE)
    assert runs(tmp_path, "bad") == 2


def test_a_command_that_writes_no_results_has_failed_whatever_its_exit_code(tmp_path):
    made = study(tmp_path, cell("a"))
    work(tmp_path, made, ("true",))
    assert look(tmp_path, made)["a"].why == "it wrote no results, and ended with exit code 0: nothing was said"


def test_a_launcher_that_isnt_there_is_said(tmp_path):
    made = study(tmp_path, cell("a"))
    work(tmp_path, made, ("no-such-launcher",))
    assert look(tmp_path, made)["a"].why == "exit code 127: no-such-launcher can't be run: No such file or directory"


def test_a_cell_for_a_package_that_isnt_here_is_left_with_what_needs_it(tmp_path):
    made = study(tmp_path, cell("a", needs=("no_such_package",)), cell("b", "a"), cell("c"))
    assert work(tmp_path, made, FAKE) == 0
    assert states(tmp_path, made) == {"a": "left", "b": "left", "c": "finished"}


def test_a_package_that_is_there_and_broken_is_named_where_the_harness_hides_it(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("import no_such_part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = study(tmp_path / "study", cell("serve", task="fail", needs=("vllm",)))
    work(tmp_path / "study", made, FAKE)
    why = look(tmp_path / "study", made)["serve"].why
    assert (
        why
        == "exit code 1: vllm is installed and can't be imported: ModuleNotFoundError: No module named 'no_such_part'"
    )


VLLM_LOG = """
$ python -m lmms_eval --model vllm --tasks plam_digits
2026-11-26 11:16:42 | INFO | lmms_eval - ValueErrors: none so far
(VllmWorker-0 pid=6223) ERROR 11-26 11:27:37 [multiproc_executor.py:953] Traceback (most recent call last):
(VllmWorker-0 pid=6223) ERROR 11-26 11:27:37 [multiproc_executor.py:953] ValueError: Available memory is too little
{filler}
(EngineCore pid=6197) ERROR 11-26 11:27:40 [core.py:1510] Exception: See stack trace for root cause.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
\x1b[32m2026-11-26 11:27:42\x1b[0m | \x1b[31m\x1b[1mERROR \x1b[0m | Error during evaluation: Engine core failed.
(MainProcess pid=6100) INFO 11-26 11:27:43 [utils.py:628] [shutdown] Process manager: send sigterm
"""


def test_of_an_engine_of_several_processes_the_one_is_quoted_that_failed_first(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(VLLM_LOG.format(filler="(EngineCore pid=6197) INFO a line of a long log\n" * 1000))
    assert running.last_said(log) == "ValueError: Available memory is too little"


def test_one_cell_can_be_run_by_its_name(tmp_path):
    made = study(tmp_path, cell("a"), cell("b"), cell("c", "b"))
    work(tmp_path, made, FAKE, only=["b"])
    assert states(tmp_path, made) == {"a": "ready", "b": "finished", "c": "ready"}
    assert made.find("b").name == "b"
    with pytest.raises(ConfigError, match=r"no cell 'bb' in this study\. Did you mean 'b'\?"):
        made.find("bb")


def test_workers_beside_each_other_run_no_cell_twice(tmp_path):
    cells = [cell(f"c{number}", *([f"c{number - 5}"] if number >= 5 else [])) for number in range(25)]
    made = study(tmp_path, *cells)
    workers = [start(tmp_path) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert set(states(tmp_path, made).values()) == {"finished"}
    assert {runs(tmp_path, one.name) for one in made.cells} == {1}


def test_a_worker_waits_for_what_another_one_runs(tmp_path):
    made = study(tmp_path, cell("a", task="slow"), cell("b", "a"))
    other = start(tmp_path)
    wait_for(lambda: runs(tmp_path, "a"))
    threading.Timer(0.5, (tmp_path / "go").touch).start()
    assert work(tmp_path, made, FAKE, poll=0.05) == 0
    assert other.wait(20) == 0
    assert [runs(tmp_path, name) for name in ("a", "b")] == [1, 1]


def test_a_killed_workers_command_ends_too_and_its_cell_is_taken_up(tmp_path):
    made = study(tmp_path, cell("a", task="slow"))
    worker = start(tmp_path)
    wait_for(lambda: runs(tmp_path, "a"))
    worker.kill()
    worker.wait()
    wait_for(lambda: states(tmp_path, made)["a"] == "ready")
    size = (tmp_path / "cells" / "a" / LOG).stat().st_size
    time.sleep(0.3)
    assert (tmp_path / "cells" / "a" / LOG).stat().st_size == size, "nobody writes there any more"
    (tmp_path / "go").touch()
    work(tmp_path, made, FAKE)
    assert states(tmp_path, made) == {"a": "finished"}


def test_a_command_begins_only_once_its_claim_names_it(tmp_path):
    made = tmp_path / "made"
    command = [sys.executable, "-I", guard.__file__, "touch", str(made)]
    lost = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    lost.stdin.close()
    assert lost.wait(20) != 0
    assert not made.exists()
    told = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    told.stdin.write(b"1")
    told.stdin.flush()
    assert told.wait(20) == 0
    told.stdin.close()
    assert made.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_the_study_goes_on_later(tmp_path, number):
    made = study(tmp_path, cell("a", task="slow"), cell("b"))
    worker = start(tmp_path)
    wait_for(lambda: runs(tmp_path, "a"))
    worker.send_signal(number)
    assert worker.wait(20) == 128 + number
    assert states(tmp_path, made) == {"a": "ready", "b": "ready"}
    assert not (tmp_path / "cells" / "a" / FAILURE).exists()


@pytest.mark.parametrize(
    ("step", "said"),
    [("probe", "was stopped; its answers so far are kept"), ("serve", "was stopped and will begin again")],
)
def test_a_stopped_cell_is_said_to_go_on_only_where_answers_are_kept(capsys, step, said):
    stopped = replace(cell("a"), step=step)
    with Display([stopped]) as display:
        display.ended(stopped, None)
    assert capsys.readouterr().err.strip() == f"plam: a {said}"


def test_a_worker_on_another_machine_keeps_its_cell_as_long_as_it_gives_signs_of_life(tmp_path):
    folder = tmp_path / "cells" / "a"
    folder.mkdir(parents=True)
    (folder / "claim.0").write_text(json.dumps({"place": "far-away x", "processes": [1]}))
    assert Claim.take(folder, patience=60) is None
    assert str(holder(folder, 60)) == "process 1 on far-away"
    long_ago = time.time() - 61
    os.utime(folder / "claim.0", (long_ago, long_ago))
    assert holder(folder, 60) is None
    taken = Claim.take(folder, patience=60)
    assert taken is not None
    assert taken.stands
    assert Claim.take(folder, patience=60) is None


def test_of_many_that_follow_a_lost_worker_one_gets_the_cell(tmp_path):
    (tmp_path / "claim.0").write_text(json.dumps({"place": "far-away x", "processes": [1]}))
    os.utime(tmp_path / "claim.0", (0, 0))
    barrier, taken = threading.Barrier(16), []

    def take() -> None:
        barrier.wait()
        taken.append(Claim.take(tmp_path))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one is not None for one in taken) == 1


def test_a_claim_shows_signs_of_life_and_is_given_back(tmp_path):
    with Claim.take(tmp_path, patience=0.4) as mine:
        time.sleep(1)
        assert holder(tmp_path, 0.4) is not None
        assert mine.stands
    assert holder(tmp_path) is None


def test_a_worker_that_was_taken_for_lost_ends_its_command_and_writes_nothing(tmp_path, monkeypatch):
    made = study(tmp_path, cell("a", task="slow"))
    monkeypatch.setattr(claims, "_lives", lambda process: True)

    def overtake() -> None:
        wait_for(lambda: runs(tmp_path, "a"))
        (tmp_path / "cells" / "a" / "claim.1").write_text(json.dumps({"place": "far-away x", "processes": [1]}))

    thread = threading.Thread(target=overtake)
    thread.start()
    with Claim.take(tmp_path / "cells" / "a", patience=0.8) as mine:
        assert running.run_cell(tmp_path, made.cells[0], mine, running.Stop(), FAKE) is None
    thread.join()
    assert not (tmp_path / "cells" / "a" / MANIFEST).exists()
    assert not (tmp_path / "cells" / "a" / FAILURE).exists()


def test_a_plan_is_not_changed_under_a_running_study(tmp_path):
    study(tmp_path, cell("a", task="slow"))
    worker = start(tmp_path)
    wait_for(lambda: runs(tmp_path, "a"))
    with pytest.raises(DataError, match=r"at work on another plan than this YAML's \(a: process \d+ on "):
        open_folder(tmp_path, plan(cell("b")), "")
    open_folder(tmp_path, plan(cell("a", task="slow")), "")
    (tmp_path / "go").touch()
    assert worker.wait(20) == 0
    open_folder(tmp_path, plan(cell("b")), "")
    assert [one.name for one in Plan.read(tmp_path).cells] == ["b"]
    assert (tmp_path / "cells" / "a" / MANIFEST).exists(), "what another plan finished stays"


def test_a_disk_without_room_stops_the_study_and_loses_nothing(tmp_path, monkeypatch):
    made = study(tmp_path, cell("a"), cell("b", disk=10**18))
    with pytest.raises(DataError, match=r"the disk of .* MB left, and about .* MB are needed: what is finished stays"):
        work(tmp_path, made, FAKE)
    assert states(tmp_path, made) == {"a": "finished", "b": "ready"}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(DataError, match="the disk of"):
        open_folder(tmp_path, made, "")


def test_a_comma_in_the_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a comma ends a field"):
        open_folder(tmp_path / "a,b", plan(cell("a")), "")


def test_documents_are_read_off_the_last_bar_of_answers(tmp_path):
    log = tmp_path / LOG
    assert documents(log) is None
    bars = ("Model Responding:  35%|█| 7/20 [0:1<0:1]", "plam_blimp:  45%|█| 9/20 [0:1<0:1]", "100%|█| 8/8 [0:1<0:0]")
    log.write_text("\r".join(bars))
    assert documents(log) == (9, 20)


def test_the_time_left_is_told_from_the_cells_that_are_finished(tmp_path):
    made = study(tmp_path, cell("a", cost=1.5), cell("b", "a", cost=3.5), cell("c", cost=1.5))
    assert time_left(made.cells, look(tmp_path, made)) is None
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / MANIFEST).write_text('{"seconds": 10}')
    assert time_left(made.cells, look(tmp_path, made)) == pytest.approx(30)
