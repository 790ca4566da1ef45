"""The family tasks that come with the plugin.

A YAML of three lines makes one of any generate-until task:

task: plam_probe_mmstar
class: !function lmms_plam.harness.tasks.MaskingProbe
of: mmstar
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from loguru import logger

from lmms_plam.errors import ConfigError
from lmms_plam.harness import host
from lmms_plam.harness.family_task import FamilyOptions, FamilyTask
from lmms_plam.harness.paired import Result, adjust
from lmms_plam.harness.units import Benchmark
from lmms_plam.merge import BASE
from lmms_plam.model import QueryScope, Variant, find_decoder
from lmms_plam.probes.record import Origin, analyse
from lmms_plam.report.comparison import write
from lmms_plam.report.curve import draw_curve
from lmms_plam.report.wandb_log import log_probe, telling_documents
from lmms_plam.stats.comparison import Analysis
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

FEWEST_CUTS = 5


class ProbeOptions(FamilyOptions):
    """Options of a masking probe.

    Attributes:
        cuts: `all`, every n-th layer as `every 4`, or a list of cut layers; 0 and the full depth are always there.
        queries: from which queries vision is hidden: `all`, `text` or `last` (see lmms_plam.model.QueryScope).
    """

    cuts: str | list[int] = "all"
    queries: QueryScope = "all"

    def layers(self, depth: int) -> list[int]:
        """Return the cut layers k to ask for, ascending.

        Raises:
            ConfigError: a cut outside 0..depth, too few cuts for a curve, or words that mean none.
        """
        if isinstance(self.cuts, list):
            chosen = {0, *self.cuts, depth}
        elif self.cuts == "all":
            chosen = set(range(depth + 1))
        elif match := re.fullmatch(r"every ([1-9]\d*)", self.cuts):
            chosen = {*range(0, depth, int(match[1])), depth}
        else:
            raise ConfigError(f"task {self.task}: cuts are 'all', 'every N' or a list of layers, not '{self.cuts}'")
        if not chosen <= set(range(depth + 1)):
            raise ConfigError(
                f"task {self.task}: cuts lie between 0 and the model's {depth} layers, not {sorted(chosen)}"
            )
        if len(chosen) < FEWEST_CUTS:
            raise ConfigError(
                f"task {self.task}: a curve of {len(chosen)} cuts shows no plateau; {FEWEST_CUTS} are the least"
            )
        return sorted(chosen)


class MaskingProbe(FamilyTask):
    """The masking curve of a benchmark: its score when vision is readable in layers 0..k-1 only, for every cut k."""

    options_class = ProbeOptions
    options: ProbeOptions
    reported: ClassVar[Mapping[str, bool]] = {
        "full": True,
        "onset": False,
        "onset_low": False,
        "onset_high": False,
        "rise": True,
    }

    def make_variants(self) -> tuple[Variant, ...]:
        """Return one variant for each cut, the deepest of them the untouched model."""
        self.scope = self.options.queries
        return tuple(Variant(str(cut), cut=cut) for cut in self.options.layers(find_decoder(self.plam.model).depth))

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float]:
        """Find the plateau; write curve.json, plateau.json and the pictures beside the matrix."""
        measure = next(measure for measure in benchmark.measures if not measure.group)
        origin = Origin(self.options.task, self.plam.provenance.fingerprint, measure.metric)
        probe = analyse(matrix_file, origin)
        probe.write(matrix_file.parent)
        draw_curve(probe, matrix_file.parent)
        run = host.wandb_run()
        if run is not None:
            matrix = ScoreMatrix.read(matrix_file)
            log_probe(run, probe, matrix, matrix_file.parent, self.examples(telling_documents(matrix)))
        found = probe.plateau
        logger.info(f"{self.options.task}: {found.verdict}: {found.reason}")
        low, high = found.estimate.interval if found.onset is not None else (None, None)
        numbers = {"full": found.full, "onset": found.onset, "onset_low": low, "onset_high": high, "rise": found.rise}
        return {name: float("nan") if number is None else float(number) for name, number in numbers.items()}


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

    def make_variants(self) -> tuple[Variant, ...]:
        """Return base and merged, then the further recipes."""
        base, *others = (Variant(name, weights=name) for name in self.plam.other_weights)
        return (base, Variant("merged"), *others)

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float]:
        """Compare each variant with the base; write comparison.json, .csv, .md, .html and a forest plot."""
        matrix = ScoreMatrix.read(matrix_file)
        results = []
        for place, (measure, part) in enumerate(benchmark.parts(matrix)):
            analysis = Analysis.of(part, find_metric(measure.metric))
            for variant in matrix.variants[1:]:
                found = analysis.compare(BASE, variant)
                task = self.options.task if variant == "merged" else f"{self.options.task} ({variant})"
                headline = place == 0
                notes = found.difference.notes
                results.append(Result(task, measure.key, headline, found, analysis.perfect(), None, notes))
        write(adjust(results), matrix_file.parent)
        first = results[0].comparison
        numbers = {
            "base": first.a,
            "merged": first.b,
            "difference": first.difference.value,
            "ci_low": first.difference.ci_low,
            "ci_high": first.difference.ci_high,
            "p_value": first.p_value,
        }
        return {name: float("nan") if number is None else float(number) for name, number in numbers.items()}
