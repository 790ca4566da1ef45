"""What scoring given texts costs beside one text at a time, and three variants beside one.

    OMP_NUM_THREADS=2 python benchmarks/likelihood.py [--pairs 300] [--stories 60] [--captions 40] [--rounds 3]

On the embedded digits pair in float32. Pairs are two texts of 7 to 17 tokens, the first 3 to 9 alike, all scored, as
BLiMP's are; stories are a context of 80 to 160 tokens with five short options, as in Entity Tracking; captions are two
texts of 8 to 14 tokens after a picture. Texts one at a time are a plain forward pass each; captions one at a time are
lmms-eval requests, each with a prompt of its own. The two other variants are weights from two thirds of the depth on,
the place where the digits recipe begins. Times are the best of `--rounds`, in turns.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from loguru import logger

from lmms_plam.digits.benchmark import quiz, show_picture
from lmms_plam.harness.model import Plam
from lmms_plam.harness.prompts import RANKING
from lmms_plam.harness.ranking import SHOWS, Ranking
from lmms_plam.language.border import Passage
from lmms_plam.model import WeightSet, find_decoder, score_texts

START = 1


def documents(
    count: int, candidates: int, alike: tuple[int, int], own: tuple[int, int], known: int, scored: bool
) -> list[list[Passage]]:
    """Return documents of random tokens, given from how many to how many tokens are alike and a candidate's own.

    Args:
        count: of documents.
        candidates: of each.
        alike: tokens that candidates begin with.
        own: tokens after them.
        known: size of the vocabulary.
        scored: whether what is alike is scored too.
    """
    rng = random.Random(0)

    def words(least: int, most: int) -> list[int]:
        return [rng.randrange(known) for _ in range(rng.randint(least, most))]

    found = []
    for _ in range(count):
        common = words(*alike)
        start = 0 if scored else len(common)
        found.append([Passage((*common, *words(*own)), start) for _ in range(candidates)])
    return found


def one_at_a_time(model: Any, asked: list[list[Passage]]) -> list[float]:
    """Score each text by a forward pass."""
    found = []
    with torch.inference_mode():
        for passage in (passage for passages in asked for passage in passages):
            logits = model(input_ids=torch.tensor([[START, *passage.tokens]])).logits[0, passage.start : -1].float()
            target = torch.tensor(passage.scored)
            found.append(float(logits.log_softmax(-1).gather(1, target[:, None]).sum()))
    return found


def together(model: Any, asked: list[list[Passage]], weights: tuple[WeightSet | None, ...] = (None,)) -> list[float]:
    """Score them as tasks do; return those under the first weights."""
    return [one.log_probability for own in score_texts(model, START, asked, weights)[0] for one in own]


def caption_requests(lm: Plam, count: int, rng: random.Random, ranked: bool) -> list[Instance]:
    """Return lmms-eval's requests for two captions of each picture."""
    grids = [{"images": grid.images} for grid, _ in quiz("benchmark")[:count]]
    lm.task_dict["captions"] = {"test": grids}
    requests = []
    for doc_id in range(count):
        for idx in range(2):
            text = " ".join(rng.choice(("two", "digits", "the", "largest", "is")) for _ in range(rng.randint(8, 14)))
            metadata = {"task": "captions", "doc_id": doc_id, "repeats": 1, "split": "test"}
            if ranked:
                metadata |= {RANKING: Ranking((("", text),), (0,), "what is it ?"), SHOWS: show_picture}
            arguments = ("what is it ?", text, show_picture, doc_id, "captions", "test")
            requests.append(Instance("loglikelihood", arguments, idx=idx, metadata=metadata))
    return requests


def best(rounds: int, **ways: Callable[[], list[float]]) -> dict[str, tuple[float, list[float]]]:
    """Return the best time of each way, in turns, with what it found."""
    found: dict[str, tuple[float, list[float]]] = {name: (float("inf"), []) for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            values = way()
            found[name] = min(found[name][0], time.perf_counter() - start), values
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--stories", type=int, default=60)
    parser.add_argument("--captions", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logger.remove()
    lm = Plam("digits", device="cpu")
    model = lm.model.float()
    decoder = find_decoder(model)
    known = model.get_output_embeddings().weight.shape[0]
    third = 2 * decoder.depth // 3
    sets = [
        WeightSet(
            name,
            {
                layer: {"self_attn.q_proj.weight": factor * decoder.layers[layer].self_attn.q_proj.weight.detach()}
                for layer in range(third, decoder.depth)
            },
        )
        for name, factor in (("half", 0.5), ("twice", 2.0))
    ]
    pairs = documents(arguments.pairs, 2, (3, 9), (4, 8), known, scored=True)
    stories = documents(arguments.stories, 5, (80, 160), (2, 6), known, scored=False)
    print(f"{decoder.depth} layers, {torch.get_num_threads()} threads, best of {arguments.rounds}")
    for name, asked in (("pairs", pairs), ("stories", stories)):
        found = best(
            arguments.rounds,
            alone=lambda asked=asked: one_at_a_time(model, asked),
            shared=lambda asked=asked: together(model, asked),
            three=lambda asked=asked: together(model, asked, (None, *sets)),
        )
        report(name, found["alone"], found["shared"])
        print(f"{name:9} three variants cost {found['three'][0] / found['shared'][0]:.2f} times one")
    seed = 1
    plain, ranked = (caption_requests(lm, arguments.captions, random.Random(seed), way) for way in (False, True))
    found = best(
        arguments.rounds,
        alone=lambda: [value for value, _ in lm.loglikelihood(plain)],
        shared=lambda: [value for value, _ in lm.loglikelihood(ranked)],
    )
    report("captions", found["alone"], found["shared"])


def report(name: str, alone: tuple[float, list[float]], shared: tuple[float, list[float]]) -> None:
    apart = max(abs(one - other) for one, other in zip(alone[1], shared[1], strict=True))
    print(
        f"{name:9} one at a time {alone[0]:6.2f} s, together {shared[0]:6.2f} s: {alone[0] / shared[0]:5.1f} times "
        f"faster, largest difference {apart:.1e}"
    )


if __name__ == "__main__":
    main()
