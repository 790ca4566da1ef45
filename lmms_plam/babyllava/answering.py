"""How a model does on minimal pairs and on captions, by the fast forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmms_plam.babyllava.forward import logits_of

_ROWS_AT_ONCE = 200

Row = Mapping[str, Any]


@torch.no_grad()
def log_probabilities(model: Any, tokenizer: Any, texts: Sequence[str], seen: Tensor | None = None) -> Tensor:
    """Return log P(text) of each text after a start token, in nats, [texts].

    Args:
        model: the language model or the LLaVA.
        tokenizer: of both.
        texts: raw text.
        seen: pooled features of each text's picture, [texts, tokens, width]; None: no pictures.
    """
    found = []
    for first in range(0, len(texts), _ROWS_AT_ONCE):
        rows = [tokenizer.encode(text) for text in texts[first : first + _ROWS_AT_ONCE]]
        width, pad = max(map(len, rows)), tokenizer.pad_token_id
        ids = torch.tensor([[tokenizer.bos_token_id, *row, *[pad] * (width - len(row))] for row in rows])
        shown = None if seen is None else seen[first : first + _ROWS_AT_ONCE]
        told = logits_of(model, ids[:, :-1], shown).float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        counted = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        found.append((told * counted).sum(1))
    return torch.cat(found)


def score_pairs(model: Any, tokenizer: Any, rows: Sequence[Row], seen: Tensor | None = None) -> dict[str, float]:
    """Return the share of minimal pairs whose right sentence is likelier: their mean over paradigms, and each.

    Args:
        model: the language model or the LLaVA.
        tokenizer: of both.
        rows: BLiMP's form.
        seen: pooled features of one picture that stands before every sentence, [1, tokens, width]; None: none.
    """
    values = [
        log_probabilities(model, tokenizer, [row[name] for row in rows], None if seen is None else _repeat(seen, rows))
        for name in ("sentence_good", "sentence_bad")
    ]
    return _by_part([row["UID"] for row in rows], values[0] > values[1])


def score_captions(model: Any, tokenizer: Any, rows: Sequence[Row], seen: Tensor) -> dict[str, float]:
    """Return the share of pictures whose own caption is likelier: their mean over kinds, and each.

    Args:
        model: the LLaVA.
        tokenizer: its tokenizer.
        rows: BabyLM's form of Winoground.
        seen: pooled features of each row's picture, [rows, tokens, width].
    """
    values = [
        log_probabilities(model, tokenizer, [row[name] for row in rows], seen) for name in ("caption_0", "caption_1")
    ]
    return _by_part([row["collapsed_tag"] for row in rows], values[0] > values[1])


def _repeat(seen: Tensor, rows: Sequence[Row]) -> Tensor:
    return seen.expand(len(rows), -1, -1)


def _by_part(parts: Sequence[str], right: Tensor) -> dict[str, float]:
    gathered: dict[str, list[bool]] = defaultdict(list)
    for part, one in zip(parts, right.tolist(), strict=True):
        gathered[part].append(one)
    means = {part: sum(values) / len(values) for part, values in gathered.items()}
    scores = {"accuracy": sum(means.values()) / len(means), **means}
    return {name: round(score, 4) for name, score in scores.items()}
