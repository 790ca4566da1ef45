"""What racing saves a search through the paper's grid of 256 recipes on the embedded world, where most are plainly bad.

    OMP_NUM_THREADS=1 python benchmarks/racing.py [--limit 1000] [--z 2] [--flops-limit 28]

One search by lmms-eval, `plam_search_microworld` with `search.space=grid` from the recipe's start layer, against an
ordinary run of `plam_microworld` for each recipe and for the untouched VLM. FLOPs, as `benchmarks/flops.py` says, are
counted on the first `--flops-limit` documents, for it is slow: those of an ordinary run, and of searches of a few
recipes. All recipes of the grid start at one layer and share nothing but what lies below it, so the documents that each
was asked give the whole. The CPU column is CPU seconds, which other work on the machine doesn't touch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from digits_family import evaluate, whole_flops
from flops import count_flops
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from loguru import logger

from lmms_plam.harness.model import Plam

CONFIG, PLAIN, SEARCH = "microworld", "plam_microworld", "plam_search_microworld"
FEW, MORE = (
    [{"lambda_lm": step / 10, "lambda_vlm": 1 - step / 10} for step in steps] for steps in ((1, 9), range(1, 10))
)
"""Recipes of two searches, whose FLOPs tell what one recipe adds."""


def search(manager: TaskManager, limit: int, space: str | list[dict[str, float]], racing: float | str) -> Any:
    """Search as lmms-eval's command line does; return search.json."""
    options = {"search.space": space, "search.racing": racing, "search.start_layers": "4", "search.most": 1000}
    lm = Plam(CONFIG, device="cpu", **options)
    with TemporaryDirectory() as folder:
        cli_args = argparse.Namespace(output_path=folder, process_with_media=False)
        simple_evaluate(model=lm, tasks=[SEARCH], task_manager=manager, limit=limit, cli_args=cli_args)
        return json.loads(next(Path(folder).rglob("search.json")).read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="documents of the search")
    parser.add_argument("--z", type=float, default=2.0, help="standard errors behind the best at which one is dropped")
    parser.add_argument("--flops-limit", type=int, default=28, help="documents whose FLOPs are counted")
    arguments = parser.parse_args()
    logger.remove()
    manager = TaskManager(model_name="plam")

    ordinary = whole_flops(PLAIN, manager, arguments.limit, arguments.flops_limit, CONFIG)
    few, more = (
        count_flops(lambda space=space: search(manager, arguments.flops_limit, space, "off")) for space in (FEW, MORE)
    )
    added = (more - few) / (len(MORE) - len(FEW)) / arguments.flops_limit
    _, ordinary_cpu = evaluate(PLAIN, manager, arguments.limit, CONFIG)
    cpu = time.process_time()
    found = search(manager, arguments.limit, "grid", arguments.z)
    cpu = time.process_time() - cpu

    recipes = [one for one in found["recipes"] if one["kind"] != "base"]
    asked, runs = sum(one["documents"] for one in recipes), len(recipes) + 1
    flops = ordinary + added * asked
    print(
        f"{len(recipes)} recipes, {arguments.limit} documents, z = {arguments.z:g}: "
        f"{asked / arguments.limit / len(recipes):.3f} of the answers asked, "
        f"{sum(one['dropped_after'] is None for one in recipes)} recipes to the end; one recipe adds "
        f"{added * arguments.limit / ordinary:.3f} ordinary runs"
    )
    for name, cost, plain in (("FLOPs", flops, ordinary), ("CPU", cpu, ordinary_cpu)):
        print(
            f"{name:5} {runs * plain / cost:6.1f} times less than runs of their own; {cost / plain:6.1f} ordinary runs"
        )


if __name__ == "__main__":
    main()
