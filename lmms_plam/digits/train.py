"""Train the pair: `python -m lmms_plam.digits.train --seed 0 --output runs/digits_0`.

Three stages, all seeded and counted in steps: the base LM on text; the vision tower on single digits, pulled to the
base LM's own embedding of the digit; the whole VLM, its decoder taken from the base LM, on pictures. A model that the
output folder already holds is not trained again.

In half of the last stage's steps the picture is hidden from a randomly chosen decoder layer on (from layers 6 to 11 of
12), which teaches the model to have read the picture by then: **a plateau of the masking curve from layer 6 on is
trained in**, not found.

One thread is enough: on an idle core with bfloat16 instructions a step takes about half a second, a seed half an hour.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM

from lmms_plam.digits.architecture import build_base_lm, build_tokenizer, grow_vlm
from lmms_plam.digits.benchmark import GRIDS, quiz
from lmms_plam.digits.grids import CELL_PIXELS, CELLS, Digits, Grid, Split, members, sample_grid
from lmms_plam.digits.packing import GridPacker, arrange
from lmms_plam.digits.questions import KINDS, Question, ask
from lmms_plam.embedded.forward import answer_logits, cut_patches, encode_digits
from lmms_plam.embedded.handwriting import draw_digit, handwriting
from lmms_plam.embedded.optimizer import MuonAdamW
from lmms_plam.embedded.packing import IGNORED
from lmms_plam.embedded.training import answer_loss, fit, label_loss, matrices, save, timed
from lmms_plam.embedded.variants import Handwriting
from lmms_plam.embedded.words import build_processor

GRIDS_A_STEP = 32
DIGITS_A_STEP = 128
TRAINED_KINDS = (*KINDS, "count", "exists")
"""Questions about each training grid: the kinds that compare the asked digit with the whole grid are learnt last."""
HIDDEN_SHARE = 0.5
"""Share of the steps on pictures in which the upper layers don't see the picture."""
FIRST_HIDDEN_LAYERS = range(6, 12)

_QUIZZES: tuple[Split, ...] = ("benchmark", "held_out")


def train_base_lm(steps: int, seed: int, packer: GridPacker) -> Qwen2ForCausalLM:
    """Train the base LM on grids written out. Grids of the benchmark are left out."""
    rng = random.Random(f"{seed} base LM")
    torch.manual_seed(seed)
    model = build_base_lm(packer.tokenizer).bfloat16()
    model.set_attn_implementation("eager")  # several times faster than sdpa's backward pass in bfloat16 on a CPU
    optimizer = MuonAdamW(model.parameters(), matrices(model.model.layers), muon_rate=0.02, adam_rate=0.003)

    def loss() -> Tensor:
        grids, questions = sample_batch(rng)
        ids, targets = packer.pack(grids, questions)
        return answer_loss(answer_logits(model, packer.layout, ids), targets)

    fit("base LM on text", steps, optimizer, loss)
    return model


def align_tower(
    vlm: Qwen2_5_VLForConditionalGeneration, steps: int, seed: int, digits: Handwriting, words: Sequence[int]
) -> None:
    """Teach the vision tower to turn each digit into four tokens near the base LM's embedding of the digit's word.

    Args:
        vlm: with an untrained tower.
        steps: optimizer steps.
        seed: of the order of the digits.
        digits: training images.
        words: token ids of the words 0 to 9.
    """
    rng = random.Random(f"{seed} tower")
    tower = vlm.model.visual
    optimizer = MuonAdamW(tower.parameters(), matrices(tower), muon_rate=0.02, adam_rate=0.003)
    labels = torch.from_numpy(handwriting()[1])
    embeddings = vlm.get_input_embeddings().weight.detach()[list(words)].float()

    def loss() -> Tensor:
        batch = rng.choices(digits.images, k=DIGITS_A_STEP)
        return label_loss(encode_digits(vlm, digits.draw(batch, rng)), labels[batch], embeddings)

    fit("vision tower on single digits", steps, optimizer, loss)


def train_vlm(
    vlm: Qwen2_5_VLForConditionalGeneration, steps: int, seed: int, digits: Handwriting, packer: GridPacker
) -> None:
    """Train the whole VLM on pictures, hiding them from the upper layers in a share of the steps."""
    rng = random.Random(f"{seed} VLM")
    vlm.set_attn_implementation("eager")
    treated = matrices(vlm.model.language_model.layers) + matrices(vlm.model.visual)
    optimizer = MuonAdamW(vlm.parameters(), treated, muon_rate=0.01, adam_rate=0.001)

    def loss() -> Tensor:
        grids, questions = sample_batch(rng)
        ids, targets = packer.pack(grids, questions)
        patches = digits.draw([image for grid in grids for image in grid.images], rng)
        visible = rng.choice(FIRST_HIDDEN_LAYERS) if rng.random() < HIDDEN_SHARE else None
        vision = arrange(encode_digits(vlm, patches))
        return answer_loss(answer_logits(vlm, packer.layout, ids, vision, visible), targets)

    fit("VLM on pictures", steps, optimizer, loss)


def sample_batch(rng: random.Random) -> tuple[list[Grid], list[list[Question]]]:
    """Draw training grids and questions about each; no grid of digits that a quiz asks about."""
    grids: list[Grid] = []
    while len(grids) < GRIDS_A_STEP:
        grid = sample_grid("train", rng)
        if grid.digits not in _asked_digits():
            grids.append(grid)
    return grids, [[ask(kind, grid.digits, rng) for kind in TRAINED_KINDS] for grid in grids]


@cache
def _asked_digits() -> frozenset[Digits]:
    return frozenset(grid.digits for split in ("benchmark", "held_out") for grid, _ in quiz(split))


@torch.no_grad()
def accuracy(
    model: Qwen2ForCausalLM | Qwen2_5_VLForConditionalGeneration,
    packer: GridPacker,
    split: Split,
    visible_layers: int | None = None,
) -> dict[str, float]:
    """Return the share of a quiz answered in full, to the end-of-answer token, overall and for each kind.

    Teacher-forced: every token of the answer is the most likely one after the right ones before it, which is when
    greedy decoding gives that answer.
    """
    right = []
    for start in range(0, GRIDS, GRIDS_A_STEP):
        grids, questions = zip(*quiz(split)[start : start + GRIDS_A_STEP], strict=True)
        ids, targets = packer.pack(grids, questions)
        vision = None
        if packer.pictures:
            drawn = [np.asarray(draw_digit(image, CELL_PIXELS)) for grid in grids for image in grid.images]
            vision = arrange(encode_digits(model, cut_patches(np.stack(drawn))))
        guesses = answer_logits(model, packer.layout, ids, vision, visible_layers).argmax(-1)
        right.append((guesses == targets) | (targets == IGNORED))
    hits = torch.cat(right)
    by_kind = {kind: hits[:, packer.layout.questions == i].all(1).float().mean() for i, kind in enumerate(KINDS)}
    scores = {"accuracy": torch.stack(list(by_kind.values())).mean(), **by_kind}
    return {name: round(float(score), 4) for name, score in scores.items()}


def main() -> None:
    """Train one seed's pair, save both models and add their figures to a report."""
    parser = argparse.ArgumentParser(description="Train the pair of models `digits`.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder for base_lm and vlm")
    parser.add_argument("--report", type=Path, required=True, help="JSON file that gets this seed's figures")
    parser.add_argument("--base-steps", type=int, default=1600)
    parser.add_argument("--tower-steps", type=int, default=1000)
    parser.add_argument("--vlm-steps", type=int, default=1200)
    args = parser.parse_args()
    tokenizer = build_tokenizer()
    text, pictures = GridPacker(tokenizer, pictures=False), GridPacker(tokenizer, pictures=True)
    training_text = GridPacker(tokenizer, pictures=False, kinds=TRAINED_KINDS)
    training_pictures = GridPacker(tokenizer, pictures=True, kinds=TRAINED_KINDS)
    minutes: dict[str, float] = {}

    with timed(minutes, "base_lm"):
        if (args.output / "base_lm").exists():
            base_lm = Qwen2ForCausalLM.from_pretrained(args.output / "base_lm", dtype=torch.bfloat16)
        else:
            base_lm = train_base_lm(args.base_steps, args.seed, training_text)
            save(base_lm, tokenizer, args.output / "base_lm")
    torch.manual_seed(args.seed)
    vlm = grow_vlm(base_lm, tokenizer).bfloat16()
    digits = Handwriting(members("train").tolist(), CELL_PIXELS, random.Random(args.seed))
    words = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    with timed(minutes, "tower"):
        align_tower(vlm, args.tower_steps, args.seed, digits, words)
    with timed(minutes, "vlm"):
        train_vlm(vlm, args.vlm_steps, args.seed, digits, training_pictures)
    save(vlm, build_processor(tokenizer, len(CELLS) * CELL_PIXELS**2), args.output / "vlm")

    layers = vlm.config.text_config.num_hidden_layers
    figures = {
        "minutes": minutes,
        "steps": {"base_lm": args.base_steps, "tower": args.tower_steps, "vlm": args.vlm_steps},
        "base_lm_on_text": {split: accuracy(base_lm, text, split) for split in _QUIZZES},
        "vlm_on_text": {split: accuracy(vlm, text, split) for split in _QUIZZES},
        "vlm_on_pictures": {split: accuracy(vlm, pictures, split) for split in _QUIZZES},
        "vlm_on_pictures_visible_in_first_k_layers": [
            accuracy(vlm, pictures, "benchmark", visible)["accuracy"] for visible in range(layers + 1)
        ],
    }
    report = json.loads(args.report.read_text()) if args.report.exists() else {}
    report[f"seed {args.seed}"] = figures
    args.report.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
