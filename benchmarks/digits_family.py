"""What a whole probe (all cuts) and a whole comparison of digits cost beside an ordinary run of plam_digits.

    OMP_NUM_THREADS=1 python benchmarks/digits_family.py [--limit 1001] [--rounds 2] [--flops-limit 28]

Each is one evaluation by lmms-eval, from building requests to the report, with the model loaded beforehand. Times are
the best of `--rounds` evaluations in turns; the CPU column is CPU seconds, which other work on the machine doesn't
touch. FLOPs, as `benchmarks/flops.py` says, are counted on the first `--flops-limit` documents, for it is slow, and
carried over to all of them: documents of digits have the same picture size, and what only the first one costs, where
the engine proves itself, is told apart. The comparison's model is merged from two thirds of the depth on.
"""

from __future__ import annotations

import argparse
import time
from tempfile import TemporaryDirectory

from flops import count_flops
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from loguru import logger

from lmms_plam.harness.model import Plam

PLAIN = "plam_digits"
TASKS = (PLAIN, "plam_probe_digits", "plam_compare_digits")


def evaluate(task: str, manager: TaskManager, limit: int, config: str = "digits") -> tuple[float, float]:
    """Evaluate a task as lmms-eval's command line does; return wall and CPU seconds."""
    lm = Plam(config, device="cpu")
    with TemporaryDirectory() as folder:
        cli_args = argparse.Namespace(output_path=folder, process_with_media=False)
        wall, cpu = time.perf_counter(), time.process_time()
        simple_evaluate(model=lm, tasks=[task], task_manager=manager, limit=limit, cli_args=cli_args)
        return time.perf_counter() - wall, time.process_time() - cpu


def whole_flops(task: str, manager: TaskManager, limit: int, counted: int, config: str = "digits") -> float:
    """Return the FLOPs of an evaluation of `limit` documents, from those of a quarter of `counted` and of all of it."""
    few = counted // 4
    some, more = (
        count_flops(lambda number=number: evaluate(task, manager, number, config)) for number in (few, counted)
    )
    return some + (more - some) / (counted - few) * (limit - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1001, help="documents of the timed evaluations")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--flops-limit", type=int, default=28, help="documents whose FLOPs are counted")
    arguments = parser.parse_args()
    logger.remove()
    manager = TaskManager(model_name="plam")

    flops = {task: whole_flops(task, manager, arguments.limit, arguments.flops_limit) for task in TASKS}
    best = {task: (float("inf"), float("inf")) for task in TASKS}
    for _ in range(arguments.rounds):
        for task in TASKS:
            wall, cpu = evaluate(task, manager, arguments.limit)
            best[task] = min(best[task][0], wall), min(best[task][1], cpu)

    print(f"{arguments.limit} documents, FLOPs from {arguments.flops_limit}; beside {PLAIN}: FLOPs, wall, CPU")
    for task in TASKS:
        ratios = (flops[task] / flops[PLAIN], best[task][0] / best[PLAIN][0], best[task][1] / best[PLAIN][1])
        print(
            f"{task:20} {flops[task] / arguments.limit / 1e6:8.1f} MFLOPs a document {best[task][0]:7.1f} s "
            f"{best[task][1]:7.1f} s CPU   " + " ".join(f"{ratio:5.2f}" for ratio in ratios)
        )


if __name__ == "__main__":
    main()
