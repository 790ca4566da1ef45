"""Family tasks: another task's documents, prompts and scoring, asked several times with small changes to the model."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from loguru import logger
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from lmms_plam.config import ModelConfig
from lmms_plam.errors import ConfigError, DataError, UnsupportedError, about, did_you_mean
from lmms_plam.families.cost import Prompt
from lmms_plam.families.retries import process_results
from lmms_plam.harness import host, outcome
from lmms_plam.harness.answering import ANCHOR, Course, FamilyMember
from lmms_plam.harness.model import running
from lmms_plam.harness.preflight import Outline
from lmms_plam.model import QueryScope, Variant
from lmms_plam.probes.record import MATRIX
from lmms_plam.scoring.declared import check_declared
from lmms_plam.scoring.examples import Example
from lmms_plam.scoring.record import Benchmark, Ending
from lmms_plam.scoring.scorer import DOC_ID, ScoredAnswer, Scorer, Scores

_SINGLE = "generate_until"

Logged = list[dict[str, Any]] | dict[str, str]
"""What lmms-eval is given of a document: its scored answers as mappings, or why they can't be scored."""


class FamilyOptions(BaseModel):
    """What a family task's YAML may hold: its name, its class, the task it is made of, and what a subclass adds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    of: str


class FamilyTask(ConfigurableMessagesTask):
    """Asks every document of another task once for each variant of the model, and measures the variants together.

    Subclasses say which variants there are and what is reported; everything else is the wrapped task's. A subclass may
    set a `course`: which variants to ask of which documents next, as the answers so far say.

    Args:
        config: the task's YAML.
    """

    options_class: ClassVar[type[FamilyOptions]] = FamilyOptions
    reported: ClassVar[Mapping[str, bool]] = {}
    """Names of the numbers in lmms-eval's table, and whether higher is better."""
    written: ClassVar[tuple[str, ...]] = ()
    """Names of the files that `report` writes."""
    scope: QueryScope = "all"
    """From which queries a cut hides vision."""
    ground: str | None = None
    """The weight set that variants start from; None: the weights as loaded."""
    course: Course | None = None
    reads: ClassVar[bool] = False
    """Whether attention is read while answers are given, for the observer that the task then has."""
    stand_in: str | None = None
    """A variant that every document is asked of, where others aren't (`ScoreMatrix.from_partial_rows`)."""
    _filters: list[Any]

    def __init__(self, config: dict[str, Any]) -> None:
        model = running()
        if model is None:
            raise ConfigError(f"{config['task']} varies the model itself: run it with --model plam")
        self.plam = model
        self.options, wrapped = self._read(config, model.provenance.config)
        super().__init__(config={**wrapped, "task": self.options.task, "repeats": 1}, model_name=model.backend_name)
        if wrapped.get("repeats", 1) > 1:
            self.set_config("repeats", wrapped["repeats"])
        if len(self._filters) > 1:
            self._filters = self._filters[:1]
            logger.warning(f"{self.options.task}: answers are filtered by '{self._filters[0].name}' only, the first")
        self.variants = self.make_variants()
        self.table_numbers = self.make_numbers()
        self.left_out: set[tuple[int, str]] = set()
        if self.course is not None:
            model.courses[self.options.task] = self.course
        model.tasters[self.options.task] = self._taste
        self._reported: dict[str, float | None] | None = None
        self._scorer = Scorer(self, self.options.of, partial(process_results, self, self.options.of), self._ending)
        self.notes: tuple[str, ...] = ()
        check_declared(self.options.task, self.config.to_dict(), self.eval_docs_no_media)

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> FamilyOptions:
        """Check what can be checked of a task's YAML before the model's weights or any data are loaded.

        Raises:
            ConfigError: options that can't be meant, or no such task to wrap.
            UnsupportedError: a task that can't be asked in variants.
        """
        options: FamilyOptions = cls._read(config, outline.settings)[0]
        return options

    @classmethod
    @abstractmethod
    def cost(cls, config: Mapping[str, Any], outline: Outline, prompt: Prompt, share: float) -> float:
        """Return what all variants of a prompt cost together, in ordinary runs of it; see cost.py."""

    @classmethod
    def overrides(cls, settings: ModelConfig) -> Mapping[str, Any]:
        """Return options that the model config sets, whatever the YAML says."""
        return {}

    @classmethod
    def _read(cls, config: Mapping[str, Any], settings: ModelConfig) -> tuple[Any, dict[str, Any]]:
        """Return the options, and the wrapped task's YAML."""
        options = read_options(cls.options_class, config, cls.overrides(settings))
        with about(options.task):
            wrapped = host.task_config(options.of)
        kind = wrapped.get("output_type", _SINGLE)
        if kind != _SINGLE:
            raise UnsupportedError(
                f"{options.task}: only generate-until tasks can be asked in variants, and {options.of} is of type "
                f"{kind}"
            )
        return options, wrapped

    @abstractmethod
    def make_variants(self) -> tuple[Variant, ...]:
        """Return what can be asked of every document."""

    def make_numbers(self) -> Mapping[str, bool]:
        """Return the names of the numbers in lmms-eval's table, and whether higher is better."""
        return self.reported

    @abstractmethod
    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Analyse the saved matrix, write files beside it, and return the numbers named in `reported`.

        None is for what can't be said: lmms-eval shows it as N/A.
        """

    def clear(self, folder: Path) -> None:
        """Remove an earlier run's results, none of which must be taken for this run's if it ends here."""
        for name in (MATRIX, *self.written):
            (folder / name).unlink(missing_ok=True)

    @property
    def folder(self) -> Path | None:
        """Where this task's files go: OUTPUT_PATH/plam/MODEL/TASK, or None without --output_path."""
        output = getattr(getattr(self, "args", None), "output_path", None)
        return Path(output) / "plam" / self.plam.folder_name / self.options.task if output else None

    def _ending(self, doc_id: int, variant: str) -> Ending | None:
        return self.plam.endings.get(self.options.task, {}).get((doc_id, variant))

    def _identify(self, variant: Variant) -> str:
        return f"{self.plam.identify(variant)} {self.scope}"

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Load the wrapped task's data, with each document's number, which scoring isn't told otherwise."""
        super().download(dataset_kwargs)
        for splits in {id(splits): splits for splits in (self.dataset, self.dataset_no_image)}.values():
            for name, documents in splits.items():
                splits[name] = documents.add_column(DOC_ID, list(range(len(documents))))

    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        """Change the wrapped task's config as the command line says, except that each variant answers once."""
        if key == "repeats":
            logger.warning(f"{self.options.task}: each variant answers once, not {value} times")
        else:
            super().set_config(key, value, update)

    def dump_config(self) -> dict[str, Any]:
        """Return the wrapped task's config with the numbers reported here, and what is varied.

        lmms-eval's cache tells tasks apart by it, and its loggers look for these numbers in each sample.
        """
        varied = [self._identify(variant) for variant in self.variants]
        return {
            **super().dump_config(),
            "metric_list": [{"metric": name} for name in self.higher_is_better()],
            "plam": {**self.options.model_dump(), "variants": varied},
        }

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> list[Instance]:
        """Return the wrapped task's request once for each variant."""
        maker = ConfigurableTask if self.plam.is_simple else ConfigurableMessagesTask
        request: Instance = maker.construct_requests(self, doc_id, ctx, **kwargs)
        requests = []
        for index, anchor in enumerate(self._members):
            member = copy.copy(request)
            member.idx, member.resps, member.token_counts, member.filtered_resps = index, [], [], {}
            member.raw_filtered_resps = {}
            member.metadata = {**request.metadata, ANCHOR: anchor}
            requests.append(member)
        return requests

    @cached_property
    def _members(self) -> list[FamilyMember]:
        if self.folder is None and not self._unscored:
            logger.warning(
                f"{self.options.task}: without --output_path neither its matrix, figures and pictures nor, should the "
                "run end early, its answers are kept"
            )
        elif self.folder and (self.folder / MATRIX).exists() and not self._unscored:
            logger.warning(f"{self.options.task}: the results in {self.folder} will be replaced by this run's")
        return [
            FamilyMember(variant, self._identify(variant), self.scope, self.folder, self.ground, self.reads)
            for variant in self.variants
        ]

    def process_results(self, doc: Any, results: Sequence[Any], full_docs: Any = None) -> dict[str, Any]:
        """Score each variant's answer by the wrapped task; they stand under the first number, as JSON can hold them."""
        if self._unscored:
            return dict.fromkeys(self._metric_fn_list, 0)
        scored: Logged
        try:
            scored = [
                self._scorer.score(doc, variant.name, result).to_dict()
                for variant, result in zip(self.variants, results, strict=True)
                if self.is_scored(doc[DOC_ID], variant)
            ]
        except DataError as error:  # fails this task's report, and not the other tasks of the run
            scored = {"error": str(error)}
        return {name: None if place else scored for place, name in enumerate(self.table_numbers)}

    def is_scored(self, doc_id: int, variant: Variant) -> bool:
        """Whether a variant's answer to a document is there to be scored."""
        return (doc_id, variant.name) not in self.left_out

    @property
    def _unscored(self) -> bool:
        """Whether --predict_only was given, for which lmms-eval exchanges the metrics."""
        return "bypass" in self._metric_fn_list

    def is_complete(self, requests: Sequence[Instance]) -> bool:
        """Whether all of the task's answers will be given here, so that they can decide what to ask.

        They aren't where lmms-eval's cache or another process has some of them.
        """
        documents = {request.doc_id for request in requests}
        return len(requests) >= len(documents) * len(self.variants) and self.plam.world_size == 1 and not self._unscored

    def join(self, told: Sequence[tuple[Instance, str]]) -> Scores:
        """Score and join answers before lmms-eval does, which it does when all are there.

        Raises:
            DataError: what makes no matrix.
        """
        return self._scorer.join(self._score(told), self.stand_in)

    def _taste(self, request: Instance, answer: str) -> None:
        """Score and read the first answer, so that what would fail on all of them fails now.

        Raises:
            DataError: what is wrong, and with which document.
        """
        if not self._unscored:
            self._scorer.taste(self._score([(request, answer)])[0])

    def _score(self, told: Sequence[tuple[Instance, str]]) -> list[ScoredAnswer]:
        """Filter and score answers as lmms-eval will."""
        answered = []
        for request, text in told:
            answered.append(copy.copy(request))
            answered[-1].resps, answered[-1].filtered_resps = [text], {}
        for ensemble in self._filters:
            ensemble.apply(answered, self.task_docs)
        docs = self.eval_docs if getattr(self.args, "process_with_media", False) else self.eval_docs_no_media
        return [
            self._scorer.score(docs[one.doc_id], self.variants[one.idx].name, next(iter(one.filtered_resps.values())))
            for one in answered
        ]

    def aggregation(self) -> dict[str, Callable[[list[Any]], float | None]]:
        """Return, for each reported number, what lmms-eval calls with all documents' scored answers."""
        if self._unscored:
            return dict(super().aggregation())
        return {name: partial(self._aggregate, name) for name in self.table_numbers}

    def higher_is_better(self) -> dict[str, bool]:
        """Return which numbers are better when higher."""
        return dict(super().higher_is_better() if self._unscored else self.table_numbers)

    def examples(self, doc_ids: Sequence[int]) -> list[Example]:
        """Return what a reader needs to see of documents: question, target and first image."""
        documents = self.eval_docs
        shown = []
        for doc_id in doc_ids:
            doc = documents[doc_id]
            images = [visual for visual in self.doc_to_visual(doc) or [] if isinstance(visual, Image.Image)]
            target = "" if self.config.doc_to_target is None else str(self.doc_to_target(doc))
            shown.append(Example(doc_id, self.doc_to_text(doc), target, images[0] if images else None))
        return shown

    def shows_anything(self, doc_id: int) -> bool:
        """Return whether a document's prompt holds anything but text."""
        messages = self.doc_to_messages(self.eval_docs[doc_id])
        return any(part["type"] != "text" for message in messages for part in message["content"])

    def _aggregate(self, name: str, items: list[Logged]) -> float | None:
        return self._report_once(items)[name]

    def _report_once(self, items: list[Logged]) -> dict[str, float | None]:
        """Report; where that fails, of too few documents, say, the other tasks' results must not be lost with it."""
        if self._reported is None:
            try:
                with self._results_folder() as folder:
                    self.clear(folder)
                    told = self._report(items, folder / MATRIX)
                self._reported = {name: None if value is None else float(value) for name, value in told.items()}
            except Exception as error:
                if not (isinstance(error, DataError) or outcome.is_watched()):
                    raise
                reason = outcome.sentence(error).removeprefix(f"{self.options.task}: ")
                logger.opt(exception=None if isinstance(error, DataError) else error).error(
                    f"{self.options.task}: {reason}"
                )
                self.plam.failures[self.options.task] = reason
                outcome.failed(f"{self.options.task}: {reason}")
                self._reported = dict.fromkeys(self.table_numbers)
        return self._reported

    def _report(self, items: list[Logged], matrix_file: Path) -> dict[str, float | None]:
        """Join the documents' scored answers, of all processes, write the matrix and analyse it.

        Raises:
            DataError: a document that can't be scored, or what the analysis refuses.
        """
        if failures := [answers["error"] for answers in items if isinstance(answers, dict)]:
            raise DataError(failures[0])
        scored = [ScoredAnswer.from_dict(one) for answers in items if not isinstance(answers, dict) for one in answers]
        scores = self._scorer.join(scored, self.stand_in)
        scores.matrix.write(matrix_file, scores.asked)
        self._scorer.require_mean(scores, scored, super().aggregation(), getattr(self, "args", None))
        self.notes = scores.notes
        for note in self.notes:
            logger.info(f"{self.options.task}: {note}")
        reported = self.report(matrix_file, scores.benchmark)
        if self.folder:
            logger.info(f"{self.options.task}: matrix, figures and pictures are in {self.folder}")
            identities = [self._identify(variant) for variant in self.variants]
            self.plam.answered[self.folder] = {(one.doc_id, who) for one in scored for who in identities}
        return reported

    @contextmanager
    def _results_folder(self) -> Iterator[Path]:
        """This task's folder, or one that is thrown away when the run keeps nothing."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder
        else:
            with TemporaryDirectory() as folder:
                yield Path(folder)


def read_options(
    options_class: type[FamilyOptions], config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> FamilyOptions:
    """Read a task's YAML, and over it those options that a model config may set.

    Raises:
        ConfigError: an option that there isn't, or a value that can't be meant.
    """
    task, known = config.get("task"), list(options_class.model_fields)
    free = [name for name in known if name not in FamilyOptions.model_fields]
    for names, allowed in ((overrides, free), (config, [*known, "class"])):
        for name in names:
            if name not in allowed:
                hint = did_you_mean(str(name), allowed)
                raise ConfigError(f"task {task}: no option '{name}'.{hint} Known: {', '.join(allowed)}")
    given = {name: value for name, value in {**config, **overrides}.items() if name != "class"}
    try:
        return options_class.model_validate(given)
    except ValidationError as error:
        item = error.errors()[0]
        name, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
        value = "" if item["type"] == "missing" else f" = {item['input']!r}"
        raise ConfigError(f"task {task}: '{name}'{value}: {message}") from None
