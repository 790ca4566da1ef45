"""Standing between a backend and its model: what `generate` gets and returns, and errors that must not be swallowed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from torch import nn

from lmms_plam.errors import GenerationError, PlamError

Generate = Callable[..., Any]


@contextmanager
def intercept_generate(model: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """While open, every `model.generate(**inputs)` is answered by `answer(generate, **inputs)`.

    The backend thus keeps building its own prompts and decoding its own answers.

    Args:
        model: the Hugging Face model on which the backend calls `generate`.
        answer: gets the model's own `generate` and the backend's arguments; returns what `generate` would.
    """
    shadowed = model.__dict__.get("generate")
    generate = model.generate

    def intercepted(**inputs: Any) -> Any:
        return answer(generate, **inputs)

    # an instance attribute hides the class's method, which stays as it is
    model.generate = intercepted  # type: ignore[assignment]
    try:
        yield
    finally:
        if shadowed is None:
            del model.generate
        else:
            model.generate = shadowed


class _Failure(BaseException):
    """Carries an error past the `except Exception` of a backend."""


class _Documents:
    """Stands in for a dataset split, and notes which documents a backend fetches to build its batches of."""

    def __init__(self, documents: Any, note: Callable[[int], None]):
        self._documents, self._note = documents, note

    def __getitem__(self, doc_id: int) -> Any:
        self._note(doc_id)
        return self._documents[doc_id]

    def __len__(self) -> int:
        return len(self._documents)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)


@contextmanager
def _documents_in_hand(backend: lmms, requests: Iterable[Instance]) -> Iterator[dict[tuple[str, int], None]]:
    """Yield what a backend has fetched and not answered yet, in order: task and document id.

    `generate` answers so many of them, from the first on, as its prompts have rows.
    """
    in_hand: dict[tuple[str, int], None] = {}

    def noting(task: str) -> Callable[[int], None]:
        return lambda doc_id: in_hand.update({(task, doc_id): None})

    def answer(generate: Generate, **inputs: Any) -> Any:
        output = generate(**inputs)
        rows = len(inputs["input_ids"]) if "input_ids" in inputs else len(in_hand)
        for key in list(in_hand)[:rows]:
            del in_hand[key]
        return output

    tasks = {request.task_name for request in requests if request.task_name in backend.task_dict}
    splits = {task: backend.task_dict[task] for task in tasks}
    for task in tasks:
        note = noting(task)
        backend.task_dict[task] = {name: _Documents(documents, note) for name, documents in splits[task].items()}
    try:
        with intercept_generate(backend.model, answer):
            yield in_hand
    finally:
        backend.task_dict.update(splits)


@contextmanager
def no_silent_failure(backend: lmms, requests: Iterable[Instance]) -> Iterator[None]:
    """End the run at the first failure of a backend, also of one that logs it and answers with an empty string.

    Two doors are watched: exceptions of `model.generate`, and error messages that lmms-eval's model code logs (they
    stand in the `except` blocks that drop an image or an answer). What fails names the documents of its batch.

    Args:
        backend: the lmms-eval backend.
        requests: what it is about to answer.

    Raises:
        GenerationError: with the backend's own exception as its cause.
    """

    def answer(generate: Generate, **inputs: Any) -> Any:
        try:
            return generate(**inputs)
        except Exception as error:
            raise _Failure from error

    def on_error_message(message: Any) -> None:
        raise _Failure(message.record["message"]) from sys.exc_info()[1]

    sink = logger.add(on_error_message, level="ERROR", filter="lmms_eval.models", catch=False)
    in_hand: dict[tuple[str, int], None] = {}
    try:
        with intercept_generate(backend.model, answer), _documents_in_hand(backend, requests) as in_hand:
            yield
    except PlamError as error:
        raise type(error)(f"{_where(in_hand)}{error}") from error
    except (_Failure, Exception) as failure:
        cause = failure.__cause__ if isinstance(failure, _Failure) else failure
        detail = f"{type(cause).__name__}: {cause}" if cause is not None else str(failure)
        raise GenerationError(
            f"{_where(in_hand)}the backend failed while answering, so the run has no result: {detail}"
        ) from cause
    finally:
        logger.remove(sink)


def _where(in_hand: Iterable[tuple[str, int]]) -> str:
    """Name the documents of a batch, most often one: `mme, document 7: `."""
    by_task: dict[str, list[str]] = {}
    for task, doc_id in in_hand:
        by_task.setdefault(task, []).append(str(doc_id))
    named = [f"{task}, document{'s' if len(ids) > 1 else ''} {', '.join(ids)}" for task, ids in by_task.items()]
    return f"{'; '.join(named)}: " if named else ""
