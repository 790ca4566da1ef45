"""Which tokens of a text are its completion's, where a token may reach over the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmms_plam.errors import DataError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Passage:
    """A text's tokens, of which those from `start` on are scored."""

    tokens: tuple[int, ...]
    start: int

    @property
    def scored(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.tokens[self.start :]


def first_scored(offsets: Sequence[tuple[int, int]], border: int) -> int:
    """Return the first token that ends beyond the border, so that one which reaches over it counts whole.

    As the BabyLM evaluation cuts. (Tokens after it that end before the border don't occur: offsets ascend.)

    Args:
        offsets: by token, first character and the one after the last.
        border: the completion's first character.
    """
    return next((place for place, (_, end) in enumerate(offsets) if end > border), len(offsets))


def cut(tokenizer: Any, context: str, completion: str) -> Passage:
    """Tokenise context and completion as one text, without special tokens, and cut it.

    Args:
        tokenizer: a fast tokenizer of transformers.
        context: what stands before, and is not scored; may be empty.
        completion: what is scored.

    Raises:
        DataError: a completion without tokens.
        UnsupportedError: a tokenizer that can't tell where its tokens lie.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedError(
            f"{type(tokenizer).__name__} doesn't say where its tokens lie in the text, so completions can't be cut: "
            "the checkpoint needs a fast tokenizer (tokenizer.json)"
        )
    encoded = tokenizer(context + completion, add_special_tokens=False, return_offsets_mapping=True)
    start = first_scored(encoded["offset_mapping"], len(context))
    passage = Passage(tuple(encoded["input_ids"]), start)
    if not passage.scored or not completion:
        raise DataError(f"the continuation {completion!r} has no tokens to score")
    return passage
