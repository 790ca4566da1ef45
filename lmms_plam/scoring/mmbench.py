"""MMBench's score without a judge, for the languages in which lmms-eval has no task of that kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def static_score(results: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of questions right in every rotation, in percent, with answers read by rules alone.

    Args:
        results: what upstream's `mmbench_process_results` returned under `gpt_eval_score`, of all documents.
    """
    from lmms_eval.tasks.mmbench.cn_utils import mmbench_evaluator

    return 100 * float(mmbench_evaluator.eval_result(results, eval_method="static")[0])
