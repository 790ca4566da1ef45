"""The family task that measures a benchmark's masking curve and finds its plateau."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from lmms_eval.api.instance import Instance
from loguru import logger
from pydantic import BeforeValidator

from lmms_plam.config import ModelConfig
from lmms_plam.errors import ConfigError, DataError
from lmms_plam.families.cost import Prompt, probe_cost
from lmms_plam.families.task import FamilyOptions, FamilyTask
from lmms_plam.harness import host
from lmms_plam.harness.preflight import Outline
from lmms_plam.merge import BASE
from lmms_plam.model import QueryScope, Variant, find_decoder
from lmms_plam.probes.curve import FEWEST_CUTS, masking_curve
from lmms_plam.probes.onset import TOP_POINTS
from lmms_plam.probes.plateau import find_plateau
from lmms_plam.probes.record import CURVE, PLATEAU, Origin, analyse
from lmms_plam.report.curve import PICTURES, draw_curve
from lmms_plam.report.lengths import cut_off_warning, length_sentence
from lmms_plam.report.wandb_log import log_probe
from lmms_plam.scoring.examples import telling_documents
from lmms_plam.scoring.record import Benchmark
from lmms_plam.scoring.scorer import Scores
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

_REFINED_LEVEL = 0.98


def _read_cuts(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(type(cut) is int for cut in value)):
        return value
    raise ValueError("cuts are 'all', 'every N' or a list of layers")


class ProbeOptions(FamilyOptions):
    """Options of a masking probe, in its YAML or under `probe:` in the model config (`probe.cuts=every 4`).

    Attributes:
        cuts: `all`; `every N`: every n-th layer and the last four cuts, then each layer around the onset that these
            show; or a list of layers (`0 8 16 24` on the command line). 0 and the full depth are always there.
        queries: from which queries vision is hidden: `all`, `text`, `last`, or `authors_qwen2_5` and `authors_qwen3`,
            which do what the authors' code does instead (see lmms_plam.model.QueryScope).
        weights: `base`, the untouched VLM whatever is merged, or `merged`.
    """

    cuts: Annotated[str | list[int], BeforeValidator(_read_cuts)] = "all"
    queries: QueryScope = "all"
    weights: Literal["base", "merged"] = "base"

    @property
    def stride(self) -> int | None:
        """N of `every N`."""
        match = re.fullmatch(r"every ([1-9]\d*)", self.cuts) if isinstance(self.cuts, str) else None
        return int(match[1]) if match else None

    def layers(self, depth: int) -> list[int]:
        """Return the cut layers k to ask first, ascending.

        Raises:
            ConfigError: a cut outside 0..depth, too few cuts for a curve, or words that mean none.
        """
        listed = self.cuts.split() if isinstance(self.cuts, str) else list(map(str, self.cuts))
        if self.stride:
            chosen = {*range(0, depth, self.stride), *range(max(0, depth + 1 - TOP_POINTS), depth + 1)}
        elif self.cuts == "all":
            chosen = set(range(depth + 1))
        elif all(cut.isdecimal() for cut in listed):
            chosen = {0, *map(int, listed), depth}
        else:
            raise ConfigError(f"task {self.task}: cuts are 'all', 'every N' or a list of layers, not '{self.cuts}'")
        if outside := sorted(chosen - set(range(depth + 1))):
            raise ConfigError(f"task {self.task}: cuts lie between 0 and the model's {depth} layers, not at {outside}")
        if len(chosen) < FEWEST_CUTS:
            raise ConfigError(
                f"task {self.task}: a curve of {len(chosen)} cuts ({', '.join(map(str, sorted(chosen)))}) shows no "
                f"plateau; {FEWEST_CUTS} are the least"
            )
        return sorted(chosen)


class ProbeTask(FamilyTask):
    """What probes have in common: whose weights answer, from which queries vision is hidden, and what is said of it."""

    options: ProbeOptions

    def take_options(self) -> str | None:
        """Set scope and ground as the options say, and return the weight set of all variants; None: as loaded."""
        self.scope = self.options.queries
        untouched = self.options.weights == "base" and self.plam.provenance.merge is not None
        self.ground = BASE if untouched else None
        if not any(self.shows_anything(doc_id) for doc_id in range(len(self.eval_docs))):  # most often the first does
            logger.warning(f"{self.options.task}: no document shows an image, so that there is nothing to hide")
        return self.ground

    @property
    def model_in_words(self) -> str:
        """What the model is called, and whether its merged weights answer."""
        provenance = self.plam.provenance
        merged = self.options.weights == "merged" and provenance.merge is not None
        return f"{provenance.config.name}{' (merged)' if merged else ''}"

    @property
    def recipe_start(self) -> int | None:
        """The first layer that the model's recipe merges, if it merges."""
        merge = self.plam.provenance.merge
        return None if merge is None else merge["start_layer"]


class MaskingProbe(ProbeTask):
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
    written = (CURVE, PLATEAU, *PICTURES)

    @classmethod
    def overrides(cls, settings: ModelConfig) -> Mapping[str, Any]:
        """Return what the model config says of probes; the width is that of windows."""
        return {name: value for name, value in settings.probe.items() if name != "width"}

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> ProbeOptions:
        """Check the options, and where the VLM's depth is known the cuts.

        Raises:
            ConfigError, UnsupportedError: as for every family task.
        """
        options: ProbeOptions = cls._read(config, outline.settings)[0]
        if outline.depth is not None:
            options.layers(outline.depth)
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what the cuts cost that are asked in any case; `every N` asks more around the onset."""
        depth = outline.depth or 0
        return probe_cost(cls.foresee(config, outline).layers(depth), depth, prompt, share)

    def make_variants(self) -> tuple[Variant, ...]:
        """Return one variant for each cut that may be asked, the deepest of them sees the image in all layers."""
        weights = self.take_options()
        cuts = range(self._depth + 1) if self.options.stride else self.options.layers(self._depth)
        first = set(map(str, self.options.layers(self._depth)))
        self.later = frozenset(map(str, cuts)) - first
        if self.later:
            self.course = self._refine
        who = "the merged model" if self.options.weights == "merged" else "the untouched VLM"
        logger.info(f"{self.options.task}: asks {who} at cuts {self.options.cuts} of {self._depth} layers")
        return tuple(Variant(str(cut), cut, weights) for cut in cuts)

    def _refine(self, requests: Sequence[Instance], answer: Callable[[int], str]) -> Iterator[Collection[int]]:
        """Ask the cuts of `every N`, and then those around the onset that these show."""
        names = [self.variants[request.idx].name for request in requests]
        first = [place for place, name in enumerate(names) if name not in self.later]
        yield first
        chosen = self.later
        if self.is_complete(requests):
            try:
                chosen = self._around(self.join([(requests[place], answer(place)) for place in first]))
            except DataError as error:
                logger.warning(f"{self.options.task}: {error}; so every layer is asked")
        self.left_out = {
            (request.doc_id, name) for request, name in zip(requests, names, strict=True) if name in self.later - chosen
        }
        yield [place for place, name in enumerate(names) if name in chosen]

    def _around(self, scores: Scores) -> frozenset[str]:
        """Return the cuts around the onset: from the cut asked before the first likely one to the last likely one.

        Raises:
            DataError: what shows no curve.
        """
        metric, perfect = find_metric(scores.benchmark.headline.metric), scores.benchmark.perfect_answer
        curve = masking_curve(scores.matrix, metric, perfect_answer=perfect)
        low, high = find_plateau(curve, level=_REFINED_LEVEL).estimate.interval
        before = max((cut for cut in curve.cuts if cut < low), default=0)
        chosen = self.later & {str(cut) for cut in range(before + 1, high)}
        logger.info(
            f"{self.options.task}: the onset is between cuts {before} and {high}; more cuts asked: {len(chosen)}"
        )
        return chosen

    @property
    def _depth(self) -> int:
        return find_decoder(self.plam.model).depth

    @property
    def _samples(self) -> bool:
        """Whether answers differ by chance."""
        arguments = self.config.generation_kwargs or {}
        return bool(arguments.get("do_sample")) or float(arguments.get("temperature") or 0) > 0

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Find the plateau; write curve.json, plateau.json and the pictures beside the matrix."""
        matrix, provenance = ScoreMatrix.read(matrix_file), self.plam.provenance
        weights = provenance.vlm_weights if self.options.weights == "base" else provenance.weights
        unmoved = (matrix.answers == matrix.answers[:, :1]).all(axis=1)  # where an answer changed, something was hidden
        candidates = matrix.doc_ids if self._samples else matrix.doc_ids[unmoved]
        origin = Origin(
            task=self.options.task,
            model=provenance.fingerprint_with(weights),
            metric=benchmark.headline.metric,
            perfect_answer=benchmark.perfect_answer,
            weights=weights,
            queries=self.scope,
            name=self.model_in_words,
            date=date.today().isoformat(),
            recipe=self.recipe_start,
            chance=benchmark.chance,
            without_image=sum(not self.shows_anything(int(doc_id)) for doc_id in candidates),
        )
        probe = analyse(matrix_file, origin)
        probe.write(matrix_file.parent)
        draw_curve(probe, matrix_file.parent)
        run = host.wandb_run()
        if run is not None:
            log_probe(run, probe, matrix, matrix_file.parent, self.examples(telling_documents(matrix)))
        found = probe.plateau
        logger.info(f"{self.options.task}: {found.verdict}: {found.reason}")
        if (line := length_sentence(probe)) is not None:
            logger.info(f"{self.options.task}: {line}")
        if (line := cut_off_warning(probe)) is not None:
            logger.warning(f"{self.options.task}: {line}")
        if origin.without_image:
            logger.info(
                f"{self.options.task}: {origin.without_image} of {len(matrix.doc_ids)} documents show no image: they "
                "count in the score, and have nothing to hide"
            )
        low, high = found.estimate.interval if found.onset is not None else (None, None)
        return {"full": found.full, "onset": found.onset, "onset_low": low, "onset_high": high, "rise": found.rise}
