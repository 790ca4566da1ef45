"""Tasks that rank given texts by their probability: BLiMP, EWoK, Entity Tracking, Winoground.

task: plam_blimp
class: !function lmms_plam.families.RankedTask
benchmark: blimp

lmms-eval's own multiple choice refuses chat models and takes the least likely for the likeliest of models that return
log-probabilities, so these are tasks of our own. They ask lmms-eval's `loglikelihood`, of chat and simple models alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import datasets
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from lmms_plam.config import ModelConfig
from lmms_plam.errors import ConfigError, DataError, did_you_mean
from lmms_plam.harness.model import running
from lmms_plam.harness.preflight import Outline
from lmms_plam.harness.prompts import RANKING
from lmms_plam.harness.ranking import SHOWS, Ranking
from lmms_plam.language.benchmarks import LanguageBenchmark, find_benchmark
from lmms_plam.language.ranking import (
    is_right,
    is_tied,
    macro,
    mean,
    mutual_information,
    per_character,
    winoground_scores,
)
from lmms_plam.language.sources import load_items

_BLACK = (224, 224)
_SPLIT = "test"


class RankedOptions(BaseModel):
    """What the YAML of a task that ranks texts may hold, or `language:` in the model config (`language.folder=PATH`).

    Attributes:
        task: its name.
        benchmark: which; see lmms_plam.language.benchmarks.
        folder: where its files lie, such as the BabyLM evaluation's unpacked archives; left out, the hub.
        picture: what documents without a picture show: `none`, then they are raw text, or `black`, as the BabyLM
            evaluation scores multimodal models on text.
        question: what is asked about a picture, before the caption.
        start_token: what raw text begins with; left out, the tokenizer's own start token, or else the config's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    benchmark: str
    folder: str | None = None
    picture: Literal["none", "black"] = "none"
    question: str = ""
    start_token: str | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any], settings: ModelConfig | None) -> RankedOptions:
        """Read a task's YAML, and over it what the model config says.

        Raises:
            ConfigError: what can't be meant.
        """
        task, known = config.get("task"), list(cls.model_fields)
        given = {**{name: value for name, value in config.items() if name != "class"}}
        given |= {} if settings is None else settings.language
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"task {task}: no option '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}"
                )
        try:
            options = cls.model_validate(given)
        except ValidationError as error:
            item = error.errors()[0]
            name = ".".join(map(str, item["loc"]))
            value = "" if item["type"] == "missing" else f" = {item['input']!r}"
            raise ConfigError(f"task {task}: '{name}'{value}: {item['msg']}") from None
        find_benchmark(options.benchmark)
        if options.folder is not None and not Path(options.folder).expanduser().is_dir():
            raise ConfigError(f"task {task}: there is no folder '{options.folder}'")
        return options

    @property
    def source(self) -> LanguageBenchmark:
        """The benchmark."""
        return find_benchmark(self.benchmark)

    def as_task(self, output_type: str = "loglikelihood") -> dict[str, Any]:
        """Return the YAML that lmms-eval's own task class would have of the same benchmark."""
        source = self.source
        return {
            "task": self.task,
            "dataset_path": source.hub.path if source.hub and self.folder is None else self.folder,
            "dataset_kwargs": self.model_dump(),
            "test_split": _SPLIT,
            "output_type": output_type,
            "num_fewshot": 0,
            "doc_to_text": show_texts,
            "doc_to_target": show_right,
            "doc_to_visual": partial(show_pictures, shown=source.shown, black=self.picture == "black"),
            "process_results": partial(score, benchmark=source.name),
            "metric_list": [
                {"metric": name, "aggregation": average, "higher_is_better": name != "ties"}
                for name, average in _metrics(source).items()
            ],
            "metadata": {"version": 1.0, **_declared(source)},
        }

    def ranking(self, doc: Mapping[str, Any]) -> Ranking:
        """Return what is asked of a document."""
        shown = self.source.shown or int(self.picture == "black")
        texts = tuple((str(doc["context"]), str(one)) for one in doc["completions"])
        return Ranking(texts, tuple(range(shown)), self.question, self.start_token)


def _metrics(source: LanguageBenchmark) -> dict[str, Callable[..., float]]:
    """Return the numbers of a benchmark and how each is averaged, the headline first."""
    if source.scoring == "winoground":
        return dict.fromkeys(("text", "image", "group", "text_norm", "text_mutual_info"), mean)
    average = macro if source.averages != "mean" else mean
    names = ["acc", "acc_norm", *(["acc_mutual_info"] if source.alone else [])]
    return dict.fromkeys(names, average) | {"ties": mean}


def _declared(source: LanguageBenchmark) -> dict[str, Any]:
    """Return what lmms_plam.scoring.declared reads; Winoground's own three scores are in its table."""
    if source.scoring == "winoground":
        return {}
    declared = {
        "score": "acc.score",
        "cluster": "cluster",
        "question": "question_id",
        "metric": source.averages,
        "chance": source.chance,
        "reads": ".*",
    }
    if source.averages != "mean":
        declared["stratum"] = "part"
    return {"plam": declared}


def show_texts(doc: Mapping[str, Any]) -> str:
    """Return context and candidates for people to read (doc_to_text)."""
    candidates = " / ".join(str(one).strip() for one in doc["completions"])
    return f"{doc['context']} ... {candidates}" if doc["context"] else candidates


def show_right(doc: Mapping[str, Any]) -> str:
    """Return the right candidate (doc_to_target)."""
    return str(doc["completions"][0]).strip()


def show_pictures(doc: Mapping[str, Any], shown: int = 0, black: bool = False) -> list[Image.Image]:
    """Return a document's pictures, or a black one (doc_to_visual)."""
    pictures = [doc[f"picture_{place}"].convert("RGB") for place in range(shown)]
    return pictures or ([Image.new("RGB", _BLACK)] if black else [])


def score(doc: Mapping[str, Any], results: Sequence[str], benchmark: str) -> dict[str, dict[str, Any]]:
    """Score a document's log-probabilities (process_results).

    Args:
        doc: the document.
        results: one text of all log-probabilities by picture and candidate, as a family task has them; or lmms-eval's
            pairs as text, by picture and candidate, and then the candidates alone.
        benchmark: its name.

    Raises:
        DataError: a probability that is no number.
    """
    source, completions = find_benchmark(benchmark), [str(one) for one in doc["completions"]]
    rows, alone = _read(results, len(completions), max(1, source.shown))
    if not all(isfinite(value) for row in [*rows, alone or []] for value in row):
        raise DataError(f"{benchmark}: '{doc['question_id']}': the model's log-probabilities {rows} are no numbers")
    norm = [per_character(row, completions) for row in rows]
    informed = None if alone is None else [mutual_information(row, alone) for row in rows]
    if source.scoring == "winoground":
        values = winoground_scores(rows)
        values["text_norm"] = winoground_scores(norm)["text"]
        if informed is not None:
            values["text_mutual_info"] = winoground_scores(informed)["text"]
    else:
        values = {"acc": is_right(rows[0]), "acc_norm": is_right(norm[0])}
        if informed is not None:
            values["acc_mutual_info"] = is_right(informed[0])
        values["ties"] = is_tied(rows[0])
    named = {"question_id": doc["question_id"], "part": doc["part"], "kind": doc["kind"], "cluster": doc["cluster"]}
    return {name: {**named, "score": value} for name, value in values.items()}


def _read(results: Sequence[str], candidates: int, pictures: int) -> tuple[list[list[float]], list[float] | None]:
    """Return log-probabilities by picture and candidate, and those of candidates alone if they were asked."""
    if len(results) == 1:
        return json.loads(results[0]), None
    values = [float(result.strip("([])").partition(",")[0]) for result in results]
    rows = [values[first : first + candidates] for first in range(0, len(values), candidates)]
    return rows[:pictures], rows[pictures] if len(rows) > pictures else None


class RankedDocuments(ConfigurableMessagesTask):
    """A task whose documents are a benchmark's items."""

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Load the items.

        Raises:
            DataError: they can't be had, or aren't what the source has.
        """
        options = RankedOptions.model_validate(dataset_kwargs)
        rows = [item.to_row() for item in load_items(options.source, options.folder)]
        pictures = [f"picture_{place}" for place in range(options.source.shown)]
        features = {name: datasets.Value("string") for name in ("question_id", "part", "kind", "cluster", "context")}
        features |= {"completions": datasets.Sequence(datasets.Value("string"))}
        features |= {name: datasets.Image() for name in pictures}
        documents = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        self.dataset = datasets.DatasetDict({_SPLIT: documents})
        self.dataset_no_image = datasets.DatasetDict({_SPLIT: documents.remove_columns(pictures)})


class RankedTask(RankedDocuments):
    """A benchmark that ranks texts, as a task of any model that answers lmms-eval's `loglikelihood`.

    Args:
        config: the task's YAML.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        model = running()
        self.options = RankedOptions.read(config, None if model is None else model.provenance.config)
        super().__init__(config=self.options.as_task(), model_name=None if model is None else model.backend_name)

    @classmethod
    def foresee(cls, config: Mapping[str, Any], outline: Outline) -> RankedOptions:
        """Check the YAML before a model is loaded.

        Raises:
            ConfigError: what can't be meant.
        """
        return RankedOptions.read(config, outline.settings)

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> list[Instance]:
        """Return a request for each picture and candidate, and for each candidate alone where that is asked."""
        metadata = kwargs["metadata"]
        whole = self.options.ranking(self.eval_docs_no_media[doc_id])
        asked = [Ranking((text,), (place,), whole.question) for place in whole.pictures for text in whole.texts]
        asked = asked or [Ranking((text,), start_token=whole.start_token) for text in whole.texts]
        if self.options.source.alone:
            asked += [Ranking((("", text.lstrip()),), start_token=whole.start_token) for _, text in whole.texts]
        requests = []
        for idx, ranking in enumerate(asked):
            shown = partial(_shown_of, self.doc_to_visual, ranking.pictures)
            arguments = (*ranking.texts[0], shown, doc_id, self.config.task, metadata["split"])
            own = {**metadata, RANKING: ranking, SHOWS: self.doc_to_visual}
            requests.append(Instance("loglikelihood", arguments, idx=idx, metadata=own))
        return requests

    def process_results(self, doc: Any, results: Sequence[Any], full_docs: Any = None) -> dict[str, Any]:
        """Score a document's log-probabilities; asked again they would be the same."""
        if "bypass" in self._metric_fn_list:
            return dict.fromkeys(self._metric_fn_list, 0)
        return dict(self.config.process_results(doc, results))


def _shown_of(doc_to_visual: Callable[[Any], list[Any]], places: Sequence[int], doc: Any) -> list[Any]:
    pictures = doc_to_visual(doc) if places else []
    return [pictures[place] for place in places]
