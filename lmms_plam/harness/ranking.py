"""Ranking given texts: what a task asks of a document, and how a backend's model scores it, variant by variant.

Without pictures a text is scored raw: the tokenizer's own start token, then the text, no chat template. With a picture
the backend builds its prompt as for an answer, and the model is led along each text from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableMessagesTask
from loguru import logger
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lmms_plam.errors import ConfigError, UnsupportedError, about
from lmms_plam.harness.backends import own_copies
from lmms_plam.harness.engine import Engine
from lmms_plam.harness.intercept import DocumentsInHand, Generate, intercept_generate
from lmms_plam.harness.prompts import RANKING
from lmms_plam.language.border import Passage, cut
from lmms_plam.model import QueryScope, Score, Variant

SHOWS = "plam_shows"
"""Key of a request's metadata, beside RANKING: what turns the document into its pictures."""

_NEW_TOKENS = 16
"""What the backend is asked for, of which nothing is taken."""

_RAW, _SHOWN = 512, 32
"""Documents at once: texts of like length make good batches; pictures cost more, and are kept for a run cut short."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is asked of a document.

    Attributes:
        texts: pairs of a context and the completion after it that is scored.
        pictures: which of the document's pictures are shown, each by itself; none: raw text.
        question: what is asked about a picture.
        start_token: what raw text begins with; None: the tokenizer's own start token.
    """

    texts: tuple[tuple[str, str], ...]
    pictures: tuple[int, ...] = ()
    question: str = ""
    start_token: str | None = None


Scores = list[list[list[Score]]]
"""By variant, picture (one row for raw text) and text."""


@dataclass(frozen=True, slots=True)
class Asker:
    """What answers rankings.

    Attributes:
        backend: the lmms-eval backend, which builds prompts with pictures.
        model: its Hugging Face model.
        engine: scores for variants.
        in_hand: what the backend fetches.
    """

    backend: lmms
    model: PreTrainedModel
    engine: Engine
    in_hand: DocumentsInHand

    def rank(
        self,
        task: str,
        rankings: Sequence[tuple[Instance, Ranking]],
        variants: Sequence[Variant],
        scope: QueryScope = "all",
        ground: str | None = None,
    ) -> Iterator[list[tuple[int, Scores]]]:
        """Yield places of rankings with their scores, some at a time.

        Args:
            task: the task that asks.
            rankings: each with a request that names its document.
            variants: who answers.
            scope: from which queries a cut hides vision.
            ground: the weight set that variants start from; None: the weights as loaded.

        Raises:
            DataError: a text without tokens, named.
            UnsupportedError: no token to begin raw text with, or a model that has no probabilities.
        """
        raw = [place for place, (_, ranking) in enumerate(rankings) if not ranking.pictures]
        shown = [place for place, (_, ranking) in enumerate(rankings) if ranking.pictures]
        bar = tqdm(total=len(rankings), desc=task, disable=self.backend.rank != 0)
        for places in _parts(raw, _RAW):
            chosen = [rankings[place] for place in places]
            yield list(zip(places, self._rank_raw(task, chosen, variants, ground), strict=True))
            bar.update(len(places))
        for places in _parts(shown, _SHOWN):
            scores: dict[int, Scores] = {place: [[] for _ in variants] for place in places}
            for number in range(max(len(rankings[place][1].pictures) for place in places)):
                having = [place for place in places if number < len(rankings[place][1].pictures)]
                found = self._rank_shown(task, [rankings[place] for place in having], number, variants, scope, ground)
                for place, by_variant in zip(having, found, strict=True):
                    for own, row in zip(scores[place], by_variant, strict=True):
                        own.append(row)
            yield list(scores.items())
            bar.update(len(places))
        bar.close()

    def _rank_raw(
        self,
        task: str,
        rankings: Sequence[tuple[Instance, Ranking]],
        variants: Sequence[Variant],
        ground: str | None,
    ) -> list[Scores]:
        start = _start_token(self.backend.tokenizer, self.model, rankings[0][1].start_token)
        documents = [
            [_named(self.backend.tokenizer, request, *text) for text in ranking.texts] for request, ranking in rankings
        ]
        found = self.engine.score_texts(task, variants, ground, start, documents)
        return [[[own[place]] for own in found] for place in range(len(rankings))]

    def _rank_shown(
        self,
        task: str,
        rankings: Sequence[tuple[Instance, Ranking]],
        number: int,
        variants: Sequence[Variant],
        scope: QueryScope,
        ground: str | None,
    ) -> list[list[list[Score]]]:
        """Return scores by ranking, variant and text, with the n-th picture that each ranking shows."""
        by_document = {int(request.doc_id): place for place, (request, _) in enumerate(rankings)}
        found: dict[int, list[list[Score]]] = {}

        def answer(generate: Generate, **inputs: Any) -> Tensor:
            rows = len(inputs["input_ids"])
            batch = [by_document[doc_id] for _, doc_id in self.in_hand.batch(rows)]
            if len(set(batch) - found.keys()) < rows:
                raise UnsupportedError("the backend doesn't fetch each document once, so that rows can't be told apart")
            passages = [
                [
                    _named(self.backend.tokenizer, rankings[place][0], *_joined(self.backend.tokenizer, prompt, *text))
                    for text in rankings[place][1].texts
                ]
                for place, prompt in zip(batch, inputs["input_ids"], strict=True)
            ]
            result = self.engine.score(task, variants, scope, ground, inputs, passages)
            assert result.scores is not None
            for row, place in enumerate(batch):
                found[place] = [own[row] for own in result.scores]
            self.in_hand.answered(rows)
            return result.trunk

        asked = [_as_generation(self.backend, request, ranking, number) for request, ranking in rankings]
        self.in_hand.answered()
        with intercept_generate(self.model, answer):
            self.backend.generate_until(own_copies(asked))
        return [found[place] for place in range(len(rankings))]


def _parts(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(places), size):
        yield places[first : first + size]


def _named(tokenizer: Any, request: Instance, context: str, completion: str) -> Passage:
    with about(f"{request.task_name}, document {request.doc_id}"):
        return cut(tokenizer, context, completion)


def _joined(tokenizer: Any, prompt: Tensor, context: str, completion: str) -> tuple[str, str]:
    """Return a text as it follows a prompt: after white space or a special token without a blank, else with one."""
    first = context or completion
    last = int(prompt[-1])
    apart = tokenizer.decode([last])[-1:].isspace() or last in tokenizer.all_special_ids
    first = first.lstrip() if apart else f" {first.lstrip()}"
    return (first, completion) if context else ("", first)


def _start_token(tokenizer: Any, model: PreTrainedModel, named: str | None) -> int:
    """Return the token that raw text begins with.

    Raises:
        ConfigError: a name that is no token.
        UnsupportedError: neither tokenizer nor config has one, and none is named.
    """
    if named is not None:
        token: int | None = tokenizer.convert_tokens_to_ids(named)
        if token is None or tokenizer.convert_ids_to_tokens(token) != named:
            raise ConfigError(f"language.start_token = '{named}' is no token of this tokenizer")
        return token
    config = model.config.get_text_config(decoder=True)
    for token in (tokenizer.bos_token_id, getattr(config, "bos_token_id", None)):
        if isinstance(token, int):
            return token
    raise UnsupportedError(
        f"{type(tokenizer).__name__} has no start token (bos_token), which raw text begins with: name one "
        "(`language.start_token=TOKEN` in --model_args, or `start_token:` in the task's YAML), such as the one that "
        "parted texts in training"
    )


def _as_generation(backend: lmms, request: Instance, ranking: Ranking, number: int) -> Instance:
    """Return the generation request for a ranking's prompt with its n-th picture."""
    doc_to_visual = request.metadata[SHOWS]
    picture = ranking.pictures[number]

    def visuals(doc: Any) -> Any:
        return [doc_to_visual(doc)[picture]]

    def messages(doc: Any) -> Any:
        return ConfigurableMessagesTask._build_user_turn(visuals(doc), ranking.question)

    options = {"max_new_tokens": _NEW_TOKENS, "temperature": 0, "do_sample": False}
    asked: tuple[Any, ...] = (
        (ranking.question, options, visuals) if backend.is_simple else (ranking.question, messages, options)
    )
    split = request.metadata["split"]
    metadata = {"task": request.task_name, "doc_id": request.doc_id, "repeats": 1, "split": split}
    return Instance(
        "generate_until", (*asked, request.doc_id, request.task_name, split), idx=request.idx, metadata=metadata
    )


def rank_requests(asker: Asker, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
    """Answer lmms-eval's loglikelihood requests that carry a Ranking of one text.

    Those of a document share its prompt, and their texts what these begin with.

    Returns:
        For each the sum of log-probabilities of the completion's tokens, in nats, and whether greedy decoding gives it.
    """
    by_task: dict[str, dict[tuple[Any, ...], _Gathered]] = {}
    for place, request in enumerate(requests):
        one: Ranking = request.metadata[RANKING]
        prompts = by_task.setdefault(request.task_name, {})
        key = (request.doc_id, bool(one.pictures), one.question, one.start_token)
        prompts.setdefault(key, _Gathered(request)).add(place, one)
    answers: dict[int, Score] = {}
    for task, prompts in by_task.items():
        gathered = list(prompts.values())
        logger.info(f"{task}: {sum(len(one.cells) for one in gathered)} log-probabilities of {len(gathered)} prompts")
        for found in asker.rank(task, [(one.request, one.ranking) for one in gathered], [Variant("")]):
            for number, scores in found:
                for place, (row, column) in gathered[number].cells.items():
                    answers[place] = scores[0][row][column]
    return [(answers[place].log_probability, answers[place].is_greedy) for place in range(len(requests))]


@dataclass(slots=True)
class _Gathered:
    """Requests that make one ranking.

    Attributes:
        request: the first of them.
        texts: what they ask.
        pictures: what they show.
        cells: by a request's place, its picture's and its text's.
    """

    request: Instance
    texts: dict[tuple[str, str], int] = field(default_factory=dict)
    pictures: dict[int, int] = field(default_factory=dict)
    cells: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, place: int, ranking: Ranking) -> None:
        """Add a request for one text with one picture or none."""
        (text,) = ranking.texts
        row = 0
        for picture in ranking.pictures:
            row = self.pictures.setdefault(picture, len(self.pictures))
        self.cells[place] = row, self.texts.setdefault(text, len(self.texts))

    @property
    def ranking(self) -> Ranking:
        """All that they ask."""
        first: Ranking = self.request.metadata[RANKING]
        return replace(first, texts=tuple(self.texts), pictures=tuple(self.pictures))


def as_text(scores: Sequence[Sequence[Score]]) -> str:
    """Return a variant's scores as the text of an answer: log-probabilities by picture and text."""
    return json.dumps([[score.log_probability for score in row] for row in scores])
