"""Which rows of two models' embeddings stand for the same token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby, product

from transformers import AutoTokenizer

from lmms_plam.errors import CheckpointError, MergeError
from lmms_plam.merge.model_files import ModelFiles

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")

Rows = tuple[tuple[int, int], ...]
"""Ranges of rows: the first, and the one after the last."""


def read_vocabulary(place: ModelFiles) -> dict[str, int]:
    """Return the row of each token of a model's tokenizer, added and special ones included.

    Raises:
        CheckpointError: the model has no tokenizer that transformers can read.
    """
    try:
        if not any(path for pattern in _VOCABULARIES for path in place.folder.glob(pattern)):
            raise FileNotFoundError(f"none of {', '.join(_VOCABULARIES)}")  # transformers would make up an empty one
        return dict(AutoTokenizer.from_pretrained(place.folder).get_vocab())
    except Exception as error:  # whatever a tokenizer's files make transformers or tokenizers raise
        raise CheckpointError(
            f"'{place.reference}' has no tokenizer that can be read, so that nobody can tell which rows of the "
            f"embeddings are of the same tokens: leave embeddings out ({' '.join(str(error).split())[:200]})"
        ) from error


def shared_rows(vlm: Mapping[str, int], lm: Mapping[str, int], rows: int, reference: str) -> Rows:
    """Return the rows below `rows` that stand for the same token on both sides, or for none on either.

    A token that only one side has, such as an image placeholder, keeps the VLM's row.

    Args:
        vlm: the VLM's row of each token.
        lm: the base LM's.
        rows: how many rows both sides have.
        reference: what the base LM is called.

    Raises:
        MergeError: a token of both that they number otherwise.
    """
    for token, row in vlm.items():
        if lm.get(token, row) != row:
            raise MergeError(
                f"the tokenizer of '{reference}' numbers tokens otherwise than the VLM's ({token!r} is {lm[token]} "
                f"there and {row} in the VLM): their embeddings can't be merged; leave them out of modules"
            )
    ours, theirs = _by_row(vlm), _by_row(lm)
    agreed = groupby(range(rows), key=lambda row: ours.get(row) == theirs.get(row))
    runs = [list(run) for agrees, run in agreed if agrees]
    return tuple((run[0], run[-1] + 1) for run in runs)


def common_rows(one: Rows, other: Rows) -> Rows:
    """Return the rows that lie in ranges of both, each in ascending order."""
    pairs = product(one, other)
    return tuple((max(a[0], b[0]), min(a[1], b[1])) for a, b in pairs if a[0] < b[1] and b[0] < a[1])


def _by_row(vocabulary: Mapping[str, int]) -> dict[int, set[str]]:
    tokens: dict[int, set[str]] = defaultdict(set)
    for token, row in vocabulary.items():
        tokens[row].add(token)
    return dict(tokens)
