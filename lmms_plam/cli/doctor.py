"""`plam doctor`: does lmms-eval see our model and tasks, do a probe and a comparison run here, and what is off."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmms_plam.harness.model import Plam

NAME = "doctor"
HELP = "say whether lmms-eval sees the plugin's model and tasks, whether a probe and a comparison run, and what is off"

_ASKED = 14
"""Questions of the trial: the first two grids of digits, for an interval needs two clusters."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is well, and if not, what to do."""

    subject: str
    well: bool
    detail: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--model", metavar="CONFIG", default="digits", help="try this model config instead of the embedded pair digits"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; exit code 1 if something is off."""
    findings = [finding for check in CHECKS for finding in _guarded(check)]
    if {finding.subject for finding in findings if finding.well} >= NEEDED:
        findings += _guarded(partial(_trial, arguments.model))
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_table(findings)
    return 0 if all(finding.well for finding in findings) else 1


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that itself fails is a finding: the doctor never crashes."""
    try:
        yield from check()
    except Exception as error:
        name = getattr(check, "func", check).__name__.strip("_").replace("_", " ")
        yield Finding(name, False, f"{type(error).__name__}: {error}")


def _versions() -> Iterator[Finding]:
    from importlib.metadata import version

    yield Finding("lmms-plam", True, version("lmms-plam"))
    host = version("lmms-eval")
    made_for = host.split(".")[:2] == ["0", "7"]
    yield Finding("lmms-eval", made_for, host if made_for else f"{host}: this lmms-plam is made for 0.7")
    yield Finding("torch, transformers", True, f"{version('torch')}, {version('transformers')}")


def _model_type() -> Iterator[Finding]:
    from importlib.metadata import entry_points

    from lmms_eval.models import get_model, list_available_models

    declared = [point.name for point in entry_points(group="lmms_eval.models")]
    if "plam" not in declared or "plam" not in list_available_models():
        yield Finding(
            "model type plam", False, "lmms-eval doesn't see it: install lmms-plam in lmms-eval's environment"
        )
        return
    yield Finding("model type plam", True, f"{get_model('plam').__module__}")


def _tasks() -> Iterator[Finding]:
    from lmms_eval.tasks import TaskManager

    from lmms_plam.paths import data_folder

    folder = data_folder("tasks")
    seen = sorted(name for name in TaskManager().all_tasks if name.startswith("plam_"))
    shown = ", ".join(seen)
    yield Finding("tasks", bool(seen), shown or f"lmms-eval doesn't see {folder}: give it as --include_path {folder}")


def _backends() -> Iterator[Finding]:
    from lmms_eval.models import get_model

    from lmms_plam.harness.model_types import BACKENDS

    for name in dict.fromkeys(BACKENDS.values()):
        try:
            get_model(name)
            yield Finding(f"backend {name}", True, "can be imported")
        except Exception as error:
            yield Finding(f"backend {name}", False, f"can't be imported: {type(error).__name__}: {error}")


def _configs() -> Iterator[Finding]:
    from lmms_plam.config import load_config, shipped_configs

    names = shipped_configs()
    for name in names:
        load_config(name)
    yield Finding("model configs", True, ", ".join(names))


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("device", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    else:
        yield Finding("device", True, "CPU only: fine for digits, slow for models of 3B and more")


CHECKS = (_versions, _model_type, _tasks, _backends, _configs, _device)
NEEDED = frozenset({"model type plam", "tasks"})
"""What must be well for a trial to make sense."""


def _trial(config: str) -> Iterator[Finding]:
    """Ask the first questions of digits of a model, as a probe and a comparison would, and look at what came of it."""
    from loguru import logger

    from lmms_plam.harness.model import Plam

    logger.remove()
    told: list[str] = []
    logger.add(lambda message: told.append(message.record["message"]), level="ERROR")
    plam = Plam(config=config)
    tasks = {"plam_probe_digits": "full", "plam_compare_digits": "difference"}
    if plam.provenance.config.merge is None:
        del tasks["plam_compare_digits"]
    with TemporaryDirectory() as folder:
        results = _evaluate(plam, list(tasks), folder)
    for task, number in tasks.items():
        value = results[task].get(f"{number},none")
        said = f"{_ASKED} questions of digits: {number} {value:.4f}" if isinstance(value, float) else "it has no result"
        yield Finding(task, isinstance(value, float), said)
        proof = plam.proofs[task]
        if proof.why:
            yield Finding("engine", False, f"{task} runs plainly: {proof.why}")
        else:
            pictures = (
                ""
                if proof.hidden is None
                else f"; another picture changes {proof.hidden:.1e} where hidden, {proof.seen:.1e} where seen"
            )
            said = f"{proof.variants} variants, largest difference {proof.largest:.1e} of {proof.allowed:.1e} allowed"
            yield Finding("engine", True, said + pictures)
    for message in told:
        yield Finding("error", False, message)


def _evaluate(plam: Plam, tasks: list[str], folder: str) -> dict[str, dict[str, Any]]:
    """Run tasks on the first questions through lmms-eval, in this process."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    arguments = argparse.Namespace(output_path=folder, process_with_media=False)
    manager = TaskManager(model_name="plam")
    found = simple_evaluate(model=plam, tasks=tasks, task_manager=manager, limit=_ASKED, cli_args=arguments)
    results: dict[str, dict[str, Any]] = found["results"]
    return results


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for finding in findings:
        mark = Text("ok", style="green") if finding.well else Text("off", style="red")
        table.add_row(mark, Text(finding.subject), Text(finding.detail))
    console = Console()
    console.print(table)
    off = sum(not finding.well for finding in findings)
    console.print("All well." if not off else f"{off} of {len(findings)} need attention.")
