"""The family task that compares the merged model, and further recipes, with the untouched VLM."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from loguru import logger

from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.families.cost import Prompt, comparison_cost
from lmms_plam.families.task import FamilyOptions, FamilyTask
from lmms_plam.files import digest
from lmms_plam.harness import host
from lmms_plam.harness.model import Plam, require_merge
from lmms_plam.harness.preflight import Outline
from lmms_plam.merge import BASE
from lmms_plam.model import Variant
from lmms_plam.report.audit import AUDIT_FILES, audit_sentences, audit_warnings, audits_to_html, write_audits
from lmms_plam.report.comparison import FILES, in_words, write
from lmms_plam.report.grid import GRID, draw_grid_of
from lmms_plam.report.wandb_log import log_audits, log_comparison
from lmms_plam.runs.differences import differences
from lmms_plam.runs.join import Joined
from lmms_plam.scoring.audits import TaskAudit, audit_task
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.record import Benchmark
from lmms_plam.scoring.saved import RECORD, ComparisonRecord, SavedMeasure, digest_question
from lmms_plam.stats.comparison import Settings
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.results import Result, adjust_results

_BETTER = "any_better_p"
"""The p-value that any of several recipes is better, adjusted for looking at all."""

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
    written = (*FILES, *GRID, RECORD, *AUDIT_FILES)

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> FamilyOptions:
        """Check the options, and that there is a merge to compare with.

        Raises:
            ConfigError, UnsupportedError: as for every family task, and where it could compare nothing.
        """
        options = super().foresee(config, outline)
        require_merge(outline.settings)
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what base, merged and further recipes cost."""
        starts = [plan.first_changed for plan in outline.plans.values()]
        return comparison_cost(starts, outline.depth or 0, share)

    @property
    def _compared(self) -> dict[str, tuple[list[Result], Changes, list[TaskAudit]]]:
        """What the comparisons of this run have found so far, by task."""
        return _COMPARED.setdefault(self.plam, {})

    def make_variants(self) -> tuple[Variant, ...]:
        """Return base and merged, then the further recipes."""
        base, *others = (Variant(name, weights=name) for name in self.plam.other_weights)
        return (base, Variant("merged"), *others)

    def make_numbers(self) -> Mapping[str, bool]:
        """Return the numbers of the merged model, and the same of each further recipe under its name."""
        numbers = dict(self.reported)
        for variant in self.variants[2:]:
            numbers |= {key: key.endswith("_p_value") is False for key in self._keys(variant.name).values()}
        if len(self.variants) > 2:
            numbers |= {_BETTER: False}
        return numbers

    def _keys(self, variant: str) -> dict[str, str]:
        """Return what a variant's numbers are called in lmms-eval's table, which separates names by commas."""
        numbers = ("difference", "ci_low", "ci_high", "p_value")
        if variant == "merged":
            return {"score": variant, **{number: number for number in numbers}}
        name = variant.replace(",", "_")
        name = f"recipe_{name}" if name in (*self.reported, _BETTER) else name
        return {"score": name, **{number: f"{name}_{number}" for number in numbers}}

    def clear(self, folder: Path) -> None:
        """Remove an earlier run's results, and with the first task of a run its comparison of all tasks."""
        super().clear(folder)
        if self.folder and not self._compared:
            for name in self.written:
                (folder.parent / name).unlink(missing_ok=True)

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Compare each variant with the base; write comparison.json, .csv, .md, .html and a forest plot.

        Recipes that form a grid are drawn as one, too.
        The folder above gets one of all comparisons of a run, with Holm's adjustment over them.
        The page also shows documents whose score changes, and the format audit, which has files of its own.
        """
        matrix = ScoreMatrix.read(matrix_file)
        record = self._record(matrix, benchmark, digest(matrix_file))
        record.write(matrix_file.parent)
        joined = Joined(self.options.task, benchmark, matrix, {}, 0, self.notes)
        results = adjust_results(differences(joined, BASE, Settings(), record.points_up))
        changes = Changes.of(self.options.task, matrix, BASE, self.examples)
        audits = audit_task(self.options.task, benchmark, matrix, BASE)
        about = f"{record.model}, {record.date}"
        pictures = draw_grid_of(record, results, matrix_file.parent)
        write(results, matrix_file.parent, [changes], fragments=[*pictures, audits_to_html(audits)], about=about)
        write_audits(audits, matrix_file.parent)
        headlines = [result for result in results if result.headline]
        for result in headlines:
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
            write(together, self.folder.parent, each_changes, fragments=[audits_to_html(all_audits)], about=about)
            write_audits(all_audits, self.folder.parent)
        run = host.wandb_run()
        if run is not None:
            log_comparison(run, results, changes, matrix_file.parent)
            log_audits(run, audits)
        told: dict[str, float | None] = {BASE: headlines[0].comparison.a}
        for result in headlines:
            found, keys = result.comparison, self._keys(result.comparison.variant)
            told |= {
                keys["score"]: found.b,
                keys["difference"]: found.difference.value,
                keys["ci_low"]: found.difference.ci_low,
                keys["ci_high"]: found.difference.ci_high,
                keys["p_value"]: found.p_value,
            }
        better = [result.better_p for result in headlines if result.better_p is not None]
        return told | ({_BETTER: min(better, default=None)} if len(headlines) > 1 else {})

    @property
    def _recipes(self) -> dict[str, MergeRecipe]:
        """All recipes by their variants' names."""
        config = self.plam.provenance.config
        recipes = {"merged": config.merge, **config.recipes}
        return {name: recipe for name, recipe in recipes.items() if recipe is not None}

    def _record(self, matrix: ScoreMatrix, benchmark: Benchmark, data: str) -> ComparisonRecord:
        """Return what makes the matrix comparable again."""
        provenance, documents = self.plam.provenance, self.eval_docs_no_media
        target = (lambda doc: "") if self.config.doc_to_target is None else self.doc_to_target
        asked = {doc_id: documents[doc_id] for doc_id in matrix.doc_ids.tolist()}
        return ComparisonRecord(
            task=self.options.task,
            of=self.options.of,
            model=provenance.config.name,
            fingerprint=provenance.fingerprint,
            date=datetime.now(timezone.utc).date().isoformat(),
            reference=BASE,
            recipes={name: recipe_in_words(recipe) for name, recipe in self._recipes.items()}
            | {BASE: f"{provenance.config.vlm}, untouched"},
            vlm=provenance.config.vlm,
            merges=self._recipes,
            measures=tuple(
                SavedMeasure(
                    key=one.key,
                    metric=one.metric,
                    group=one.group,
                    higher_is_better=self._higher_is_better.get(one.key) is not False,
                )
                for one in benchmark.measures
            ),
            part_columns=benchmark.part_columns,
            perfect_answer=benchmark.perfect_answer,
            data=data,
            notes=self.notes,
            asked={doc_id: digest_question(self.doc_to_text(doc), str(target(doc))) for doc_id, doc in asked.items()},
        )
