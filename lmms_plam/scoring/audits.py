"""The format audit of a task: each of its measures, of each variant against the reference; and a search's pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_plam.audit.parts import Audit, Side, audit
from lmms_plam.scoring.record import Benchmark
from lmms_plam.search.result import Search
from lmms_plam.search.surface import Surface
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import perfect_value

MOST_CUT_OFF = 0.01
"""The share of answers cut off that isn't worth a warning."""

_LEAST_LIMIT = 64
_FURTHER = 4


@dataclass(frozen=True, slots=True)
class TaskAudit:
    """The format audit of one measure.

    Attributes:
        task: the task's name.
        metric: the harness's name of the metric.
        headline: whether it is the task's first metric.
        reference: the variant that is compared with.
        variant: the variant that is compared.
        perfect: the metric's value where every document scores its best.
        found: the audit; None where nothing is known of how answers were given or read.
        notes: what a reader must know.
    """

    task: str
    metric: str
    headline: bool
    reference: str
    variant: str
    perfect: float
    found: Audit | None
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """Why it can't be said how answers were read, and what to do; empty where it can."""
        if self.found is not None and not self.found.missing:
            return ""
        if self.found is None:
            return f"{self.task}: format audit not available: nobody kept how answers were read; run it again"
        return (
            f"{self.task}: format audit not available: {self.found.missing}; `metadata: {{plam: {{reads: PATTERN}}}}`"
            " in the task's YAML says it"
        )

    @property
    def warnings(self) -> list[str]:
        """A sentence for each side of which more than a hundredth of the answers is cut off."""
        if self.found is None:
            return []
        return [_warn(self.task, side) for side in self.found.sides if (side.cut_off or 0) > MOST_CUT_OFF]


def audit_task(
    task: str,
    benchmark: Benchmark,
    matrix: ScoreMatrix,
    reference: str,
    settings: Settings | None = None,
    notes: Sequence[str] = (),
) -> list[TaskAudit]:
    """Audit a task, its headline first.

    Args:
        task: its name.
        benchmark: how it is measured; what it measures of parts of the documents alone isn't audited.
        matrix: scores of all variants.
        reference: the variant that others are compared with.
        settings: level, draws, seed.
        notes: what a reader must know.

    Raises:
        DataError: a metric can't be had of these documents.
    """
    audits = []
    for place, (measure, part) in enumerate(benchmark.parts(matrix)):
        if measure not in benchmark.measures:
            continue
        metric = find_metric(measure.metric)
        perfect = perfect_value(part, metric, benchmark.perfect_answer)
        for variant in matrix.variants:
            if variant != reference:
                found = audit(part, metric, reference, variant, settings)
                audits.append(
                    TaskAudit(task, measure.key, place == 0, reference, variant, perfect, found, tuple(notes))
                )
    return audits


def audit_pick(surface: Surface, search: Search) -> TaskAudit:
    """Audit what a search's pick changes on the documents that it was tuned on."""
    base, pick = search.record.base.name, search.pick
    found = audit(surface.matrix, surface.metric, base, pick)
    return TaskAudit(search.record.task, search.record.metric, True, base, pick, search.perfect, found)


def _warn(task: str, side: Side) -> str:
    tokens = "token" if side.limit == 1 else "tokens"
    limit = "by the limit on new tokens" if side.limit is None else f"at {side.limit} new {tokens}"
    sure = "cut off" if side.sure else "likely cut off"
    proposed = max(_LEAST_LIMIT, _FURTHER * (side.limit or 0))
    return (
        f"{task}: {side.cut_off:.1%} of the answers of {side.variant} are {sure} {limit}: raise it, such as"
        f" --gen_kwargs max_new_tokens={proposed}, and run again"
    )
