"""Train the pair: `python -m lmms_plam.babyllava.train --seed 0 --order mixed --output runs/babyllava`.

First, once for all seeds, the encoder (encoder.py), which is frozen from then on. Then the text-only model on text, and
the multimodal model, from the same initial weights, on text behind a black picture and on captions behind theirs
(corpus.py). All is seeded and counted in steps. Eight checkpoints of each model are kept along the way:

    runs/babyllava/encoder
    runs/babyllava/seed_0/mixed/text/step_112 ...
    runs/babyllava/seed_0/mixed/multimodal/step_112 ...

A run that was stopped goes on from its last checkpoint, and what is finished is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lmms_plam.babyllava.answering import score_captions, score_pairs
from lmms_plam.babyllava.architecture import END, START, build_lm, build_processor, build_tokenizer, build_vlm
from lmms_plam.babyllava.corpus import (
    CAPTIONS,
    DEVELOPMENT_CAPTIONS,
    DEVELOPMENT_PAIRS,
    ORDERS,
    PAIRS,
    Corpus,
    Order,
    batches,
    draw_corpus,
)
from lmms_plam.babyllava.encoder import features, train_encoder
from lmms_plam.babyllava.forward import logits_of
from lmms_plam.babyllava.grammar import Split
from lmms_plam.babyllava.paradigms import draw_pairs
from lmms_plam.babyllava.pictures import black, draw_captions, picture, picture_of_row
from lmms_plam.babyllava.tower import POOLINGS
from lmms_plam.embedded.optimizer import MuonAdamW
from lmms_plam.embedded.training import fit, matrices, save, timed

Kind = Literal["text", "multimodal"]

ROWS_A_STEP = 128
CHECKPOINTS = 8
PASSES = 6
"""How often a sentence or caption is read."""
WORDS = 36_000
"""Words of each half of a corpus."""
ENCODER_STEPS = 800

SPLITS: tuple[Split, ...] = ("development", "benchmark")
"""What is measured in the end; choices look at the first alone."""

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained.

    Attributes:
        seed: of the initial weights and the shuffling.
        order: how the halves of a corpus follow each other.
        pooling: how many tokens a picture becomes.
        words: of each half of a corpus.
        passes: how often each half is read.
        encoder_steps: of the encoder's training.
    """

    seed: int
    order: Order
    pooling: str = "mean"
    words: int = WORDS
    passes: int = PASSES
    encoder_steps: int = ENCODER_STEPS


class Trainer:
    """Trains a seed's pair in one order.

    Args:
        plan: what is trained.
        folder: of all seeds.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.corpus: Corpus = draw_corpus(plan.words)
        captions = [scene.caption for scene in self.corpus.scenes]
        self.tokenizer = build_tokenizer([*self.corpus.text, *self.corpus.more_text, *captions])
        self.folder = folder / f"seed_{plan.seed}" / plan.order
        if plan.pooling != "mean":
            self.folder = self.folder.with_name(f"{plan.order}_{plan.pooling}")
        self.encoder = self._encoder(folder / "encoder")
        self.minutes: dict[str, float] = {}

    def _encoder(self, folder: Path) -> Any:
        from transformers import Dinov2Model

        if not folder.exists():
            part = folder.with_suffix(".part")
            train_encoder(self.plan.encoder_steps).save_pretrained(part)
            os.replace(part, folder)
        return Dinov2Model.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()

    def build(self, kind: Kind) -> Any:
        """Return an untrained model, in bfloat16; the decoders of a seed's two start from the same weights."""
        torch.manual_seed(self.plan.seed)
        lm = build_lm(self.tokenizer)
        model = lm if kind == "text" else build_vlm(lm, self.tokenizer, self.encoder, self.plan.pooling)
        model = model.bfloat16()
        model.set_attn_implementation("eager")  # several times faster than sdpa's backward pass in bfloat16 on a CPU
        return model

    def train(self, kind: Kind) -> Any:
        """Train one of the two, or go on with it, or load it where it is finished."""
        model, place = self.build(kind), self.folder / kind
        rows, shown = self._rows(kind)
        half = range(len(self.corpus.text))
        other = range(len(half), len(rows))
        plan = self.plan
        todo = batches(list(map(len, rows)), (half, other), plan.order, plan.passes, ROWS_A_STEP, plan.seed)
        weights = [parameter for name, parameter in model.named_parameters() if "vision_tower" not in name]
        decoder = model.model if kind == "text" else model.model.language_model
        treated = matrices(decoder.layers)
        if kind == "multimodal":
            treated += matrices(model.model.multi_modal_projector)
        optimizer = MuonAdamW(weights, treated, muon_rate=0.02, adam_rate=0.004)
        done = _go_on(place / "state.pt", optimizer)
        last = place / f"step_{len(todo)}"
        if last.exists():
            return type(model).from_pretrained(last, dtype=torch.bfloat16, attn_implementation="eager")
        kept = {round(len(todo) * (number + 1) / CHECKPOINTS) for number in range(CHECKPOINTS)}
        taken = iter(todo[done:])

        def loss() -> Tensor:
            chosen = next(taken)
            ids, targets = self._padded([rows[row] for row in chosen], model)
            seen = None if shown is None else shown[1][shown[0][chosen]]
            logits = logits_of(model, ids, seen)
            return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)

        def after_step(step: int) -> None:
            if step in kept:
                _keep(model, self._words(model, kind), place, step, optimizer)

        with timed(self.minutes, kind):
            fit(f"{kind}, seed {plan.seed}, {plan.order}", len(todo), optimizer, loss, done=done, after_step=after_step)
        (place / "state.pt").unlink()
        return model

    def _words(self, model: Any, kind: Kind) -> Any:
        return self.tokenizer if kind == "text" else build_processor(self.tokenizer, model)

    def _rows(self, kind: Kind) -> tuple[list[list[int]], tuple[Tensor, Tensor] | None]:
        """Return token rows, and for the multimodal model each row's picture among the features."""
        captions = [scene.caption for scene in self.corpus.scenes]
        texts = [*self.corpus.text, *(self.corpus.more_text if kind == "text" else captions)]
        start, end = self.tokenizer.convert_tokens_to_ids([START, END])
        rows = [[start, *self.tokenizer.encode(text), end] for text in texts]
        if kind == "text":
            return rows, None
        pictures = [black(), *(picture(scene.shapes) for scene in self.corpus.scenes)]
        places = [0] * len(self.corpus.text) + list(range(1, len(pictures)))
        return rows, (torch.tensor(places), features(self.encoder, pictures, self.plan.pooling))

    def _padded(self, rows: Sequence[Sequence[int]], model: Any) -> tuple[Tensor, Tensor]:
        """Return inputs, [rows, length], and what follows each token."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        targets = torch.tensor([[*row[1:], *[_IGNORED] * (width - len(row))] for row in rows])
        return ids[:, :-1], targets


def _keep(model: Any, words: Any, place: Path, step: int, optimizer: MuonAdamW) -> None:
    """Write a checkpoint, and what training goes on from; a folder that is there is whole."""
    part = place / f"step_{step}.part"
    shutil.rmtree(part, ignore_errors=True)
    save(model, words, part)
    os.replace(part, place / f"step_{step}")
    state = place / "state.pt.part"
    torch.save({"step": step, **optimizer.state()}, state)
    os.replace(state, place / "state.pt")


def _go_on(state: Path, optimizer: MuonAdamW) -> int:
    """Take up what was done before and return how many steps that was."""
    if not state.exists():
        return 0
    found = torch.load(state)
    optimizer.restore(found)
    return int(found["step"])


@torch.no_grad()
def figures_of(trainer: Trainer, text: Any, multimodal: Any, split: Split) -> dict[str, dict[str, float]]:
    """Return how both models do on a split's pairs, and the multimodal one on its captions."""
    tokenizer, pooling = trainer.tokenizer, trainer.plan.pooling
    pairs = draw_pairs(split, PAIRS if split == "benchmark" else DEVELOPMENT_PAIRS)
    captions = draw_captions(split, CAPTIONS if split == "benchmark" else DEVELOPMENT_CAPTIONS)
    dark = features(trainer.encoder, [black()], pooling)
    shown = features(trainer.encoder, [picture_of_row(row) for row in captions], pooling)
    return {
        "text_on_pairs": score_pairs(text, tokenizer, pairs),
        "multimodal_on_pairs": score_pairs(multimodal, tokenizer, pairs),
        "multimodal_on_pairs_after_black": score_pairs(multimodal, tokenizer, pairs, dark),
        "multimodal_on_captions": score_captions(multimodal, tokenizer, captions, shown),
    }


def main() -> None:
    """Train one seed's pair in one order and add its figures to a report."""
    parser = argparse.ArgumentParser(description="Train the pair of models `babyllava`.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0])
    parser.add_argument("--pooling", choices=POOLINGS, default="mean", help="how many tokens a picture becomes")
    parser.add_argument("--words", type=int, default=WORDS, help="words of each half of a corpus")
    parser.add_argument("--passes", type=int, default=PASSES, help="how often each half is read")
    parser.add_argument("--encoder-steps", type=int, default=ENCODER_STEPS)
    parser.add_argument("--output", type=Path, required=True, help="folder for the encoder and all checkpoints")
    parser.add_argument("--report", type=Path, help="JSON file that gets the figures; left out, in the output folder")
    args = parser.parse_args()
    plan = Plan(args.seed, args.order, args.pooling, args.words, args.passes, args.encoder_steps)
    trainer = Trainer(plan, args.output)
    text, multimodal = trainer.train("text"), trainer.train("multimodal")
    path = args.report or args.output / "training.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    name = plan.order if plan.pooling == "mean" else f"{plan.order}, pooling {plan.pooling}"
    orders = report.setdefault(f"seed {plan.seed}", {})
    earlier = orders.get(name, {}).get("minutes", {})  # of what was finished before
    figures: dict[str, Any] = {"minutes": {**earlier, **trainer.minutes}}
    for split in SPLITS:
        figures[split] = figures_of(trainer, text, multimodal, split)
    orders[name] = figures
    path.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
