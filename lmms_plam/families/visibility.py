"""Family tasks that hide the picture elsewhere than late, or switch attention off, on a benchmark's prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from loguru import logger
from pydantic import Field

from lmms_plam.config import ModelConfig
from lmms_plam.errors import ConfigError
from lmms_plam.families.cost import Prompt, probe_cost
from lmms_plam.families.probe import ProbeOptions, ProbeTask
from lmms_plam.harness import host
from lmms_plam.harness.preflight import Outline
from lmms_plam.model import Variant, find_decoder
from lmms_plam.probes.visibility import Place, Visibility, findings, visibility
from lmms_plam.report.visibility import FILES, write
from lmms_plam.report.wandb_log import log_visibility
from lmms_plam.scoring.record import Benchmark
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric


class VisibilityOptions(ProbeOptions):
    """Options of early hiding, windows and headroom, as those of a masking probe.

    Attributes:
        cuts: the layers k, or where windows begin: `all`, `every N` or a list.
        queries: from which queries vision is hidden: `all`, `text` (default, so that vision goes on reading vision) or
            `last`.
        width: how many layers a window hides; 1 for single layers.
    """

    queries: Literal["all", "text", "last"] = "text"
    width: Annotated[int, Field(ge=1)] = 4


class VisibilityProbe(ProbeTask):
    """A benchmark with its picture hidden, or with attention silent, in several places, against the full model."""

    options_class = VisibilityOptions
    options: VisibilityOptions
    written = FILES

    @classmethod
    def overrides(cls, settings: ModelConfig) -> Mapping[str, Any]:
        """Return what the model config says of probes."""
        return settings.probe

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> VisibilityOptions:
        """Check the options, and where the VLM's depth is known the places.

        Raises:
            ConfigError, UnsupportedError: as for every family task.
        """
        options: VisibilityOptions = cls._read(config, outline.settings)[0]
        if outline.depth is not None:
            cls.places(options, outline.depth)
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what all places cost together, in ordinary runs of the prompt."""
        options, depth = cls.foresee(config, outline), outline.depth or 0
        computed = prompt if options.queries != "all" else replace(prompt, text_after=prompt.tokens)
        starts = [place.border for place in cls.places(options, depth) if place.kind != "silent"]
        return probe_cost(starts, depth, computed, share)

    @classmethod
    @abstractmethod
    def places(cls, options: VisibilityOptions, depth: int) -> list[Place]:
        """Return what to ask beside the full model.

        Raises:
            ConfigError: places that the model doesn't have.
        """

    @abstractmethod
    def numbers(self, found: Visibility) -> dict[str, float | None]:
        """Return the numbers named in `reported`."""

    def make_variants(self) -> tuple[Variant, ...]:
        """Return a variant for each place, and the full model."""
        weights = self.take_options()
        self._depth = depth = find_decoder(self.plam.model).depth  # kept, since reports come when the model is gone
        places = dict.fromkeys([*self.places(self.options, depth), Place("late", depth, depth)])
        return tuple(
            Variant(place.variant, weights=weights, silent=place.first)
            if place.kind == "silent"
            else Variant(place.variant, place.first, weights, until=place.end)
            for place in places
        )

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Compare every place with the full model; write visibility.json, the picture and the page."""
        found = visibility(
            ScoreMatrix.read(matrix_file),
            find_metric(benchmark.headline.metric),
            self._depth,
            perfect_answer=benchmark.perfect_answer,
            recipe=self.recipe_start,
        )
        about = f"{self.model_in_words}, {date.today().isoformat()}"
        about += f", {found.documents:,} documents, hidden from {self.scope} queries"
        write(self.options.task, about, found, matrix_file.parent)
        for line in findings(found):
            logger.info(f"{self.options.task}: {line}")
        numbers = self.numbers(found)
        run = host.wandb_run()
        if run is not None:
            log_visibility(run, self.options.task, found, numbers, matrix_file.parent)
        return numbers


class EarlyProbe(VisibilityProbe):
    """Early hiding beside late hiding: is the three-stage pattern an artefact of masking?"""

    reported: ClassVar[Mapping[str, bool]] = {
        "full": True,
        "onset": False,
        "early_limit": True,
        "early_limit_low": True,
        "early_limit_high": True,
    }

    @classmethod
    def places(cls, options: VisibilityOptions, depth: int) -> list[Place]:
        """Return late and early hiding at each k."""
        layers = options.layers(depth)
        late = [Place("late", layer, depth) for layer in layers]
        return late + [Place("early", 0, layer) for layer in layers if 0 < layer < depth]

    def numbers(self, found: Visibility) -> dict[str, float | None]:
        """Return the plateau's onset and the last layer below which the picture may be hidden."""
        value, low, high = found.early_limit or (None, None, None)
        return {
            "full": found.full,
            "onset": found.curves["late"].onset,
            "early_limit": value,
            "early_limit_low": low,
            "early_limit_high": high,
        }


class WindowProbe(VisibilityProbe):
    """The picture hidden in a window of layers that slides from the first to the last."""

    reported: ClassVar[Mapping[str, bool]] = {
        "full": True,
        "costliest_layer": False,
        "difference": True,
        "ci_low": True,
        "ci_high": True,
    }

    @classmethod
    def places(cls, options: VisibilityOptions, depth: int) -> list[Place]:
        """Return a window from each layer on at which one fits.

        Raises:
            ConfigError: a window that hides the picture everywhere, or none that fits.
        """
        if options.width >= depth:
            raise ConfigError(
                f"task {options.task}: a window of {options.width} layers hides the picture in all {depth} of the model"
            )
        starts = [layer for layer in options.layers(depth) if layer + options.width <= depth]
        return [Place("window", layer, layer + options.width) for layer in starts]

    def numbers(self, found: Visibility) -> dict[str, float | None]:
        """Return the window that costs most."""
        worst = found.costliest
        return {
            "full": found.full,
            "costliest_layer": worst.place.first,
            "difference": worst.difference,
            "ci_low": worst.low,
            "ci_high": worst.high,
        }


class HeadroomProbe(VisibilityProbe):
    """Attention switched off from layer k on, beside the masking curve: how much can a merge of attention change?"""

    reported: ClassVar[Mapping[str, bool]] = {
        "full": True,
        "onset": False,
        "attention_onset": False,
        "at_recipe": False,
        "ci_low": False,
        "ci_high": False,
    }

    @classmethod
    def places(cls, options: VisibilityOptions, depth: int) -> list[Place]:
        """Return late hiding and silence at each k."""
        layers = options.layers(depth)
        late = [Place("late", layer, depth) for layer in layers]
        return late + [Place("silent", layer, depth) for layer in layers if layer < depth]

    def numbers(self, found: Visibility) -> dict[str, float | None]:
        """Return where attention is no longer needed, and what it is worth in the layers that the recipe merges."""
        test = found.at("silent", found.recipe) if found.recipe is not None else None
        return {
            "full": found.full,
            "onset": found.curves["late"].onset,
            "attention_onset": found.curves["silent"].onset,
            "at_recipe": None if test is None else test.difference,
            "ci_low": None if test is None else test.low,
            "ci_high": None if test is None else test.high,
        }
