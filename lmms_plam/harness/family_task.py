"""Family tasks: another task's documents, prompts and scoring, asked several times with small changes to the model."""

from __future__ import annotations

import copy
import inspect
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

from lmms_plam.errors import ConfigError, DataError, UnsupportedError, did_you_mean
from lmms_plam.harness import host
from lmms_plam.harness.declared import find_benchmarks, say_no_mean
from lmms_plam.harness.families import ANCHOR, FamilyMember
from lmms_plam.harness.images import image_names
from lmms_plam.harness.units import Benchmark, complete_units, count_remarks, same_number
from lmms_plam.model import QueryScope, Variant
from lmms_plam.probes.record import MATRIX
from lmms_plam.report.examples import Example
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units

_DOC_ID = "plam_doc_id"
_SINGLE = "generate_until"
_SIZE, _REMARK, _ITEM = _NOT_COLUMNS = "size", "remark", "item"


class FamilyOptions(BaseModel):
    """What a family task's YAML may hold: its name, its class, the task it is made of, and what a subclass adds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    of: str


class FamilyTask(ConfigurableMessagesTask):
    """Asks every document of another task once for each variant of the model, and measures the variants together.

    Subclasses say which variants there are and what is reported; everything else is the wrapped task's. A subclass may
    name `later` variants, which are asked only if its `choose` wants them once all others are answered.

    Args:
        config: the task's YAML.
    """

    options_class: ClassVar[type[FamilyOptions]] = FamilyOptions
    reported: ClassVar[Mapping[str, bool]] = {}
    """Names of the numbers in lmms-eval's table, and whether higher is better."""
    scope: QueryScope = "all"
    """From which queries a cut hides vision."""
    _filters: list[Any]

    def __init__(self, config: dict[str, Any]) -> None:
        model = host.running()
        if model is None:
            raise ConfigError(f"{config['task']} varies the model itself: run it with --model plam")
        self.plam = model
        self.options = _read_options(self.options_class, {**config, **self.overrides()})
        wrapped = host.task_config(self.options.of)
        super().__init__(config={**wrapped, "task": self.options.task, "repeats": 1}, model_name=model.backend_name)
        if self.OUTPUT_TYPE != _SINGLE:
            raise UnsupportedError(
                f"{self.options.task}: only generate-until tasks can be asked in variants, and "
                f"{self.options.of} is of type {self.OUTPUT_TYPE}"
            )
        if wrapped.get("repeats", 1) > 1:
            self.set_config("repeats", wrapped["repeats"])
        if len(self._filters) > 1:
            self._filters = self._filters[:1]
            logger.warning(f"{self.options.task}: answers are filtered by '{self._filters[0].name}' only, the first")
        self.variants = self.make_variants()
        self.later = self.find_later()
        self.asked = {variant.name for variant in self.variants}
        if self.later:
            model.choosers[self.options.task] = self._choose
        self._reported: dict[str, float | None] | None = None
        self._benchmark: Benchmark | None = None
        self.notes: tuple[str, ...] = ()

    def overrides(self) -> Mapping[str, Any]:
        """Return options that the model config sets, whatever the YAML says."""
        return {}

    @abstractmethod
    def make_variants(self) -> tuple[Variant, ...]:
        """Return what can be asked of every document."""

    def find_later(self) -> frozenset[str]:
        """Return the names of the variants that wait for `choose`."""
        return frozenset()

    def choose(self, matrix: ScoreMatrix, benchmark: Benchmark) -> frozenset[str]:
        """Return which of the `later` variants to ask, given the scores of all others."""
        return self.later

    @abstractmethod
    def report(self, matrix_file: Path, benchmark: Benchmark) -> dict[str, float | None]:
        """Analyse the saved matrix, write files beside it, and return the numbers named in `reported`.

        None is for what can't be said: lmms-eval shows it as N/A.
        """

    @property
    def folder(self) -> Path | None:
        """Where this task's files go: OUTPUT_PATH/plam/TASK, or None without --output_path."""
        output = getattr(getattr(self, "args", None), "output_path", None)
        return Path(output) / "plam" / self.options.task if output else None

    def _identify(self, variant: Variant) -> str:
        return f"{self.plam.identify(variant)} {self.scope}"

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Load the wrapped task's data, with each document's number, which scoring isn't told otherwise."""
        super().download(dataset_kwargs)
        for splits in {id(splits): splits for splits in (self.dataset, self.dataset_no_image)}.values():
            for name, documents in splits.items():
                splits[name] = documents.add_column(_DOC_ID, list(range(len(documents))))

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
        return [
            FamilyMember(variant, self._identify(variant), self.scope, self.folder, variant.name in self.later)
            for variant in self.variants
        ]

    def process_results(self, doc: Any, results: Sequence[Any], full_docs: Any = None) -> dict[str, Any]:
        """Score each variant's answer by the wrapped task; the rows for the matrix stand under the first number."""
        if self._unscored:
            return dict.fromkeys(self._metric_fn_list, 0)
        answered = zip(self.variants, results, strict=True)
        rows = [self._row(doc, variant, result) for variant, result in answered if variant.name in self.asked]
        return {name: None if place else rows for place, name in enumerate(self.reported)}

    @property
    def _unscored(self) -> bool:
        """Whether --predict_only was given, for which lmms-eval exchanges the metrics."""
        return "bypass" in self._metric_fn_list

    def _choose(self, requests: Sequence[Instance], answers: Sequence[str], documents: set[int]) -> frozenset[str]:
        """Score the first variants' answers, as later all answers are, and say which further variants to ask.

        That is all of them where lmms-eval's cache or another process has some of those answers.
        """
        chosen = self.later
        told = {(request.doc_id, request.idx): (request, text) for request, text in zip(requests, answers, strict=True)}
        complete = len(told) >= len(documents) * (len(self.variants) - len(self.later))
        if complete and self.plam.world_size == 1 and not self._unscored:
            scored = []
            for request, text in told.values():
                scored.append(copy.copy(request))
                scored[-1].resps, scored[-1].filtered_resps = [text], {}
            for ensemble in self._filters:
                ensemble.apply(scored, self.task_docs)
            docs = self.eval_docs_no_media
            rows = [
                self._row(docs[one.doc_id], self.variants[one.idx], next(iter(one.filtered_resps.values())))
                for one in scored
            ]
            if self._benchmark:
                chosen = self.choose(self._join(rows), self._benchmark)
        self.asked -= self.later - chosen
        return chosen

    def _row(self, doc: Any, variant: Variant, result: Any) -> dict[str, Any]:
        scored = super().process_results(doc, [result])
        sample = {
            **scored,
            "doc": doc,
            "doc_id": doc[_DOC_ID],
            "filtered_resps": result,
            "input": self.doc_to_text(doc),
        }
        benchmark = self._read_by(sample)
        record = benchmark.record(sample)
        cluster = record.cluster
        if cluster is None and self._image_names is not None:
            cluster = self._image_names[doc[_DOC_ID]]
        if cluster is None and benchmark.needs_image and benchmark.image is not None:
            raise DataError(f"{self.options.task}: documents have no '{benchmark.image}' to cluster them by")
        return {
            "doc_id": doc[_DOC_ID],
            "variant": variant.name,
            "answer": record.answer,
            "score": record.score,
            "cluster": cluster if cluster is not None else str(doc[_DOC_ID]),
            "stratum": record.stratum,
            **record.columns,
            _SIZE: record.size,
            _REMARK: record.remark,
            _ITEM: scored.get(benchmark.headline.key) if benchmark.assumed else None,
        }

    @cached_property
    def _image_names(self) -> list[str] | None:
        """By document, the name of the image that others may share; scoring sees documents without images."""
        column = self._benchmark.image if self._benchmark else None
        return image_names(self.eval_docs, column) if column is not None else None

    def _join(self, rows: Sequence[dict[str, Any]]) -> ScoreMatrix:
        """Join the rows of complete units, and note what a reader must know of the rest."""
        complete, notes = complete_units(
            {row["doc_id"]: (row["cluster"], row[_SIZE]) for row in rows}, self.options.task
        )
        self.notes = (*notes, *count_remarks((row["variant"], row[_REMARK]) for row in rows))
        kept = (row for row in rows if row["doc_id"] in complete)
        return ScoreMatrix.from_rows(
            ({name: value for name, value in row.items() if name not in _NOT_COLUMNS} for row in kept),
            self.options.task,
        )

    def _require_the_wrapped_tasks_number(
        self, matrix: ScoreMatrix, benchmark: Benchmark, items: Sequence[Sequence[dict[str, Any]]]
    ) -> None:
        """Refuse to take means for the metric of a task that aggregates otherwise and doesn't declare how."""
        if benchmark.assumed:
            key = benchmark.headline.key
            aggregate = super().aggregation()[key]
            more = {"args": self.args} if "args" in inspect.signature(aggregate).parameters else {}
            theirs = aggregate([rows[0][_ITEM] for rows in items], **more)
            ours = Units.of(matrix, find_metric(benchmark.headline.metric)).estimate()
            of_first = float(ours[matrix.column(items[0][0]["variant"])])
            if isinstance(theirs, (int, float)) and not same_number(of_first, theirs):
                raise DataError(say_no_mean(key))

    def _read_by(self, sample: Mapping[str, Any]) -> Benchmark:
        if self._benchmark is None:
            self._benchmark = find_benchmarks(self.options.of, self.config.to_dict(), [sample])[0]
        return self._benchmark

    def aggregation(self) -> dict[str, Callable[[list[Any]], float | None]]:
        """Return, for each reported number, what lmms-eval calls with all documents' rows (see process_results)."""
        if self._unscored:
            return dict(super().aggregation())
        return {name: partial(self._aggregate, name) for name in self.reported}

    def higher_is_better(self) -> dict[str, bool]:
        """Return which numbers are better when higher."""
        return dict(super().higher_is_better() if self._unscored else self.reported)

    def examples(self, doc_ids: Sequence[int]) -> list[Example]:
        """Return what a reader needs to see of documents: question and first image."""
        documents = self.eval_docs
        shown = []
        for doc_id in doc_ids:
            doc = documents[doc_id]
            images = [visual for visual in self.doc_to_visual(doc) or [] if isinstance(visual, Image.Image)]
            shown.append(Example(doc_id, self.doc_to_text(doc), images[0] if images else None))
        return shown

    def shows_anything(self, doc_id: int) -> bool:
        """Return whether a document's prompt holds anything but text."""
        messages = self.doc_to_messages(self.eval_docs[doc_id])
        return any(part["type"] != "text" for message in messages for part in message["content"])

    def _aggregate(self, name: str, items: list[list[dict[str, Any]]]) -> float | None:
        return self._report_once(items)[name]

    def _report_once(self, items: list[list[dict[str, Any]]]) -> dict[str, float | None]:
        if self._reported is None:
            if self._benchmark is None:  # scored by other processes only
                raise ConfigError(f"{self.options.task}: no document was scored")
            with self._results_folder() as folder:
                try:
                    matrix = self._join([row for rows in items for row in rows])
                    matrix.write(folder / MATRIX)
                    self._require_the_wrapped_tasks_number(matrix, self._benchmark, items)
                    for note in self.notes:
                        logger.info(f"{self.options.task}: {note}")
                    told = self.report(folder / MATRIX, self._benchmark)
                    self._reported = {name: None if value is None else float(value) for name, value in told.items()}
                except DataError as error:  # too few documents, say: the other tasks' results must not be lost with it
                    logger.error(f"{self.options.task}: {error}")
                    self._reported = dict.fromkeys(self.reported)
        return self._reported

    @contextmanager
    def _results_folder(self) -> Iterator[Path]:
        """This task's folder, or one that is thrown away when the run keeps nothing."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder
        else:
            with TemporaryDirectory() as folder:
                yield Path(folder)


def _read_options(options_class: type[FamilyOptions], config: Mapping[str, Any]) -> FamilyOptions:
    given = {name: value for name, value in config.items() if name != "class"}
    try:
        return options_class.model_validate(given)
    except ValidationError as error:
        item = error.errors()[0]
        name = ".".join(map(str, item["loc"]))
        known = options_class.model_fields
        hint = did_you_mean(name, known) if item["type"] == "extra_forbidden" else ""
        raise ConfigError(
            f"task {given.get('task')}: '{name}': {item['msg']}.{hint} Known: {', '.join(known)}"
        ) from None
