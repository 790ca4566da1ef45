"""The length of answers: where tokens weren't counted, in words and marks; and which are as long as a limit allows."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

_PIECE = re.compile(r"[^\s\w]?[^\W\d_]+|\d|_|\s?[^\s\w]+|\s(?=\d)")
_ENDS = re.compile(r"[.!?。！？][\"'”’)\]*]*\s*$")
_SHORT = 10
_PILE = 3
_LEAST = 3


def count_pieces(answer: str) -> int:
    """Return how many words, digits and marks an answer has: about the least number of tokens that it takes.

    The usual tokenizers split text into such pieces first, and then long pieces into several tokens.
    """
    return len(_PIECE.findall(answer))


def most_tokens(answer: str) -> int:
    """Return about the greatest number of tokens of an answer: one for three characters, or for one beyond ASCII."""
    return sum(-(-len(piece) // 3) if piece.isascii() else len(piece) for piece in _PIECE.findall(answer))


def ends_sentence(answer: str) -> bool:
    """Whether an answer ends as a sentence does."""
    return bool(_ENDS.search(answer))


def wall(lengths: Collection[int]) -> int | None:
    """Return the length from which on answers look as if a limit had stopped them; None where none does.

    A limit shows as several answers of about the greatest length, within a fifth of it where that is long enough for
    tokens and pieces to differ.

    Args:
        lengths: of the answers that don't end as a sentence does.
    """
    longest = max(lengths, default=0)
    if longest < _LEAST:
        return None
    least = longest if longest < _SHORT else int(np.ceil(0.8 * longest))
    return least if sum(length >= least for length in lengths) >= _PILE else None
