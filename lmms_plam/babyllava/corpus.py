"""What the pair is trained on, in the proportions of BabyLM's corpora, and in what order.

The language model reads two halves of text. The multimodal model reads the first of them, every sentence after a black
picture, and instead of the other as many words of captions after their pictures: BabyLM's multimodal corpus is half
text, a part of the text corpus, and half captions (Choshen et al. 2024, arXiv 2404.06214).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from lmms_plam.babyllava.grammar import Grammar
from lmms_plam.babyllava.paradigms import draw_pairs
from lmms_plam.babyllava.pictures import Scene, draw_scene

Order = Literal["mixed", "text_first"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""What the paper leaves open: both halves shuffled together, or all passes over the first before the other."""

PAIRS, CAPTIONS = 100, 50
"""The benchmark's pairs of a paradigm, and items of a kind of caption."""
DEVELOPMENT_PAIRS, DEVELOPMENT_CAPTIONS = 50, 30

Drawn = TypeVar("Drawn")

_SEED = 2510_01845


@dataclass(frozen=True, slots=True)
class Corpus:
    """The training data; the same for every seed.

    Attributes:
        text: sentences that both models read.
        more_text: sentences of the language model alone.
        scenes: pictures with captions of the multimodal model alone.
    """

    text: tuple[str, ...]
    more_text: tuple[str, ...]
    scenes: tuple[Scene, ...]


def draw_corpus(words: int) -> Corpus:
    """Draw a corpus.

    Args:
        words: of each half.
    """
    asked = set(_asked())
    grammar = Grammar(random.Random(f"{_SEED} text"))

    def sentence() -> str:
        while (drawn := grammar.sentence()) in asked:
            continue
        return drawn

    text, more = (tuple(_up_to(words, sentence, str)) for _ in range(2))
    rng = random.Random(f"{_SEED} scenes")
    scenes = _up_to(words, lambda: draw_scene(rng, "train"), lambda scene: scene.caption)
    return Corpus(text, more, tuple(scenes))


def _asked() -> Iterator[str]:
    for split, count in (("benchmark", PAIRS), ("development", DEVELOPMENT_PAIRS)):
        for row in draw_pairs(split, count):  # type: ignore[arg-type]
            yield row["sentence_good"]
            yield row["sentence_bad"]


def _up_to(words: int, draw: Callable[[], Drawn], text_of: Callable[[Drawn], str]) -> Iterator[Drawn]:
    while words > 0:
        drawn = draw()
        words -= len(text_of(drawn).split())
        yield drawn


def batches(
    lengths: Sequence[int], halves: Sequence[range], order: Order, passes: int, size: int, seed: int
) -> list[list[int]]:
    """Return the training batches: places of rows of about one length.

    Args:
        lengths: of the rows.
        halves: which rows are of the first half, and which of the other.
        order: how the halves follow each other.
        passes: how often each row is read.
        size: rows of a batch.
        seed: of the shuffling.
    """
    rng = random.Random(f"{seed} {order}")
    parts = [[*halves[0], *halves[1]]] if order == "mixed" else [list(half) for half in halves]
    return [batch for part in parts for _ in range(passes) for batch in _shuffled(part, lengths, size, rng)]


def _shuffled(rows: Sequence[int], lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Shuffle rows, and gather those of like length in pools of sixteen batches."""
    shuffled = rng.sample(rows, len(rows))
    found = []
    for first in range(0, len(shuffled), 16 * size):
        pool = sorted(shuffled[first : first + 16 * size], key=lambda row: lengths[row])
        found += [pool[start : start + size] for start in range(0, len(pool), size)]
    return rng.sample(found, len(found))
