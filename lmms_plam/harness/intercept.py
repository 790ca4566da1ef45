"""Standing between a backend and its model: what `generate` gets and returns, and errors that must not be swallowed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from torch import nn

from lmms_plam.errors import DataError, GenerationError, PlamError

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


class DocumentsInHand:
    """What a backend has fetched to build batches of, and not answered yet: a backend fetches just before it builds.

    Args:
        backend: the lmms-eval backend.
        requests: what it is about to answer.
    """

    def __init__(self, backend: lmms, requests: Iterable[Instance]):
        self._backend = backend
        self._fetched: list[tuple[str, int]] = []
        tasks = {request.task_name for request in requests}
        self._splits = {task: splits for task, splits in backend.task_dict.items() if task in tasks}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While open, what the backend fetches is noted."""
        for task, splits in self._splits.items():
            note = partial(self._note, task)
            self._backend.task_dict[task] = {name: _Noting(documents, note) for name, documents in splits.items()}
        try:
            yield
        finally:
            self._backend.task_dict.update(self._splits)

    def document(self, task: str, split: str, doc_id: int) -> Any:
        """Return a document without noting it."""
        return self._splits[task][split][doc_id]

    def batch(self, rows: int) -> list[tuple[str, int]]:
        """Return task and id of the documents of a batch; those of the next one may be fetched already."""
        return self._fetched[:rows]

    def answered(self, rows: int | None = None) -> None:
        """Be told that a batch of so many rows, or all, is answered."""
        done = set(list(dict.fromkeys(self._fetched))[:rows])
        self._fetched = [key for key in self._fetched if key not in done]

    def __str__(self) -> str:
        """Name them, most often one, as the start of a sentence: `mme, document 7: `."""
        by_task: dict[str, list[str]] = {}
        for task, doc_id in dict.fromkeys(self._fetched):
            by_task.setdefault(task, []).append(str(doc_id))
        named = [f"{task}, document{'s' * (len(ids) > 1)} {', '.join(ids)}" for task, ids in by_task.items()]
        return f"{'; '.join(named)}: " if named else ""

    def _note(self, task: str, doc_id: int) -> None:
        self._fetched.append((task, doc_id))


class _Noting:
    """Stands in for a dataset split and tells which documents are fetched from it."""

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
def no_silent_failure(backend: lmms, requests: Iterable[Instance]) -> Iterator[DocumentsInHand]:
    """End the run at the first failure of a backend, also of one that logs it and answers with an empty string.

    Two doors are watched: exceptions of `model.generate`, and error messages that lmms-eval's model code logs (they
    stand in the `except` blocks that drop an image or an answer). What fails names the documents of its batch.

    Args:
        backend: the lmms-eval backend.
        requests: what it is about to answer.

    Raises:
        GenerationError: with the backend's own exception as its cause.
    """
    in_hand = DocumentsInHand(backend, requests)

    def answer(generate: Generate, **inputs: Any) -> Any:
        try:
            output = generate(**inputs)
        except Exception as error:
            raise _Failure from error
        in_hand.answered(len(inputs["input_ids"]) if "input_ids" in inputs else None)
        return output

    def on_error_message(message: Any) -> None:
        raise _Failure(message.record["message"]) from sys.exc_info()[1]

    sink = logger.add(on_error_message, level="ERROR", filter="lmms_eval.models", catch=False)
    try:
        with intercept_generate(backend.model, answer), in_hand.noted():
            yield in_hand
    except DataError:  # of a task, which it names
        raise
    except PlamError as error:
        raise type(error)(f"{in_hand}{error}") from error
    except (_Failure, Exception) as failure:
        cause = failure.__cause__ if isinstance(failure, _Failure) else failure
        detail = f"{type(cause).__name__}: {cause}" if cause is not None else str(failure)
        raise GenerationError(
            f"{in_hand}the backend failed while answering, so the run has no result: {detail}"
        ) from cause
    finally:
        logger.remove(sink)
