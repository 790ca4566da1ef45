"""Standing between a backend and its model: what `generate` gets and returns, and errors that must not be swallowed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loguru import logger
from torch import nn

from lmms_plam.errors import GenerationError

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


@contextmanager
def no_silent_failure(model: nn.Module) -> Iterator[None]:
    """End the run at the first failure of a backend, also of one that logs it and answers with an empty string.

    Two doors are watched: exceptions of `model.generate`, and error messages that lmms-eval's model code logs (they
    stand in the `except` blocks that drop an image or an answer).

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
    try:
        with intercept_generate(model, answer):
            yield
    except _Failure as failure:
        cause = failure.__cause__
        detail = f"{type(cause).__name__}: {cause}" if cause is not None else str(failure)
        raise GenerationError(f"the backend failed while answering, so the run has no result: {detail}") from cause
    finally:
        logger.remove(sink)
