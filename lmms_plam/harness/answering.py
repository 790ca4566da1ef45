"""Answering families: all variants that a task asks of a document, from one prompt of the backend's own.

lmms-eval sees one request for each document and variant. Here those of a document become one request to the backend;
when the backend calls `generate`, the family engine answers for every variant at once. A task may set
a course: which requests to ask next, as the answers so far say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from torch import nn

from lmms_plam.errors import Interrupted, UnsupportedError
from lmms_plam.harness.backends import finish_answer, own_copies
from lmms_plam.harness.engine import Engine
from lmms_plam.harness.intercept import DocumentsInHand, Generate, intercept_generate
from lmms_plam.harness.journal import Journal
from lmms_plam.harness.prompts import RANKING, request_digest
from lmms_plam.harness.ranking import Asker, as_text
from lmms_plam.model import FamilyResult, QueryScope, Readout, Variant
from lmms_plam.scoring.record import Ending

ANCHOR = "plam_family_member"
"""Key of a request's metadata under which a family task puts its FamilyMember; a task's own YAML may have `plam`."""

Course = Callable[[Sequence[Instance], Callable[[int], str]], Iterable[Collection[int]]]
"""The order in which a task asks, where the answers decide what is asked next. Given all of its requests and a function
from a request's place to its answer: yields the places to ask, round by round. What it never yields is never asked."""

Endings = dict[tuple[int, str], Ending]
"""By document id and variant's name, how the answer ended."""

Observed = dict[tuple[int, str], Any]
"""By document id and variant's name, what a task's observer kept."""


class Observer(Protocol):
    """Sees what is read off while a task's variants answer, and says what of it to keep."""

    def __call__(
        self,
        doc_id: int,
        readouts: Mapping[str, Readout | None],
        answers: Mapping[str, str],
        inputs: Mapping[str, Any],
        row: int,
    ) -> Mapping[str, Any]:
        """Return by variant's name what to keep, as JSON can hold it.

        Args:
            doc_id: the document.
            readouts: by variant's name, attention to vision; None without vision.
            answers: by variant's name.
            inputs: the backend's arguments for `model.generate`, of a whole batch.
            row: the document's place in it.
        """


Taster = Callable[[Instance, str], None]
"""Given a task's first request and its answer: raises if the task won't be able to score any."""


@dataclass(frozen=True, slots=True)
class FamilyMember:
    """What a family task adds to a request.

    Attributes:
        variant: which variant answers it.
        identity: tells who answers from all others: the variant, its weights' fingerprint and its scope.
        scope: from which queries a cut hides vision.
        folder: where answers are kept meanwhile; None: nowhere.
        ground: the weight set that variants start from; None: the weights as loaded.
        reads: whether its attention is read, for the task's observer.
    """

    variant: Variant
    identity: str
    scope: QueryScope
    folder: Path | None
    ground: str | None = None
    reads: bool = False


@dataclass
class _Family:
    """The requests of one document: places in the list of all requests, by variant."""

    request: Instance
    document: Callable[[], Any]
    members: dict[FamilyMember, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def doc_id(self) -> int:
        return int(self.request.doc_id)

    @cached_property
    def prompt(self) -> str:
        """Digest of all that the backend makes the prompt of: text, images, generation arguments."""
        return request_digest(self.request, self.document())


def is_family(request: Instance) -> bool:
    """Whether a family task made this request."""
    return ANCHOR in request.metadata


def answer_families(
    backend: lmms,
    model: nn.Module,
    engine: Engine,
    requests: Sequence[Instance],
    courses: Mapping[str, Course],
    tasters: Mapping[str, Taster],
    in_hand: DocumentsInHand,
    endings: dict[str, Endings],
    observers: Mapping[str, Observer],
    observed: dict[str, Observed],
) -> list[str]:
    """Answer the requests of family tasks.

    Args:
        backend: the lmms-eval backend that builds prompts and decodes answers.
        model: its Hugging Face model.
        engine: answers for variants.
        requests: requests whose metadata hold a FamilyMember.
        courses: by task, for those that don't ask everything at once.
        tasters: by task, for those that can tell from one answer that something is wrong.
        in_hand: what the backend fetches: which rows of its batches are whose.
        endings: by task, how answers ended; filled in here.
        observers: by task, for those that look at what is read off meanwhile.
        observed: by task, what they kept; filled in here.

    Returns:
        The answers; empty for what was not asked, as lmms-eval's cache keeps no empty answer.

    Raises:
        DataError: what a taster found.
        Interrupted: Ctrl-C.
        UnsupportedError: the backend edits its answers in a way that can't be applied to the variants'.
    """
    answers: list[str | None] = [None] * len(requests)
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_task[request.task_name].append(index)
    for task, indices in by_task.items():
        own = [requests[index] for index in indices]
        told: list[str | None] = [None] * len(own)
        course = courses.get(task, _all_at_once)
        taste = tasters.get(task)
        with _journal(own[0].metadata[ANCHOR].folder, backend.rank) as journal:
            for places in course(own, lambda place, told=told: told[place] or ""):  # type: ignore[misc]
                ended, seen = endings.setdefault(task, {}), observed.setdefault(task, {})
                observer = observers.get(task)
                _ask(backend, model, engine, own, list(places), told, ended, journal, in_hand, taste, observer, seen)
                taste = None
        for index, answer in zip(indices, told, strict=True):
            answers[index] = answer
    return [answer if answer is not None else "" for answer in answers]


def _all_at_once(requests: Sequence[Instance], answer: Callable[[int], str]) -> Iterable[Collection[int]]:
    return [range(len(requests))]


@contextmanager
def _journal(folder: Path | None, rank: int) -> Iterator[Journal | None]:
    if folder is None:
        with _saying_what_is_kept("without --output_path no answers are kept"):
            yield None
        return
    kept = f"the answers given so far are kept in {folder}, and the same command goes on from there"
    with Journal(folder, rank) as journal, _saying_what_is_kept(kept):
        yield journal


@contextmanager
def _saying_what_is_kept(kept: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {kept}") from None


def _open_families(
    requests: Sequence[Instance],
    indices: Sequence[int],
    answers: list[str | None],
    endings: Endings,
    observed: Observed,
    journal: Journal | None,
    in_hand: DocumentsInHand,
) -> dict[int, _Family]:
    """Group a task's requests by document, fill in what the journal knows, and return what is left."""
    families: dict[int, _Family] = {}
    known = 0
    for index in indices:
        request = requests[index]
        member: FamilyMember = request.metadata[ANCHOR]
        doc_id = int(request.doc_id)
        if doc_id not in families:
            place = request.task_name, request.metadata["split"], doc_id
            families[doc_id] = _Family(request, partial(in_hand.document, *place))
        family = families[doc_id]
        key = (doc_id, member.identity)
        known_answer = journal.find(key, family.prompt) if journal and key in journal else None
        if journal is None or known_answer is None or (member.reads and journal.observed(key) is None):
            answers[index] = None
            family.members[member].append(index)
            continue
        answers[index] = known_answer
        known += 1
        if ending := journal.ending(key):
            endings[doc_id, member.variant.name] = ending
        if member.reads:
            observed[doc_id, member.variant.name] = journal.observed(key)
    if known:
        logger.info(
            f"{requests[indices[0]].task_name}: {known} of {len(indices)} answers are taken up from a run before"
        )
    return {doc_id: family for doc_id, family in families.items() if family.members}


def _ask(
    backend: lmms,
    model: nn.Module,
    engine: Engine,
    requests: Sequence[Instance],
    indices: Sequence[int],
    answers: list[str | None],
    endings: Endings,
    journal: Journal | None,
    in_hand: DocumentsInHand,
    taste: Taster | None,
    observer: Observer | None,
    observed: Observed,
) -> None:
    """Answer some of a task's requests, as far as the journal doesn't know them."""
    families = _open_families(requests, indices, answers, endings, observed, journal, in_hand)
    if not families:
        return
    if RANKING in next(iter(families.values())).request.metadata:
        asker = Asker(backend, model, engine, in_hand)
        _rank(asker, list(families.values()), requests, answers, journal, taste)
        return
    decoded: dict[int, str] = {}
    first = next(iter(families.values())).request
    stops = _stops(first)

    def decode(tokens: Any) -> tuple[str, bool]:
        """Return the answer, and whether it goes on after one of the task's stops."""
        text = backend.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        finished = finish_answer(backend, text, stops)
        return finished, finished.strip() != text.strip()

    def answer(generate: Generate, **inputs: Any) -> Any:
        rows = len(inputs["input_ids"])
        fetched = {doc_id for _, doc_id in in_hand.batch(rows)}
        if len(fetched - decoded.keys()) < rows:
            raise UnsupportedError("the backend doesn't fetch each document once, so that rows can't be told apart")
        batch = [families[doc_id] for _, doc_id in in_hand.batch(rows)]
        variants = list(dict.fromkeys(member.variant for family in batch for member in family.members))
        member = first.metadata[ANCHOR]
        reads = observer is not None and member.reads
        result = engine.answer(first.task_name, variants, member.scope, member.ground, inputs, reads)
        for row, family in enumerate(batch):
            given, ended = {}, {}
            for member, places in family.members.items():
                asked = variants.index(member.variant)
                tokens = result.tokens[asked][row]
                text, stopped = decode(tokens)
                key = family.doc_id, member.identity
                divergence = None if result.divergence is None else result.divergence[asked][row]
                ending = Ending(len(tokens), not stopped and _cut_off(model, tokens, inputs), divergence)
                given[key], ended[key] = text, ending
                endings[family.doc_id, member.variant.name] = ended[key]
                for place in places:
                    answers[place] = text
            seen = {}
            if observer is not None and reads:
                kept = _observe(observer, family, variants, result, inputs, row, given)
                observed.update({(family.doc_id, name): value for name, value in kept.items()})
                seen = {(family.doc_id, one.identity): kept[one.variant.name] for one in family.members}
            if journal:
                journal.write(family.prompt, given, ended, seen)
            if taste and not decoded:
                place = next(iter(family.members.values()))[0]
                taste(requests[place], answers[place] or "")
            decoded[family.doc_id] = decode(result.trunk[row][inputs["input_ids"].shape[1] :])[0]
        in_hand.answered(rows)
        return result.trunk

    order = list(families)
    in_hand.answered()  # whatever was fetched before
    with intercept_generate(model, answer):
        own = backend.generate_until(own_copies([families[doc_id].request for doc_id in order]))
    for doc_id, answered in zip(order, own, strict=True):
        text = getattr(answered, "text", answered)
        if text != decoded[doc_id]:
            raise UnsupportedError(
                f"{type(backend).__name__} turns the model's {decoded[doc_id]!r} into {text!r}; what it does to its "
                "answers can't be applied to the other variants"
            )


def _rank(
    asker: Asker,
    families: Sequence[_Family],
    requests: Sequence[Instance],
    answers: list[str | None],
    journal: Journal | None,
    taste: Taster | None,
) -> None:
    """Answer requests for rankings of given texts: log-probabilities, as text."""
    member = families[0].request.metadata[ANCHOR]
    variants = list(dict.fromkeys(member.variant for family in families for member in family.members))
    rankings = [(family.request, family.request.metadata[RANKING]) for family in families]
    for found in asker.rank(families[0].request.task_name, rankings, variants, member.scope, member.ground):
        for place, scores in found:
            family, given = families[place], {}
            for member, places in family.members.items():
                text = as_text(scores[variants.index(member.variant)])
                given[family.doc_id, member.identity] = text
                for one in places:
                    answers[one] = text
            if journal:
                journal.write(family.prompt, given)
            if taste:
                first = next(iter(family.members.values()))[0]
                taste(requests[first], answers[first] or "")
                taste = None


def _observe(
    observer: Observer,
    family: _Family,
    variants: Sequence[Variant],
    result: FamilyResult,
    inputs: Mapping[str, Any],
    row: int,
    given: Mapping[tuple[int, str], str],
) -> Mapping[str, Any]:
    """Let a task's observer see a document's row of a batch."""
    readouts, answers = {}, {}
    for member in family.members:
        own = None if result.readouts is None else result.readouts[variants.index(member.variant)]
        readouts[member.variant.name] = None if own is None else own[row]
        answers[member.variant.name] = given[family.doc_id, member.identity]
    return observer(family.doc_id, readouts, answers, inputs, row)


def _cut_off(model: nn.Module, tokens: Sequence[int], inputs: Mapping[str, Any]) -> bool:
    """Whether the limit on new tokens ended an answer: it is that long, and its last token doesn't end it."""
    config = inputs.get("generation_config") or getattr(model, "generation_config", None)
    new, whole, end = (
        inputs[name] if inputs.get(name) is not None else getattr(config, name, None)
        for name in ("max_new_tokens", "max_length", "eos_token_id")
    )
    limit = new if new is not None else None if whole is None else whole - inputs["input_ids"].shape[1]
    ends = end if isinstance(end, (list, tuple)) else [end]
    return limit is not None and len(tokens) >= limit and tokens[-1] not in ends


def _stops(request: Instance) -> list[str]:
    """Return a task's `until`."""
    arguments = next(part for part in request.args if isinstance(part, dict))
    until = arguments.get("until", [])
    return list(until) if isinstance(until, (list, tuple)) else [str(until)]
