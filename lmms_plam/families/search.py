"""The family task that searches recipes: which start layer, which coefficients, and what the choice is worth.

All recipes of a prompt come from one shared computation. Documents come in blocks; after each, recipes that are
plainly behind are not asked again (`lmms_plam.search.racing`). What the choice gains on other documents, and whether
the base LM had anything to do with it, is said by `lmms_plam.search.analyse`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from lmms_eval.api.instance import Instance
from loguru import logger
from pydantic import BeforeValidator, Field, StrictInt

from lmms_plam.config import MergeRecipe, ModelConfig
from lmms_plam.errors import ConfigError, DataError
from lmms_plam.families.cost import Prompt, comparison_cost
from lmms_plam.families.task import FamilyOptions, FamilyTask
from lmms_plam.harness import host
from lmms_plam.harness.model import Plam
from lmms_plam.harness.preflight import Outline
from lmms_plam.merge import BASE, resolve_start_layer
from lmms_plam.model import Variant, find_decoder
from lmms_plam.report.audit import AUDIT_FILES, audit_sentences, audit_warnings, audits_to_html, write_audits
from lmms_plam.report.search import FILES, numbers, sentences, write
from lmms_plam.report.wandb_log import log_audits, log_search
from lmms_plam.scoring.audits import audit_pick
from lmms_plam.scoring.record import Benchmark
from lmms_plam.search.analyse import analyse
from lmms_plam.search.racing import blocks, plainly_behind
from lmms_plam.search.record import RECIPES, ProbeOnset, Racing, Recipe, SearchRecord, sought_kind
from lmms_plam.search.result import TUNED_HERE, Search
from lmms_plam.search.space import Candidate, expand
from lmms_plam.search.standing import Standing
from lmms_plam.search.surface import Surface, save, upwards
from lmms_plam.search.transfer import add_transfer
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

_AROUND = 2
_FURTHER = 3
_SEED = 0

_SEARCHED: WeakKeyDictionary[Plam, dict[str, tuple[Surface, Search, Path | None]]] = WeakKeyDictionary()
"""By model, what its searches have found, by task."""


def _off(value: Any) -> Any:
    """Return what YAML makes of a bare `off` as it was meant."""
    return "off" if value is False else value


class SearchOptions(FamilyOptions):
    """Options of a recipe search, in its YAML or under `search:` in the model config (`search.space=grid`).

    Attributes:
        space: `line`, `grid`, `scaled`, `regions`, `stages`, `modules` (lmms_plam.search.space), a list of recipes, or
            lists of values by field. What they leave out is as in the config's `merge`.
        start_layers: for recipes that don't say where they start: `around`, the recipe's start layer (a probe's onset,
            where it is a plateau.json) and two layers on either side, going on for up to three more while the best is
            at the edge; `all`; `every N`; or layers (`17 18 19` on the command line).
        racing: standard errors that a recipe may be behind before it is dropped, or `off`.
        block: documents between two such looks.
        most: the largest number of ordinary runs that a search may cost without racing; more is refused.
    """

    space: str | list[dict[str, Any]] | dict[str, Any] = "line"
    start_layers: str | StrictInt | list[StrictInt] = "around"
    racing: Annotated[Annotated[float, Field(gt=0)] | Literal["off"], BeforeValidator(_off)] = 2.5
    block: int = Field(default=100, ge=1)
    most: float = Field(default=40, gt=0)

    @property
    def z(self) -> float | None:
        """Standard errors, None without racing."""
        return None if self.racing == "off" else self.racing

    def layers(self, center: int, depth: int) -> list[int]:
        """Return the start layers to ask first.

        Raises:
            ConfigError: layers outside the depth, or words that mean none.
        """
        words = self.start_layers
        if words == "around":
            return [layer for layer in range(center - _AROUND, center + _AROUND + 1) if 0 <= layer < depth]
        if words == "all":
            return list(range(depth))
        if isinstance(words, str) and (match := re.fullmatch(r"every ([1-9]\d*)", words)):
            return list(range(0, depth, int(match[1])))
        listed = list(map(str, words)) if isinstance(words, list) else str(words).split()
        if not listed or not all(layer.isdecimal() and int(layer) < depth for layer in listed):
            raise ConfigError(
                f"task {self.task}: start_layers are 'around', 'all', 'every N' or layers from 0 to {depth - 1}, not "
                f"'{words}'"
            )
        return sorted({int(layer) for layer in listed})


class RecipeSearch(FamilyTask):
    """Asks a space of recipes of a benchmark's documents, and says which to take and what that gains elsewhere."""

    options_class = SearchOptions
    options: SearchOptions
    reported: ClassVar[Mapping[str, bool]] = {
        "base": True,
        "pick_tuned_here": True,
        "gain_unseen": True,
        "gain_unseen_low": True,
        "gain_unseen_high": True,
        "recipes_asked": False,
        "within_noise": False,
    }
    written = (RECIPES, *FILES, *AUDIT_FILES)
    stand_in = BASE

    @classmethod
    def overrides(cls, settings: ModelConfig) -> Mapping[str, Any]:
        """Return what the model config says of searches."""
        return settings.search

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> SearchOptions:
        """Check the options, and where the VLM's depth is known the space and its cost.

        Raises:
            ConfigError, UnsupportedError: as for every family task.
        """
        options: SearchOptions = cls._read(config, outline.settings)[0]
        _require_base_lm(outline.settings)
        if outline.depth is not None:
            _plan(options, _recipe(outline.settings), outline.depth)
        return options

    @classmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what base and recipes cost without racing."""
        depth = outline.depth or 0
        rounds = _plan(cls.foresee(config, outline), _recipe(outline.settings), depth)
        return comparison_cost([one.first_changed for one in rounds[0]], depth, share)

    def make_variants(self) -> tuple[Variant, ...]:
        """Return the base and all recipes that may be asked."""
        settings = self.plam.provenance.config
        _require_base_lm(settings)
        self._depth = find_decoder(self.plam.model).depth
        self._rounds = _plan(self.options, _recipe(settings), self._depth)
        self._candidates = {one.name: one for candidates in self._rounds.values() for one in candidates}
        self._dropped: dict[str, tuple[int, str]] = {}
        self._benchmark: Benchmark | None = None
        self._standing = Standing()
        self.plam.plan_recipes({name: one.recipe for name, one in self._candidates.items()})
        self.ground = BASE if self.plam.provenance.merge else None
        self.course = self._race
        cost = comparison_cost([one.first_changed for one in self._rounds[0]], self._depth, 1.0)
        logger.info(
            f"{self.options.task}: {len(self._rounds[0])} recipes and the untouched VLM, for about {cost:.1f} ordinary "
            "runs, or less: racing saves most where most recipes are plainly bad, and little where all are alike"
        )
        return (Variant(BASE, weights=self.ground), *(Variant(name, weights=name) for name in self._candidates))

    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Choose and judge; write recipes.json, search.json, recipe.yaml, pictures and the page beside the matrix."""
        matrix, asked = ScoreMatrix.read_partial(matrix_file, BASE)
        record = self._record(matrix, benchmark)
        save(matrix_file.parent, record, matrix, asked)
        surface = Surface.of(record, matrix, asked)
        searched = _SEARCHED.setdefault(self.plam, {})
        searched[self.options.task] = surface, analyse(surface), self.folder
        surfaces, searches, folders = zip(*searched.values(), strict=True)
        found = add_transfer(surfaces, searches)
        audits = [audit_pick(*both) for both in zip(surfaces, found, strict=True)]
        for search, audit, folder in zip(found, audits, folders, strict=True):
            if search.record.task == self.options.task or folder is not None:
                write(search, folder or matrix_file.parent, found, [audits_to_html([audit])])
                write_audits([audit], folder or matrix_file.parent)
        for line in sentences(found[-1]):
            logger.info(f"{self.options.task}: {line}")
        for line in audit_sentences(audits[-1:]):
            logger.info(f"{line} ({TUNED_HERE})")
        for warning in audit_warnings(audits[-1:]):
            logger.warning(warning)
        run = host.wandb_run()
        if run is not None:
            log_search(run, found[-1], matrix_file.parent)
            log_audits(run, audits[-1:])
        return numbers(found[-1])

    def _race(self, requests: Sequence[Instance], answer: Callable[[int], str]) -> Iterator[Collection[int]]:
        """Ask round by round, block by block, whoever isn't plainly behind."""
        asked = [(request.doc_id, self.variants[request.idx].name) for request in requests]
        cells = {cell: place for place, cell in enumerate(asked)}
        first = {one.name for one in self._rounds[0]}
        self.left_out = {(doc_id, name) for doc_id, name in cells if name != BASE and name not in first}
        if not self.is_complete(requests):
            logger.warning(f"{self.options.task}: some answers come from elsewhere, so no recipe is dropped or added")
            yield [place for place, cell in enumerate(asked) if cell not in self.left_out]  # lmms-eval may ask twice
            return
        dealt = self._deal(sorted({doc_id for doc_id, _ in cells}))
        edge: int | None = 0
        while edge is not None:
            names = [one.name for one in self._rounds[edge]]
            self.left_out = {cell for cell in self.left_out if cell[1] not in names}
            yield from self._ask_blocks(requests, answer, cells, dealt, names, with_base=edge == 0)
            edge = self._next_edge(edge, len(dealt))

    def _ask_blocks(
        self,
        requests: Sequence[Instance],
        answer: Callable[[int], str],
        cells: Mapping[tuple[int, str], int],
        dealt: Sequence[Sequence[int]],
        names: Sequence[str],
        with_base: bool,
    ) -> Iterator[Collection[int]]:
        """Ask recipes of all documents, as long as each is worth it."""
        alive = list(names)
        for number, block in enumerate(dealt, start=1):
            places = [cells[doc_id, name] for doc_id in block for name in ([BASE] if with_base else []) + alive]
            yield places
            scores = self._scorer.join(
                self._score([(requests[place], answer(place)) for place in places]), benchmark=self._benchmark
            )
            self._benchmark = scores.benchmark
            self._standing.add(number - 1, scores.matrix)
            seen = sum(map(len, dealt[:number]))
            behind = self._behind(scores.benchmark, number)
            for name in [name for name in alive if name in behind and number < len(dealt)]:
                alive.remove(name)
                self._dropped[name] = seen, behind[name]
                self.left_out |= {(doc_id, name) for own in dealt[number:] for doc_id in own}
            logger.info(f"{self.options.task}: {seen} documents asked; {len(alive)} of {len(names)} recipes go on")

    def _behind(self, benchmark: Benchmark, n_blocks: int) -> dict[str, str]:
        """Return which recipes are plainly behind the best, of all that were asked of the first blocks."""
        if self.options.z is None:
            return {}
        matrix = self._standing.matrix(n_blocks, but=self._dropped)
        return plainly_behind(
            matrix,
            find_metric(benchmark.headline.metric),
            [_as_recipe(self._candidates[name]) if name != BASE else _BASE for name in matrix.variants],
            self.options.z,
            self._upwards(benchmark),
        )

    def _deal(self, doc_ids: Sequence[int]) -> list[list[int]]:
        """Deal documents into blocks of whole clusters, which scoring an empty answer tells."""
        docs = self.eval_docs_no_media
        try:
            scores = self._scorer.join([self._scorer.score(docs[doc_id], BASE, "") for doc_id in doc_ids])
        except DataError:
            return [list(doc_ids)]
        matrix, self._benchmark = scores.matrix, scores.benchmark
        dealt = [
            matrix.doc_ids[own].tolist() for own in blocks(matrix.clusters, matrix.strata, self.options.block, _SEED)
        ]
        rest = [doc_id for doc_id in doc_ids if doc_id not in set(matrix.doc_ids.tolist())]
        return [*dealt[:-1], [*dealt[-1], *rest]]

    def _next_edge(self, edge: int, n_blocks: int) -> int | None:
        """Return the next start layer to ask, where the best so far is at the edge of those asked.

        Edges count from the first round's layers: -1 and 1 are next to them, -2 and 2 the layers after those.
        """
        assert self._benchmark is not None
        matrix = self._standing.matrix(n_blocks, but=self._dropped)
        metric = upwards(find_metric(self._benchmark.headline.metric), self._upwards(self._benchmark))
        values = dict(zip(matrix.variants, Units.of(matrix, metric).estimate(), strict=True))
        recipes = [_as_recipe(self._candidates[name]) for name in values if name != BASE]
        sought = [one for one in recipes if one.kind == sought_kind(recipes)]
        best = max(values[one.name] for one in sought)
        layers = {one.start_layer for one in sought}
        tops = {one.start_layer for one in sought if values[one.name] == best}
        down, up = (min(layers), min(edge, 0) - 1), (max(layers), max(edge, 0) + 1)
        for layer, following in (up, down):  # ties go to the later layer
            if max(tops) == layer and following in self._rounds and (edge == 0 or (following > 0) == (edge > 0)):
                return following
        return None

    def _upwards(self, benchmark: Benchmark) -> bool:
        return self._higher_is_better.get(benchmark.headline.key) is not False

    def _record(self, matrix: ScoreMatrix, benchmark: Benchmark) -> SearchRecord:
        provenance = self.plam.provenance
        settings = provenance.config
        recipes = [
            _as_recipe(one, *self._dropped.get(name, (None, None)))
            for name, one in self._candidates.items()
            if name in matrix.variants
        ]
        z, space = self.options.z, self.options.space
        return SearchRecord(
            task=self.options.task,
            metric=benchmark.headline.metric,
            perfect_answer=benchmark.perfect_answer,
            higher_is_better=self._upwards(benchmark),
            recipes=(_BASE, *recipes),
            space=space if isinstance(space, str) else json.dumps(space),
            racing=None if z is None else Racing(z=z, block=self.options.block),
            probe=_probe(settings.merge),
            documents=f"{self.config.dataset_path} {self.config.dataset_name or ''} {self.config.test_split}",
            depth=self._depth,
            model=provenance.fingerprint_with(provenance.vlm_weights),
            config=settings.name,
            versions=dict(provenance.versions),
            date=datetime.now(timezone.utc).date().isoformat(),
        )


_BASE = Recipe(name=BASE, kind="base")


def _as_recipe(one: Candidate, dropped_after: int | None = None, why: str | None = None) -> Recipe:
    return Recipe(name=one.name, kind=one.kind, fields=one.recipe, dropped_after=dropped_after, dropped_why=why)


def _recipe(settings: ModelConfig) -> MergeRecipe:
    return settings.merge or MergeRecipe()


def _require_base_lm(settings: ModelConfig) -> None:
    if settings.base_lm is None:
        raise ConfigError(
            f"{settings.name}: base_lm is missing: a search needs the language model that the VLM grew from"
        )


def _plan(options: SearchOptions, recipe: MergeRecipe, depth: int) -> dict[int, list[Candidate]]:
    """Return the recipes of the first round under 0, and of layers further out under -1, -2, ... and 1, 2, ...

    Raises:
        ConfigError: a space that can't be meant, or costs more than it may.
    """
    center = resolve_start_layer(recipe.start_layer, depth)
    layers = options.layers(center, depth)
    probe = _probe(recipe)
    stages = None if probe is None else probe.stages
    rounds = {0: expand(options.space, recipe, layers, depth, stages)}
    cost = comparison_cost([one.first_changed for one in rounds[0]], depth, 1.0)
    if cost > options.most:
        raise ConfigError(
            f"task {options.task}: {len(rounds[0])} recipes would cost about {cost:.0f} ordinary runs without racing, "
            f"and search.most allows {options.most:g}: raise it (search.most={cost:.0f}), or search a smaller space"
        )
    known = {one.name for one in rounds[0]}
    if options.start_layers == "around":
        for step in range(1, _FURTHER + 1):
            for edge, layer in ((-step, layers[0] - step), (step, layers[-1] + step)):
                if 0 <= layer < depth:
                    further = [
                        one for one in expand(options.space, recipe, [layer], depth, stages) if one.name not in known
                    ]
                    if further:
                        rounds[edge] = further
    return rounds


def _probe(recipe: MergeRecipe | None) -> ProbeOnset | None:
    """Return what the plateau.json says that the recipe's start layer comes from."""
    if recipe is None or not isinstance(recipe.start_layer, str):
        return None
    found = json.loads(Path(recipe.start_layer).expanduser().read_text(encoding="utf-8"))
    return ProbeOnset(onset=found["onset"], interval=tuple(found["interval"]), stages=found.get("stages", {}))
