"""The family task that reads attention: where do layers look before and after a merge, and does looking help?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from lmms_eval.api.instance import Instance
from loguru import logger
from PIL import Image
from pydantic import Field

from lmms_plam.attention.findings import main_findings
from lmms_plam.attention.layouts import Size
from lmms_plam.attention.look import Look, Maps, join, pack_maps, unpack_maps
from lmms_plam.attention.places import Places, Region, in_shares
from lmms_plam.attention.record import RECORD
from lmms_plam.attention.shown import SHOWN, ShownDocument, choose, write_shown
from lmms_plam.attention.summary import SCALED, Scaled, summarise
from lmms_plam.config import MergeRecipe, ModelConfig
from lmms_plam.errors import ConfigError, DataError, UnsupportedError, about
from lmms_plam.families.cost import Prompt, comparison_cost
from lmms_plam.families.task import FamilyOptions, FamilyTask
from lmms_plam.harness import host
from lmms_plam.harness.journal import read_observed
from lmms_plam.harness.model import require_merge
from lmms_plam.harness.preflight import Outline
from lmms_plam.merge import BASE
from lmms_plam.model import Readout, Variant, place
from lmms_plam.report.attention import FILES, write
from lmms_plam.report.wandb_log import log_attention
from lmms_plam.scoring.declared import declared_regions
from lmms_plam.scoring.record import Benchmark
from lmms_plam.stats.matrix import FloatArray, ScoreMatrix

MERGED = "merged"
NEUTRAL = " (neutral prompt)"
"""What the name of a variant ends with where it is asked about the picture in general, for the relative map."""

_READING = 1.1
"""What reading attention costs at most, in times of the same family without (benchmarks/attention_readout.py)."""


class AttentionOptions(FamilyOptions):
    """Options of an attention probe, in its YAML or under `attention:` in the model config.

    Attributes:
        heads: keep the mass of each head, and not only their mean.
        pictures: how many documents are shown of each kind: made better, made worse, the same.
        neutral: what is asked of the documents that may be shown in place of their question, for the map relative to
            it, which takes sinks out (arXiv 2502.17422); empty: nothing is.
        control: read the VLM scaled by the sum of the merge's coefficients too, where that isn't 1.
        regions: column of the dataset with the right places in the first picture: a box in its pixels, or a list of
            them; left out, what the wrapped task's metadata say (`metadata: {plam: {regions: ...}}`).
        boxes: `ltrb`: left, top, right, bottom; `ltwh`: left, top, width, height.
    """

    heads: bool = True
    pictures: Annotated[int, Field(ge=0)] = 4
    neutral: str = "Write a general description of the image."
    control: bool = True
    regions: str | None = None
    boxes: Literal["ltrb", "ltwh"] = "ltrb"


class AttentionProbe(FamilyTask):
    """Attention to the picture, by layer, of the untouched VLM, the merged model and further recipes."""

    options_class = AttentionOptions
    options: AttentionOptions
    reads = True
    reported: ClassVar[Mapping[str, bool]] = {
        "base_mass": True,
        "merged_mass": True,
        "difference": True,
        "ci_low": True,
        "ci_high": True,
        "relation": True,
        "relation_low": True,
        "relation_high": True,
    }
    written = (RECORD, SHOWN, *FILES)

    @classmethod
    def overrides(cls, settings: ModelConfig) -> Mapping[str, Any]:
        """Return what the model config says of attention probes."""
        return settings.attention

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> AttentionOptions:
        """Check the options, and that there is a merge to look at.

        Raises:
            ConfigError, UnsupportedError: as for every family task, and where it could compare nothing.
        """
        options: AttentionOptions = cls._read(config, outline.settings)[0]
        require_merge(outline.settings)
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what all variants cost, with reading."""
        options = cls.foresee(config, outline)
        starts = [plan.first_changed for plan in outline.plans.values()]
        control = starts[:1] if options.control and scaled_recipe(outline.settings) is not None else []
        return _READING * comparison_cost([*starts, *control], outline.depth or 0, share)

    def make_variants(self) -> tuple[Variant, ...]:
        """Return base, merged, the scaled control, further recipes, and base and merged with the neutral prompt."""
        if not any(self.shows_anything(doc_id) for doc_id in range(len(self.eval_docs))):
            raise ConfigError(f"task {self.options.task}: no document shows a picture that attention could fall on")
        base, *others = (Variant(name, weights=name) for name in self.plam.other_weights)
        control = scaled_recipe(self.plam.provenance.config) if self.options.control else None
        if control is not None and SCALED not in self.plam.other_weights:
            self.plam.plan_recipes({SCALED: control})
            others.insert(0, Variant(SCALED, weights=SCALED))
        neutral = (Variant(BASE + NEUTRAL, weights=BASE), Variant(MERGED + NEUTRAL))
        self.course = self._ask_in_order
        self.plam.observers[self.options.task] = self._observe
        return (base, Variant(MERGED), *others, *(neutral if self.options.neutral else ()))

    def is_scored(self, doc_id: int, variant: Variant) -> bool:
        """Whether a variant's answer is one to the document's own question."""
        return not variant.name.endswith(NEUTRAL)

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> list[Instance]:
        """Return the wrapped task's request once for each variant, some of them with the neutral prompt."""
        requests = super().construct_requests(doc_id, ctx, **kwargs)
        for request, variant in zip(requests, self.variants, strict=True):
            if variant.name.endswith(NEUTRAL):
                _, *rest = request.arguments
                if not self.plam.is_simple:
                    rest[0] = self._ask_neutrally
                request.arguments = (self.options.neutral, *rest)
        return requests

    def _ask_neutrally(self, doc: Any) -> list[dict[str, Any]]:
        """Return a document's messages with all that is no text, and the neutral prompt."""
        parts = [part for message in self.doc_to_messages(doc) for part in message["content"] if part["type"] != "text"]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.options.neutral}]}]

    def _ask_in_order(self, requests: Sequence[Instance], answer: Callable[[int], str]) -> Iterator[Collection[int]]:
        """Ask all questions, and then the neutral prompt of the documents whose maps were kept."""
        neutral = [self.variants[request.idx].name.endswith(NEUTRAL) for request in requests]
        yield [place for place, is_neutral in enumerate(neutral) if not is_neutral]
        kept = self._with_maps()
        yield [place for place, is_neutral in enumerate(neutral) if is_neutral and requests[place].doc_id in kept]

    def _with_maps(self) -> dict[int, bool]:
        """Return the documents whose maps were kept, and whether the merge changed their answer."""
        observed = self.plam.observed.get(self.options.task, {})
        return {doc_id: told["changed"] for (doc_id, name), told in observed.items() if name == BASE and "maps" in told}

    def _observe(
        self,
        doc_id: int,
        readouts: Mapping[str, Readout | None],
        answers: Mapping[str, str],
        inputs: Mapping[str, Any],
        row: int,
    ) -> dict[str, Any]:
        """Keep a look at each answer; and maps, of documents whose answer changed and of some others."""
        known = {name: readout for name, readout in readouts.items() if readout is not None}
        if not known:
            return {name: {} for name in readouts}
        neutral = all(name.endswith(NEUTRAL) for name in readouts)
        document = self.eval_docs[doc_id]
        sizes = [size for visual in self.doc_to_visual(document) or [] if (size := _size(visual)) is not None]
        places = self._places(sizes, inputs, row)
        regions = self._regions(document, sizes[0]) if places is not None and not neutral else []
        changed = answers.get(BASE) != answers.get(MERGED)
        room = self.options.pictures * (6 if changed else 2)  # a change of the answer may leave the score as it is
        kept = neutral or sum(other == changed for other in self._with_maps().values()) < room
        told: dict[str, Any] = {}
        for name, readout in known.items():
            maps = Maps(_both(readout, "map"), places)
            mass, entropy, focus = (_both(readout, measure) for measure in ("mass", "entropy", "focus"))
            with about(f"document {doc_id}"):
                look = Look.of(mass, entropy, focus, maps, readout.sinks.numpy(), regions)
            told[name] = {"look": look.pack(heads=self.options.heads), "changed": changed}
            if kept and name.removesuffix(NEUTRAL) in (BASE, MERGED):
                told[name]["maps"] = pack_maps(maps)
        return told

    @cached_property
    def _told(self) -> set[str]:
        """Why places aren't known, as far as that was said."""
        return set()

    def _places(self, sizes: Sequence[Size], inputs: Mapping[str, Any], row: int) -> Places | None:
        """Say where vision tokens lie in a document's pictures; None, said once, where that isn't known."""
        backend = self.plam.backend
        processor = getattr(backend, "processor", None) or getattr(backend, "_image_processor", None)
        input_ids = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs"]
        try:
            return place(self.plam.model, input_ids, inputs, row, sizes, processor)
        except (UnsupportedError, DataError) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                logger.warning(f"{self.options.task}: no maps over pictures and no regions: {error}")
            return None

    @cached_property
    def _region_column(self) -> str | None:
        return self.options.regions or declared_regions(self.options.of, self.config.to_dict())

    def _regions(self, document: Mapping[str, Any], size: Size) -> list[Region]:
        """Return the right places of a document, as shares of its first picture, which has this size."""
        column = self._region_column
        if column is None:
            return []
        if column not in document:
            raise ConfigError(f"task {self.options.task}: regions: the dataset has no column '{column}'")
        found = document[column] or []
        boxes = [found] if found and not isinstance(found[0], Sequence) else found
        if self.options.boxes == "ltwh":
            boxes = [(left, top, left + width, top + height) for left, top, width, height in boxes]
        return in_shares([(left, top, right, bottom) for left, top, right, bottom in boxes], size)

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Write attention.parquet, attention.json, shown.json, curves and the page; return the headline's numbers."""
        matrix, folder = ScoreMatrix.read(matrix_file), matrix_file.parent
        observed = self._observed()
        looks = {key: Look.unpack(told["look"]) for key, told in observed.items() if "look" in told}
        record = join(looks, matrix)
        record.write(folder / RECORD)
        shown = self._shown(matrix, observed)
        write_shown(shown, folder)
        merge = self.plam.provenance.merge
        late = range(merge["start_layer"], merge["end_layer"]) if merge else None
        found = summarise(record, BASE, late, scaled=scaled_variant(self.plam.provenance.config))
        said = f"{self.plam.provenance.config.name}, {date.today().isoformat()}"
        write(self.options.task, said, record, found, shown, folder)
        for line in main_findings(found):
            logger.info(f"{self.options.task}: {line}")
        if found.without:
            logger.info(
                f"{self.options.task}: of {found.without} documents no attention is known, as without a picture"
            )
        run = host.wandb_run()
        if run is not None:
            log_attention(run, self.options.task, record, found, folder)
        headline = next(one for one in found.headlines() if one.variant == MERGED)
        return {
            "base_mass": headline.untouched,
            "merged_mass": headline.merged,
            "difference": headline.difference,
            "ci_low": headline.low,
            "ci_high": headline.high,
            "relation": headline.relation,
            "relation_low": headline.relation_low,
            "relation_high": headline.relation_high,
        }

    def _observed(self) -> dict[tuple[int, str], Any]:
        """Return what was kept, of all processes.

        Raises:
            DataError: other processes' can't be had.
        """
        own = self.plam.observed.get(self.options.task, {})
        if self.plam.world_size == 1:
            return own
        if self.folder is None:
            raise DataError("several processes have read attention: give --output_path, where it comes together")
        names = {self._identify(variant): variant.name for variant in self.variants}
        found = read_observed(self.folder)
        return {(doc_id, names[who]): told for (doc_id, who), told in found.items() if who in names} | own

    def _shown(self, matrix: ScoreMatrix, observed: Mapping[tuple[int, str], Any]) -> list[ShownDocument]:
        """Return the documents to show."""
        maps = {key: unpack_maps(told["maps"]) for key, told in observed.items() if "maps" in told}
        rows = {
            doc_id: row
            for row, doc_id in enumerate(matrix.doc_ids.tolist())
            if {(doc_id, BASE), (doc_id, MERGED)} <= maps.keys()
        }
        before, after = (
            {doc_id: float(matrix.scores[row, matrix.variants.index(name)]) for doc_id, row in rows.items()}
            for name in (BASE, MERGED)
        )
        chosen = choose(before, after, self.options.pictures)
        shown = []
        for example in self.examples(list(chosen)):
            doc_id = example.doc_id
            if example.image is not None:
                answers = zip(matrix.variants, matrix.answers[rows[doc_id]], strict=True)
                both = {
                    suffix: {
                        name: maps[doc_id, name + suffix] for name in (BASE, MERGED) if (doc_id, name + suffix) in maps
                    }
                    for suffix in ("", NEUTRAL)
                }
                shown.append(
                    ShownDocument(
                        doc_id=doc_id,
                        change=chosen[doc_id],
                        question=example.question,
                        target=example.target,
                        image=example.image,
                        regions=self._regions(self.eval_docs[doc_id], example.image.size),
                        answers={name: str(answer) for name, answer in answers},
                        maps=both[""],
                        neutral=both[NEUTRAL],
                    )
                )
        return shown


def scaled_recipe(settings: ModelConfig) -> MergeRecipe | None:
    """Return the recipe that scales the VLM by the sum of its merge's coefficients; None where that is nothing new."""
    merge = settings.merge
    return None if merge is None or merge.lambda_lm == 0 else merge.control


def scaled_variant(settings: ModelConfig) -> Scaled:
    """Return what the variant `scaled` is: a recipe of that name, or the VLM scaled by the sum of coefficients."""
    made = settings.recipes.get(SCALED, scaled_recipe(settings))
    if made is None:
        return Scaled()
    only_scales = made.lambda_lm == 0 and made.method == "linear" and made.schedule == "constant"
    merges = {MERGED: settings.merge, **settings.recipes}
    return Scaled(
        factor=made.lambda_vlm if only_scales else None,
        control_of=tuple(
            name
            for name, merge in merges.items()
            if merge is not None and merge.lambda_lm != 0 and merge.control == made
        ),
    )


def _both(readout: Readout, measure: str) -> FloatArray:
    """Return a measure of the question's and of the answer's attention, the latter NaN if nothing is known."""
    question = getattr(readout.instruction, measure).double().numpy()
    answer = None if readout.response is None else getattr(readout.response, measure).double().numpy()
    return np.stack([question, np.full_like(question, np.nan) if answer is None else answer])


def _size(visual: Any) -> Size | None:
    """Return width and height of a picture or of its file; None for what is no picture."""
    try:
        with nullcontext(visual) if isinstance(visual, Image.Image) else Image.open(visual) as image:
            width, height = image.size
    except (OSError, AttributeError):  # a film's file, a mapping that describes one
        return None
    return width, height
