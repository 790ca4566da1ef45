"""What can go wrong, as exceptions whose text says what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PlamError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""


class ConfigError(PlamError, ValueError):
    """A config file, recipe or command-line override that can't be used."""


class MergeError(PlamError, ValueError):
    """A base LM that doesn't fit the VLM, or tensors that can't be merged."""


class CheckpointError(PlamError, ValueError):
    """A checkpoint that is missing, truncated or incomplete."""


class UnsupportedError(PlamError, NotImplementedError):
    """A model, backend or option that this package can't handle exactly, and so refuses."""


class DataError(PlamError, ValueError):
    """Saved answers, scores or matrices that can't be analysed as asked."""


class GenerationError(PlamError, RuntimeError):
    """A backend failed while answering; carries the original exception as its cause."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence that says what is kept."""


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Say what an error is about, where what raises it can't know."""
    try:
        yield
    except PlamError as error:
        raise type(error)(f"{subject}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong: where, what stands there, and what should."""
    found = error.errors()[0]
    where, value = ".".join(map(str, found["loc"])), repr(found["input"])
    if found["type"] == "value_error":  # a sentence of ours
        return found["msg"].removeprefix("Value error, ")
    return f"'{where}' = {value if len(value) < 60 else value[:60] + '...'}: {found['msg']}"
