"""What an identity `plam` run costs over the backend's own on the same work.

    python benchmarks/overhead.py [--questions 100] [--rounds 8]

Both models answer the same questions of plam_digits in one process, in alternating rounds; process CPU time of the
fastest round, which other programs on the machine disturb less than the clock. Claim: at most
2% more. Loading, where `plam` also merges and takes fingerprints, is not part of it.
"""

from __future__ import annotations

import argparse
import time

from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager, get_task_dict

from lmms_plam.config import load_config
from lmms_plam.harness.model import Plam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()

    config = load_config("digits")
    own = get_model("qwen2_5_vl")(pretrained=config.vlm, device="cpu", device_map="cpu", **config.backend_args)
    plam = Plam("digits", device="cpu", merge="none")
    task = get_task_dict(["plam_digits"], TaskManager(), "chat")["plam_digits"]
    task.args = None
    task.build_all_requests(limit=arguments.questions)
    for model in (own, plam):
        model.task_dict["plam_digits"] = task.dataset

    def seconds(model: object) -> float:
        started = time.process_time()
        model.generate_until(task.instances)  # type: ignore[attr-defined]
        return time.process_time() - started

    seconds(own), seconds(plam)  # warm up
    times: dict[object, list[float]] = {own: [], plam: []}
    for round_ in range(arguments.rounds):
        for model in (own, plam) if round_ % 2 else (plam, own):
            times[model].append(seconds(model))
    alone, through = (min(times[model]) for model in (own, plam))
    print(f"backend alone {alone:.2f} s, through plam {through:.2f} s: x {through / alone:.3f} (fastest of each)")


if __name__ == "__main__":
    main()
