"""The family task that compares the merged model, and further recipes, with the untouched VLM."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from loguru import logger

from lmms_plam.families.cost import Prompt, comparison_cost
from lmms_plam.families.task import FamilyOptions, FamilyTask
from lmms_plam.harness import host
from lmms_plam.harness.model import Plam, require_merge
from lmms_plam.harness.preflight import Outline
from lmms_plam.merge import BASE, by_layer
from lmms_plam.model import Variant
from lmms_plam.report.audit import AUDIT_FILES, audit_sentences, audit_warnings, audits_to_html, write_audits
from lmms_plam.report.comparison import FILES, in_words, p_text, write
from lmms_plam.report.wandb_log import log_audits, log_comparison
from lmms_plam.scoring.audits import TaskAudit, audit_task
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.record import Benchmark
from lmms_plam.stats.comparison import Analysis
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.results import Result, adjust_results

_COMPARED: WeakKeyDictionary[Plam, dict[str, tuple[list[Result], Changes, list[TaskAudit]]]] = WeakKeyDictionary()
"""By model, what its comparisons have found, by task."""


class Comparison(FamilyTask):
    """The untouched VLM against the merged model, and further recipes if the config lists some, on the same prompts."""

    reported: ClassVar[Mapping[str, bool]] = {
        "base": True,
        "merged": True,
        "difference": True,
        "ci_low": True,
        "ci_high": True,
        "p_value": False,
    }
    written = (*FILES, *AUDIT_FILES)

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> FamilyOptions:
        """Check the options, and that there is a merge to compare with, of decoder layers only.

        Raises:
            ConfigError, UnsupportedError: as for every family task, and where it could compare nothing.
        """
        options = super().foresee(config, outline)
        require_merge(outline.settings)
        for name, plan in outline.plans.items():
            by_layer(name, {tensor.name: tensor for tensor in plan.merged})
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what base, merged and further recipes cost."""
        starts = [plan.layers.start for plan in outline.plans.values()]
        return comparison_cost(starts, outline.depth or 0, share)

    @property
    def _compared(self) -> dict[str, tuple[list[Result], Changes, list[TaskAudit]]]:
        """What the comparisons of this run have found so far, by task."""
        return _COMPARED.setdefault(self.plam, {})

    def make_variants(self) -> tuple[Variant, ...]:
        """Return base and merged, then the further recipes."""
        base, *others = (Variant(name, weights=name) for name in self.plam.other_weights)
        return (base, Variant("merged"), *others)

    def clear(self, folder: Path) -> None:
        """Remove an earlier run's results, and with the first task of a run its comparison of all tasks."""
        super().clear(folder)
        if self.folder and not self._compared:
            for name in self.written:
                (folder.parent / name).unlink(missing_ok=True)

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Compare each variant with the base; write comparison.json, .csv, .md, .html and a forest plot.

        The folder above gets one of all comparisons of a run, with Holm's adjustment over them.
        The page also shows documents whose score changes, and the format audit, which has files of its own.
        """
        matrix = ScoreMatrix.read(matrix_file)
        results = adjust_results(self._compare(matrix, benchmark))
        changes = Changes.of(self.options.task, matrix, BASE, self.examples)
        audits = audit_task(self.options.task, benchmark, matrix, BASE)
        write(results, matrix_file.parent, [changes], fragments=[audits_to_html(audits)])
        write_audits(audits, matrix_file.parent)
        for result in results:
            if result.headline:
                logger.info(f"{self.options.task}: {in_words(result)}")
        for line in audit_sentences(audits):
            logger.info(line)
        for warning in audit_warnings(audits):
            logger.warning(warning)
        self._compared[self.options.task] = results, changes, audits
        if self.folder and len(self._compared) > 1:
            every, each_changes, each_audits = zip(*self._compared.values(), strict=True)
            all_audits = list(chain.from_iterable(each_audits))
            together = adjust_results(chain.from_iterable(every))
            write(together, self.folder.parent, each_changes, fragments=[audits_to_html(all_audits)])
            write_audits(all_audits, self.folder.parent)
        run = host.wandb_run()
        if run is not None:
            log_comparison(run, results, changes, matrix_file.parent)
            log_audits(run, audits)
        first = results[0].comparison
        return {
            "base": first.a,
            "merged": first.b,
            "difference": first.difference.value,
            "ci_low": first.difference.ci_low,
            "ci_high": first.difference.ci_high,
            "p_value": first.p_value,
        }

    def _compare(self, matrix: ScoreMatrix, benchmark: Benchmark) -> list[Result]:
        """Compare each variant with the base on each measure, the headline first."""
        results = []
        for place, (measure, part) in enumerate(benchmark.parts(matrix)):
            analysis = Analysis.of(part, find_metric(measure.metric))
            upwards = self._higher_is_better.get(measure.key) is not False
            better = analysis.better_than(BASE, upwards) if len(matrix.variants) > 2 else {}
            for variant in matrix.variants[1:]:
                found = analysis.compare(BASE, variant)
                task = f"{self.options.task} ({variant})" if len(matrix.variants) > 2 else self.options.task
                headline = place == 0
                notes = (*self.notes, *found.difference.notes)
                if better and headline and variant == "merged":
                    least = p_text(min(better.values()))
                    notes += (f"is any of the {len(better)} recipes better? p {least} (max-T)",)
                results.append(
                    Result(
                        task=task,
                        metric=measure.key,
                        headline=headline,
                        comparison=found,
                        perfect=analysis.perfect(benchmark.perfect_answer),
                        holm_p=None,
                        notes=notes,
                        higher_is_better=upwards,
                        better_p=better.get(variant),
                    )
                )
        return results
