"""Workers on Slurm: an array of jobs by submitit, or as a plain script for sites without it.

Each job is a worker that takes whatever cell is ready, not a cell of its own with dependencies between jobs: a cell of
a job that was killed, or that never got its turn, is any other worker's; a study goes on by submitting again, whatever
is finished by then; and a search that ends early frees its worker for another model's probe.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_plam.errors import ConfigError, DataError
from lmms_plam.files import read_fields
from lmms_plam.study.plan import Plan
from lmms_plam.study.state import clear_failures
from lmms_plam.study.worker import work

if TYPE_CHECKING:
    from submitit import Job

LOGS = "slurm"
"""The folder of the jobs' own files."""

_WORKERS = 8
"""Jobs of an array, where nobody says how many; never more than cells."""

MINUTES = 720
"""What a job may take, where nobody says; submitit's own 5 minutes would end most cells."""


def submit(root: Path, plan: Plan, launch: tuple[str, ...], parameters: Path) -> list[Job[int]]:
    """Submit workers.

    Args:
        root: the study's folder, its plan in it.
        plan: the same.
        launch: what stands before `lmms_eval`.
        parameters: a YAML of submitit's parameters (`slurm_partition`, `timeout_min`, `gpus_per_node`, ...), `workers`,
            and `cluster`, which is `local` for processes on this machine. Left out, `timeout_min` is MINUTES.

    Raises:
        ConfigError: submitit or Slurm isn't there, or a parameter that submitit doesn't have.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "--slurm needs submitit: pip install 'lmms-plam[slurm]'; --slurm-script does without"
        ) from None
    given, _ = read_fields(parameters, "parameters of submitit by name, such as slurm_partition and timeout_min")
    cluster = given.pop("cluster", "slurm")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError(
            "--slurm: there is no sbatch on the PATH here: submit where Slurm is, or start workers on this machine by "
            f"`cluster: local` in {parameters}"
        )
    workers = given.pop("workers", _WORKERS)
    if type(workers) is not int or workers < 1:
        raise ConfigError(
            f"{parameters}: workers is how many jobs are submitted, a whole number from 1 on, not '{workers}'"
        )
    workers = min(workers, len(plan.cells))
    try:
        executor = submitit.AutoExecutor(folder=root / LOGS, cluster=cluster)
        executor.update_parameters(**{"timeout_min": MINUTES, **given})
    except (TypeError, NameError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{parameters}: submitit says: {' '.join(str(error).split())}") from None
    clear_failures(root, plan.cells)
    jobs: list[Job[int]] = executor.map_array(Part(), [str(root.resolve())] * workers, [launch] * workers)
    return jobs


class Part:
    """What a job does: be a worker; where its time is over before its work is, it is submitted again."""

    def __call__(self, root: str, launch: tuple[str, ...]) -> int:
        """Run cells until none is left.

        Raises:
            DataError: the folder holds no plan.
        """
        plan = Plan.read(Path(root))
        if plan is None:
            raise DataError(f"{root} holds no plan of a study")
        return work(Path(root), plan, launch, again=False)

    def checkpoint(self, root: str, launch: tuple[str, ...]) -> Any:
        """Return what submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, root, launch)


def array_script(root: Path, plan: Plan, worker: Sequence[str], afterwards: str) -> str:
    """Return a script for sbatch that starts workers.

    Args:
        root: the study's folder.
        plan: its cells.
        worker: the command of one worker.
        afterwards: a sentence on what is left to do when they are done.
    """
    logs = root.resolve() / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    lines = (
        "#!/bin/bash",
        "#SBATCH --job-name=plam",
        f"#SBATCH --array=0-{min(_WORKERS, len(plan.cells)) - 1}",
        f"#SBATCH --output={logs}/%A_%a.txt",
        "#SBATCH --requeue",
        "# Yours to add: --partition, --time, --gpus-per-node, --mem. Each job takes whatever cell is ready; submitted",
        "# again, the study goes on where it stopped.",
        f"# {afterwards}.",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec srun --ntasks=1 {shlex.join(worker)}",
    )
    return "\n".join(lines) + "\n"
