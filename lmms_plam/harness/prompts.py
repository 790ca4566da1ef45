"""What an answer depends on besides who gives it, as a digest: texts, pictures, sounds, generation arguments."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import fingerprint_callable

RANKING = "plam_ranking"
"""Key of a request's metadata under which a task puts the texts that it wants ranked."""

_BLOCK = 2**20


def request_digest(request: Instance, document: Any) -> str:
    """Digest all that a backend makes a request's prompt of.

    Args:
        request: its arguments are texts, generation arguments, and functions that build parts from the document.
        document: the row of the dataset that the request asks about.
    """
    ranked = [request.metadata[RANKING]] if RANKING in request.metadata else []
    return prompt_digest([*(_built(part, document) for part in request.args), *ranked])


def prompt_digest(parts: Iterable[Any]) -> str:
    """Digest parts of a prompt, nested at will; a text that names a file counts by the file's contents too.

    What is no text, number, image or array counts by its `repr`; an object that is told by its address is never the
    same again.
    """
    digest = hashlib.sha256()
    for octets in _octets(list(parts)):
        digest.update(octets)
    return digest.hexdigest()[:16]


def _built(part: Any, document: Any) -> Any:
    """Return what a request's argument contributes to the prompt."""
    if isinstance(part, partial):  # asked for later rounds, with the answers of earlier ones: any of the document
        return [fingerprint_callable(part), document]
    return part(document) if callable(part) else part


def _octets(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        value = [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        yield b"%d of" % len(value)
        for part in value:
            yield from _octets(part)
    elif isinstance(value, torch.Tensor):
        yield f"{value.shape} {value.dtype}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif hasattr(value, "tobytes"):  # an image or an array
        palette = value.getpalette() if getattr(value, "mode", "") == "P" else ""
        kind = [getattr(value, name, "") for name in ("size", "mode", "shape", "dtype")]
        yield f"{type(value).__name__} {kind} {palette}".encode()
        yield value.tobytes()
    else:
        text = repr(value)
        yield text.encode()
        if " at 0x" in text:
            yield os.urandom(16)
        elif isinstance(value, str) and os.path.isfile(path := value.removeprefix("file://")):
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    yield block
