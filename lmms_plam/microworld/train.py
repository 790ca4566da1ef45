"""Train the world: `python -m lmms_plam.microworld.train --seed 0 --output runs/microworld`.

From nothing to a base LM and four VLMs in one go, seeded and counted in steps:

1. `base_lm` learns all kinds of question on grids written out, in cycles, until it knows each; kinds that lag get more
   of the questions.
2. `aligned`: a vision tower is trained in front of the frozen base LM, on single digits, then on answers.
3. From there, each by itself: `narrow` (everything tuned, on three kinds), `upper` (the same kinds, all kept but the
   layers from the fifth on), `broad` (everything tuned, on all kinds).

Nothing is hidden from a model in training. Choices looked at the base LM's text and the stages' accuracy on a split of
images of their own (`choices`), with the two exceptions that the package's docstring names. What the
output folder already holds is not trained again. One thread is enough.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM, Qwen2Tokenizer

from lmms_plam.embedded.forward import answer_logits, encode_digits
from lmms_plam.embedded.handwriting import handwriting
from lmms_plam.embedded.optimizer import MuonAdamW
from lmms_plam.embedded.training import answer_loss, fit, label_loss, matrices, save, timed
from lmms_plam.embedded.variants import Handwriting
from lmms_plam.embedded.words import build_processor
from lmms_plam.microworld.answering import accuracy
from lmms_plam.microworld.architecture import PICTURE_PIXELS, GridPacker, build_base_lm, build_tokenizer, grow_vlm
from lmms_plam.microworld.benchmark import QUIZZES, draw_quiz
from lmms_plam.microworld.grids import CELL_PIXELS, Grid, members, sample_grid
from lmms_plam.microworld.questions import KINDS, NARROW, Question, ask

TEXT_GRIDS, PICTURE_GRIDS = 16, 32
"""Grids a step."""
DIGITS_A_STEP = 128
QUESTIONS_A_GRID = 16
"""Of the base LM: one of each kind, the others of the kinds that lag."""
KEPT_LAYERS = 4
"""Decoder layers that `upper` keeps as they are; a third of the depth, taken from a study with another base LM."""

CYCLES, CYCLE_STEPS = 9, 900
"""At most so many, of so many steps."""
LAGS = 0.05
"""Share of wrong answers above which the base LM doesn't know a kind yet."""
FIRST_RATE, LATER_RATE = 0.02, 0.01
"""Of Muon in the base LM's first cycle and in its others; AdamW's are 0.15 of it."""
LABEL_STEPS, ANSWER_STEPS = 800, 200
TUNED = {"narrow": (300, 0.01), "upper": (300, 0.02), "broad": (300, 0.01)}
"""Steps of each, and Muon's rate; AdamW's is a tenth. At its rate, `upper` forgets half of `via`, as in that study."""

CHOICES = draw_quiz("choices", 200)
"""What the choices of the recipe looked at."""


def train_base_lm(
    tokenizer: Qwen2Tokenizer, cycles: int, steps: int, seed: int, folder: Path
) -> tuple[Qwen2ForCausalLM, list[dict[str, float]]]:
    """Train the base LM on grids written out, in cycles of a falling rate, until no kind of question lags.

    The rate has to fall for look-ups to be learnt. Each cycle deals out its questions by what the base LM still gets
    wrong.

    Args:
        tokenizer: of the pair.
        cycles: at most so many.
        steps: optimizer steps a cycle.
        seed: of weights and questions.
        folder: where each cycle's weights are kept, so that training that was cut off goes on with the next cycle.

    Returns:
        The base LM, and its accuracy on written grids after each cycle.
    """
    torch.manual_seed(seed)
    model = half_precision(build_base_lm(tokenizer))
    history: list[dict[str, float]] = []
    everything = GridPacker(tokenizer, pictures=False, kinds=tuple(KINDS))
    for cycle in range(cycles):
        kept = folder / f"cycle_{cycle}.pt"
        if kept.exists():
            weights, scores = torch.load(kept)
            model.load_state_dict(weights)
        else:
            kinds = deal({kind: 1 - history[-1][kind] for kind in KINDS}, QUESTIONS_A_GRID) if history else tuple(KINDS)
            packer = GridPacker(tokenizer, pictures=False, kinds=kinds)
            rng = random.Random(f"{seed} base LM {cycle}")
            rate = LATER_RATE if cycle else FIRST_RATE
            optimizer = MuonAdamW(
                model.parameters(), matrices(model.model.layers), muon_rate=rate, adam_rate=0.15 * rate
            )
            fit(f"base LM, cycle {cycle + 1} of {cycles}", steps, optimizer, TextLoss(model, packer, rng))
            scores = accuracy(model, everything, CHOICES)
            torch.save((model.state_dict(), scores), kept)
        print(f"base LM on text: {json.dumps(scores)}", flush=True)
        history.append(scores)
        if all(scores[kind] >= 1 - LAGS for kind in KINDS):
            break
    return model, history


def deal(wrong: Mapping[str, float], questions: int) -> tuple[str, ...]:
    """Deal out a grid's questions: one of each kind, the rest by the share that is still answered wrong.

    One by one to the kind with the most wrong answers for its questions so far. A kind gets at most three, or all that
    is left where it alone lags.
    """
    lagging = [kind for kind, share in wrong.items() if share > LAGS]
    most = 3 if len(lagging) > 1 else questions
    dealt = dict.fromkeys(wrong, 1)
    for _ in range(questions - len(wrong)):
        open_kinds = [kind for kind in wrong if dealt[kind] < most]
        neediest = max(open_kinds, key=lambda kind: wrong[kind] / dealt[kind])
        dealt[neediest] += 1
    return tuple(kind for kind, times in dealt.items() for _ in range(times))


class TextLoss:
    """The loss of one batch of questions about written grids."""

    def __init__(self, model: Qwen2ForCausalLM, packer: GridPacker, rng: random.Random) -> None:
        self.model, self.packer, self.rng = model, packer, rng

    def __call__(self) -> Tensor:
        """Draw a batch and return its loss."""
        ids, targets = self.packer.pack(*sample_batch(self.packer.kinds, TEXT_GRIDS, self.rng))
        return answer_loss(answer_logits(self.model, self.packer.layout, ids), targets)


class PictureLoss:
    """The loss of one batch of questions about pictures."""

    def __init__(
        self,
        vlm: Qwen2_5_VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        kinds: Sequence[str],
        digits: Handwriting,
        rng: random.Random,
    ) -> None:
        self.vlm, self.digits, self.rng = vlm, digits, rng
        self.packer = GridPacker(tokenizer, pictures=True, kinds=kinds)

    def __call__(self) -> Tensor:
        """Draw a batch and return its loss."""
        grids, questions = sample_batch(self.packer.kinds, PICTURE_GRIDS, self.rng)
        ids, targets = self.packer.pack(grids, questions)
        patches = self.digits.draw([image for grid in grids for image in grid.images], self.rng)
        vision = encode_digits(self.vlm, patches).view(len(grids), self.packer.image_columns, -1)
        return answer_loss(answer_logits(self.vlm, self.packer.layout, ids, vision), targets)


def align(vlm: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, seed: int, digits: Handwriting) -> None:
    """Train the vision tower alone: first to give each digit the base LM's embedding of its word, then on answers."""
    rng = random.Random(f"{seed} tower")
    tower = vlm.model.visual
    labels = torch.from_numpy(handwriting()[1])
    words = vlm.get_input_embeddings().weight.detach()[tokenizer.convert_tokens_to_ids(list("0123456789"))].float()

    def loss() -> Tensor:
        batch = rng.choices(digits.images, k=DIGITS_A_STEP)
        return label_loss(encode_digits(vlm, digits.draw(batch, rng)), labels[batch], words)

    tuned = list(tower.parameters())
    freeze_all_but(vlm, tuned)
    optimizer = MuonAdamW(tuned, matrices(tower), muon_rate=0.02, adam_rate=0.003)
    fit("tower on single digits", LABEL_STEPS, optimizer, loss)
    optimizer = MuonAdamW(tuned, matrices(tower), muon_rate=0.002, adam_rate=0.0003)
    fit("tower on answers", ANSWER_STEPS, optimizer, PictureLoss(vlm, tokenizer, tuple(KINDS), digits, rng))


def tune(
    name: str, aligned: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, seed: int, digits: Handwriting
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a copy of the aligned VLM, tuned on pictures as its name says."""
    vlm = copy.deepcopy(aligned)
    layers, tower = vlm.model.language_model.layers, vlm.model.visual
    kinds = tuple(KINDS) if name == "broad" else NARROW * 2
    if name == "upper":
        upper = layers[KEPT_LAYERS:]
        tuned, treated = list(upper.parameters()), matrices(upper)
    else:
        tuned, treated = list(vlm.parameters()), matrices(layers) + matrices(tower)
    freeze_all_but(vlm, tuned)
    steps, rate = TUNED[name]
    optimizer = MuonAdamW(tuned, treated, muon_rate=rate, adam_rate=rate / 10)
    loss = PictureLoss(vlm, tokenizer, kinds, digits, random.Random(f"{seed} {name}"))
    fit(name, steps, optimizer, loss)
    return vlm


def freeze_all_but(model: torch.nn.Module, tuned: Sequence[Parameter]) -> None:
    """Let gradients reach these weights alone."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter in tuned:
        parameter.requires_grad_(True)


def half_precision(model: Any) -> Any:
    """Return the model in bfloat16 with its rotary frequencies left in float32, as `from_pretrained` leaves them.

    Its attention is `eager`: several times faster than sdpa's backward pass in bfloat16 on a CPU.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.set_attn_implementation("eager")
    return model


def sample_batch(kinds: Sequence[str], count: int, rng: random.Random) -> tuple[list[Grid], list[list[Question]]]:
    """Draw training grids and questions about each; no grid of digits that a quiz asks about."""
    grids: list[Grid] = []
    while len(grids) < count:
        grid = sample_grid("train", rng)
        if grid.digits not in _asked_digits():
            grids.append(grid)
    return grids, [[ask(kind, grid, rng) for kind in kinds] for grid in grids]


@cache
def _asked_digits() -> frozenset[tuple[int, ...]]:
    return frozenset(grid.digits for quiz in (*QUIZZES.values(), CHOICES) for grid, _ in quiz)


def main() -> None:
    """Train one seed's models, save them and write their figures to `training.json` beside them."""
    parser = argparse.ArgumentParser(description="Train the small world's base LM and VLMs.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder for the models and training.json")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="of the base LM, at most")
    parser.add_argument("--cycle-steps", type=int, default=CYCLE_STEPS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer, PICTURE_PIXELS)
    text = GridPacker(tokenizer, pictures=False, kinds=tuple(KINDS))
    pictures = GridPacker(tokenizer, pictures=True, kinds=tuple(KINDS))
    report = args.output / "training.json"
    seeds: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    figures = seeds.setdefault(str(args.seed), {"minutes": {}})

    def note() -> None:
        report.write_text(json.dumps(seeds, indent=2) + "\n")

    if (args.output / "base_lm").exists():
        base_lm = half_precision(Qwen2ForCausalLM.from_pretrained(args.output / "base_lm", dtype=torch.bfloat16))
    else:
        with timed(figures["minutes"], "base_lm"):
            base_lm, history = train_base_lm(tokenizer, args.cycles, args.cycle_steps, args.seed, args.output)
        save(base_lm, tokenizer, args.output / "base_lm")
        figures["base_lm_by_cycle"] = history
        figures["base_lm"] = {"text": accuracy(base_lm, text, CHOICES)}
        note()

    digits = Handwriting(members("train"), CELL_PIXELS, random.Random(args.seed))
    vlms = {}
    for name in ("aligned", *TUNED):
        if (args.output / name).exists():
            vlms[name] = half_precision(
                Qwen2_5_VLForConditionalGeneration.from_pretrained(args.output / name, dtype=torch.bfloat16)
            )
            continue
        torch.manual_seed(args.seed)
        with timed(figures["minutes"], name):
            if name == "aligned":
                vlms[name] = half_precision(grow_vlm(base_lm, tokenizer))
                align(vlms[name], tokenizer, args.seed, digits)
            else:
                vlms[name] = tune(name, vlms["aligned"], tokenizer, args.seed, digits)
        save(vlms[name], processor, args.output / name)
        figures[name] = {
            "pictures": accuracy(vlms[name], pictures, CHOICES),
            "text": accuracy(vlms[name], text, CHOICES),
        }
        note()
        print(name, json.dumps(figures[name]), flush=True)


if __name__ == "__main__":
    main()
