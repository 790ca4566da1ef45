"""Whether the software says what is true of `microworld`, where the truth is known: ten times as many questions.

    OMP_NUM_THREADS=1 python benchmarks/known_truth.py [--grids 1000] [--repetitions 200] [--json FILE]

The truth is measured without the engine, the merge code and lmms-eval: by the training code's own forward pass, on
models whose weights are blended by hand, over 1,000 grids with a question of each kind (10,000 questions) whose images
are the benchmark's. Three parts:

1. What is true: the masking curves, and what attention merges of each start layer give.
2. What follows from it: the claims of `lmms_plam/microworld/__init__.py`, each with its figures.
3. How sure the software is: `plam`'s statistics on so many resampled benchmarks of 50 of those grids (500 questions);
   how often the comparison's 95% interval holds the true difference, and the probe's 90% interval the true onset.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2ForCausalLM

from lmms_plam.microworld.answering import right_answers
from lmms_plam.microworld.architecture import LAYERS, GridPacker
from lmms_plam.microworld.benchmark import draw_quiz
from lmms_plam.microworld.questions import KINDS, NARROW
from lmms_plam.microworld.train import KEPT_LAYERS
from lmms_plam.paths import PACKAGE
from lmms_plam.probes.curve import masking_curve
from lmms_plam.probes.onset import OnsetRule, onset_index
from lmms_plam.probes.plateau import find_plateau
from lmms_plam.stats.comparison import Analysis, Settings
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

VLMS = ("narrow", "upper", "broad")
ATTENTION, MLP = ("self_attn",), ("mlp",)
GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(KINDS),
    "trained": NARROW,
    "unseen": tuple(kind for kind in KINDS if kind not in NARROW),
    "hops": ("twice", "thrice"),
    "via": ("via",),
}
NARROW_START = 9
"""Start layer of `model_configs/microworld_narrow.yaml`."""
Right = np.ndarray
"""Which questions a model answers right, (grids, kinds)."""


class World:
    """The shipped models, and questions about so many grids.

    Args:
        grids: how many.
        folder: of the models.
    """

    def __init__(self, grids: int, folder: Path = PACKAGE / "microworld") -> None:
        self.folder = folder
        tokenizer = AutoTokenizer.from_pretrained(folder / "base_lm")
        self.quiz = draw_quiz("benchmark", grids, seed="truth")
        self.packer = GridPacker(tokenizer, pictures=True, kinds=tuple(KINDS))
        self.base_lm = Qwen2ForCausalLM.from_pretrained(folder / "base_lm", dtype=torch.bfloat16)
        self._vlms: dict[str, Any] = {}

    def vlm(self, name: str) -> Any:
        """Return a VLM."""
        if name not in self._vlms:
            self._vlms[name] = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                self.folder / name, dtype=torch.bfloat16, attn_implementation="eager"
            )
        return self._vlms[name]

    def right(self, vlm: Any, visible_layers: int | None = None) -> Right:
        """Ask a VLM all questions."""
        return right_answers(vlm, self.packer, self.quiz, visible_layers)

    def curve(self, name: str, cuts: Iterable[int] = range(LAYERS + 1)) -> dict[int, Right]:
        """Return a VLM's answers with the picture readable in the layers below each cut."""
        return {cut: self.right(self.vlm(name), cut) for cut in cuts}

    def merged(
        self, name: str, start: int, lm: float = 1.0, vlm: float = 0.0, modules: Sequence[str] = ATTENTION
    ) -> Right:
        """Return the answers of a VLM whose layers from `start` on are lm * base LM + vlm * VLM."""
        blended = copy.deepcopy(self.vlm(name))
        donors = self.base_lm.model.layers.state_dict()
        with torch.no_grad():
            for key, weight in blended.model.language_model.layers.named_parameters():
                layer, module = key.split(".")[:2]
                if int(layer) >= start and module in modules:
                    weight.copy_(lm * donors[key].float() + vlm * weight.float())
        return self.right(blended)

    def silenced(self, name: str, start: int) -> Right:
        """Return the answers of a VLM whose attention adds nothing from layer `start` on."""
        silent = copy.deepcopy(self.vlm(name))
        with torch.no_grad():
            for layer in silent.model.language_model.layers[start:]:
                layer.self_attn.o_proj.weight.zero_()
        return self.right(silent)


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference in points, with its standard error by grid."""

    points: float
    error: float

    @classmethod
    def of(cls, before: Right, after: Right, group: str) -> Gain:
        """Compare answers to the questions of a group."""
        columns = [list(KINDS).index(kind) for kind in GROUPS[group]]
        change = (after[:, columns].astype(float) - before[:, columns]).mean(axis=1)
        return cls(100 * float(change.mean()), 100 * float(change.std(ddof=1)) / len(change) ** 0.5)

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.error:.1f}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said to be true, whether it is, and the figures that show it."""

    says: str
    holds: bool
    figures: str


def onset(curve: Mapping[int, Right], group: str = "all") -> int:
    """Return the plateau onset of the population's curve, by the software's own rule."""
    scores = np.array([share_right(right, group) for right in curve.values()])
    return int(list(curve)[onset_index(scores, np.array(list(curve)), OnsetRule())])


def share_right(right: Right, group: str) -> float:
    """Return the share of right answers to the questions of a group."""
    return float(right[:, [list(KINDS).index(kind) for kind in GROUPS[group]]].mean())


def claims(world: World) -> list[Claim]:
    """Check what is said of the world."""
    plain = {name: world.right(world.vlm(name)) for name in VLMS}
    found = []

    def claim(says: str, holds: bool, *figures: object) -> None:
        found.append(Claim(says, bool(holds), ", ".join(map(str, figures))))

    def gain(name: str, right: Right, group: str = "unseen") -> Gain:
        return Gain.of(plain[name], right, group)

    curves = {name: world.curve(name) for name in VLMS}
    for name, curve in curves.items():
        first, whole = (share_right(curve[cut], "trained") for cut in (1, LAYERS))
        claim(f"{name}: the first layer reads what single looks need", first > 0.95 * whole, first, whole)
    jump, halfway, whole = (share_right(curves["broad"][cut], "hops") for cut in (1, 8, LAYERS))
    claim(
        "broad: its second and third looks happen in layers 8 to 11",
        max(jump, halfway) < 0.5 * whole,
        *(round(share, 3) for share in (jump, halfway, whole)),
    )

    merges = {start: world.merged("narrow", start) for start in (0, 1, NARROW_START)}
    first, second, late = (gain("narrow", right) for right in merges.values())
    claim("narrow: attention merged from layer 0 on helps unseen kinds", first.points > 5 * first.error > 0, first)
    claim("narrow: most of it is layer 0's own", second.points < first.points / 2, second)
    claim(
        f"narrow: merged from layer {NARROW_START} on it gives hardly a tenth of that",
        late.points < first.points / 8,
        late,
    )
    hops = Gain.of(plain["narrow"], world.merged("narrow", 0, 0, 0.9), "hops")
    claim("narrow: scaling its own attention doesn't help `twice` and `thrice`", hops.points < 2 * hops.error, hops)

    read = onset(curves["upper"], "via")
    upper = {
        "merged": world.merged("upper", read),
        "half merged": world.merged("upper", read, 0.5, 0.5),
        "scaled": world.merged("upper", read, 0, 0.9),
        "silenced": world.silenced("upper", read),
    }
    gains = {how: gain("upper", right, "via") for how, right in upper.items()}
    claim(
        f"upper: `via` has read the picture by layer {read}, and attention merged from there on helps it",
        all(gains[how].points > 3 * gains[how].error > 0 for how in ("merged", "half merged")),
        gains["merged"],
        gains["half merged"],
    )
    claim(
        "upper: scaling the VLM's own attention instead doesn't",
        gains["scaled"].points < 2 * gains["scaled"].error,
        gains["scaled"],
    )
    claim(
        "upper: switching that attention off hurts it",
        gains["silenced"].points < -5 * gains["silenced"].error < 0,
        gains["silenced"],
    )
    mlps = gain("upper", world.merged("upper", read, modules=ATTENTION + MLP), "via")
    claim("upper: merging MLPs too adds to it", mlps.points > gains["merged"].points, mlps)

    null = [Gain.of(plain["broad"], world.merged("broad", start), "all") for start in (0, 2, 4, 6, 8, 10)]
    claim("broad: no attention merge helps", all(gain.points < 2 * gain.error + 0.2 for gain in null), *null)
    return found


def matrix_of(variants: Mapping[str, Right], grids: Sequence[int]) -> ScoreMatrix:
    """Return the score matrix of some grids, each a cluster of its own however often it is drawn."""
    names = tuple(variants)
    scores = np.stack([variants[name][list(grids)].reshape(-1) for name in names], axis=1).astype(float)
    count, kinds = len(scores), len(KINDS)
    return ScoreMatrix(
        doc_ids=np.arange(count),
        variants=names,
        scores=scores,
        answers=np.full(scores.shape, "", dtype=object),
        clusters=np.repeat(np.arange(len(grids)).astype(str), kinds),
        strata=np.full(count, ""),
    )


def coverage(
    variants: Mapping[str, Right], cuts: Mapping[str, Right], repetitions: int, grids: int
) -> dict[str, dict[str, Any]]:
    """Say how often the software's intervals hold the truth on resampled benchmarks.

    Args:
        variants: answers of the untouched VLM ("base") and of merged ones.
        cuts: answers by cut.
        repetitions: resampled benchmarks.
        grids: of each.
    """
    population = len(next(iter(variants.values())))
    rng = np.random.default_rng(0)
    truth = {name: 100 * float(right.mean() - variants["base"].mean()) for name, right in variants.items()}
    true_onset = onset({int(cut): right for cut, right in cuts.items()})
    held: dict[str, list[bool]] = {name: [] for name in (*variants, "onset") if name != "base"}
    exact, metric = [], find_metric("mean")
    for repetition in track(range(repetitions), "resampled benchmarks"):
        drawn = rng.integers(population, size=grids).tolist()
        analysis = Analysis.of(matrix_of(variants, drawn), metric, Settings(draws=2000, seed=repetition))
        for name in variants:
            if name != "base":
                found = analysis.compare("base", name).difference
                held[name].append(100 * found.ci_low <= truth[name] <= 100 * found.ci_high)
        probe = find_plateau(masking_curve(matrix_of(cuts, drawn), metric, seed=repetition))
        low, high = probe.estimate.interval
        held["onset"].append(low <= true_onset <= high)
        exact.append(probe.estimate.value == true_onset)
    return {
        name: {
            "truth": true_onset if name == "onset" else round(truth[name], 2),
            "nominal": 0.9 if name == "onset" else 0.95,
            "held": float(np.mean(hits)),
        }
        for name, hits in held.items()
    } | {"onset exactly right": {"truth": true_onset, "nominal": None, "held": float(np.mean(exact))}}


def tables(world: World, console: Console) -> dict[str, Any]:
    """Print masking curves and merges, and return them."""
    result: dict[str, Any] = {"curves": {}, "merges": {}}
    table = Table(
        "VLM", "kinds", *map(str, range(LAYERS + 1)), title="masking curves: % right, picture seen below cut k"
    )
    for name in ("aligned", *VLMS):
        if not (world.folder / name).exists():
            continue
        curve = world.curve(name)
        for group in GROUPS:
            scores = [round(100 * share_right(right, group), 1) for right in curve.values()]
            result["curves"][f"{name}, {group}"] = scores
            table.add_row(name, group, *(f"{score:.0f}" for score in scores))
    console.print(table)
    starts = range(LAYERS)
    table = Table("VLM", "kinds", "merge", *map(str, starts), title="points gained by a merge from layer k0 on")
    recipes = {
        "attention (1, 0)": (1.0, 0.0, ATTENTION),
        "attention (.5, .5)": (0.5, 0.5, ATTENTION),
        "scaled (0, .9)": (0.0, 0.9, ATTENTION),
        "attention and MLP (1, 0)": (1.0, 0.0, ATTENTION + MLP),
    }
    for name in VLMS:
        plain = world.right(world.vlm(name))
        for recipe, (lm, vlm, modules) in recipes.items():
            merged = [world.merged(name, start, lm, vlm, modules) for start in starts]
            for group in GROUPS:
                gains = [Gain.of(plain, right, group) for right in merged]
                result["merges"][f"{name}, {recipe}, {group}"] = [
                    [round(gain.points, 2), round(gain.error, 2)] for gain in gains
                ]
                table.add_row(name, group, recipe, *(f"{gain.points:+.1f}" for gain in gains))
    console.print(table)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=1000, help="of the truth")
    parser.add_argument("--repetitions", type=int, default=200, help="resampled benchmarks")
    parser.add_argument("--sample", type=int, default=50, help="grids of a resampled benchmark")
    parser.add_argument("--models", type=Path, default=PACKAGE / "microworld", help="folder of the models")
    parser.add_argument("--claims-only", action="store_true", help="neither the tables nor the coverage")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    console, start = Console(width=160), time.perf_counter()
    world = World(arguments.grids, arguments.models)
    figures = {} if arguments.claims_only else tables(world, console)

    table = Table("claim", "holds", "figures")
    found = claims(world)
    for claim in found:
        table.add_row(claim.says, "yes" if claim.holds else "NO", claim.figures)
    console.print(table)
    figures["claims"] = [[claim.says, claim.holds, claim.figures] for claim in found]

    if not arguments.claims_only:
        for name in VLMS:
            variants = {
                "base": world.right(world.vlm(name)),
                f"half merged from {KEPT_LAYERS}": world.merged(name, KEPT_LAYERS, 0.5, 0.5),
                "half merged from 0": world.merged(name, 0, 0.5, 0.5),
            }
            cuts = {str(cut): right for cut, right in world.curve(name).items()}
            rows = coverage(variants, cuts, arguments.repetitions, arguments.sample)
            figures[f"coverage, {name}"] = rows
            table = Table("interval", "truth", "nominal", "held", title=f"{name}: {arguments.repetitions} benchmarks")
            for interval, row in rows.items():
                table.add_row(interval, str(row["truth"]), str(row["nominal"]), f"{row['held']:.3f}")
            console.print(table)
    console.print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
