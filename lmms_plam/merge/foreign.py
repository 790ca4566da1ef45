"""JSON that others wrote, read through pydantic: what isn't as it should be is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lmms_plam.errors import CheckpointError

T = TypeVar("T")


def read_json(path: Path, shape: TypeAdapter[T]) -> T:
    """Read a JSON file of a checkpoint.

    Raises:
        CheckpointError: it can't be read, or holds something else; the text says which file and where in it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    return parse_json(content, shape, str(path))


def parse_json(content: bytes, shape: TypeAdapter[T], what: str) -> T:
    """Parse JSON as `read_json` does; `what` is how an error calls it."""
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{what} is damaged ({complaint(error)}); fetch it again") from error


def complaint(error: ValidationError) -> str:
    """Return where something isn't as it should be, and why, of the first such place."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:200]
    return f"{place}: {first['msg']}" if place else str(first["msg"])
