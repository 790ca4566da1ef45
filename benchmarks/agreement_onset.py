"""How the onset that knows no labels compares with that of the score, on simulated answers whose truth is known.

    python benchmarks/agreement_onset.py                   # two minutes on an idle core
    python benchmarks/agreement_onset.py --noise lively    # or settled: how much answers go on changing

Scores come from the worlds of plateau_calibration.py. A wrong answer is one of four, which change by the same kind of
noise; so an answer may go from wrong to wrong, and back and forth at no net loss. The truth of the agreement is that of
40,000 documents of the same world. `holds` is how often a 90% interval of the agreement's onset holds the agreement's
own truth, `and the score's` how often it holds that of the score; `later by` is in layers.
"""

from __future__ import annotations

import argparse

import numpy as np
from plateau_calibration import CUTS, LEVEL, NOISES, RULE, SHAPES, Noise, bootstrapped, simulate
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lmms_plam.probes.curve import MaskingCurve
from lmms_plam.probes.onset import onset_index
from lmms_plam.probes.plateau import Plateau, find_plateau

WORLDS = {"settled": Noise(drifting=0.0004, independent=0.0001), **NOISES}
POPULATION = 40_000


def answer(truth: np.ndarray, n: int, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Draw the answers of n documents at all cuts, (n, n_cuts): 0 is right, 1 to 4 are wrong."""
    right = simulate(truth, n, noise, rng) > 0
    half, half_too = (simulate(np.full(len(truth), 0.5), n, noise, rng) for _ in range(2))
    return np.where(right, 0, 1 + half + 2 * half_too)


def agreement(answers: np.ndarray) -> np.ndarray:
    """Say which answers below the last cut are that of the last, (n, n_cuts - 1)."""
    return (answers[:, :-1] == answers[:, -1:]).astype(float)


def plateau_of(scores: np.ndarray, noise: Noise, resampling: np.ndarray) -> Plateau:
    """Find the plateau of scores by document and cut."""
    padded = np.pad(scores, ((0, 0), (0, len(CUTS) - scores.shape[1])))
    curve = bootstrapped(padded, noise.cluster_size, resampling)
    kept = slice(0, scores.shape[1])
    own = MaskingCurve(CUTS[kept], curve.scores[kept], curve.draws[:, kept], 1.0, len(scores), len(scores), 0)
    return find_plateau(own, RULE, LEVEL)


def measure(shape: str, n: int, noise: Noise, repetitions: int, draws: int) -> dict[str, float]:
    """Repeat the experiment and average what is printed."""
    rng = np.random.default_rng([n, list(SHAPES).index(shape)])
    clusters = n // noise.cluster_size
    resampling = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws) / clusters
    rows = []
    for _ in range(repetitions):
        truth = SHAPES[shape][0](rng)
        own_truth = agreement(answer(truth, POPULATION, noise, rng)).mean(axis=0)
        score_onset = int(onset_index(truth, CUTS, RULE))
        own_onset = int(onset_index(own_truth, CUTS[:-1], RULE))
        answers = answer(truth, n, noise, rng)
        found = plateau_of(agreement(answers), noise, resampling)
        labelled = plateau_of((answers == 0).astype(float), noise, resampling)
        low, high = found.estimate.interval
        rows.append(
            {
                "holds": low <= own_onset <= high,
                "and the score's": low <= score_onset <= high,
                "later by": own_onset - score_onset,
                "none": found.onset is None,
                "none by score": labelled.onset is None,
                "alike": found.onset is not None
                and labelled.onset is not None
                and abs(found.onset - labelled.onset) < 2,
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", choices=WORLDS, default="calm")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--draws", type=int, default=400)
    arguments = parser.parse_args()
    noise = WORLDS[arguments.noise]
    cells = [(shape, n) for shape in SHAPES if shape != "late decline" for n in (300, 1000)]
    table = Table(title=f"{arguments.noise} noise, {arguments.repetitions} repetitions: percent, and layers")
    headings = ("holds", "and the score's", "later by", "alike", "none", "none by score")
    for heading in ("shape", "documents", *headings):
        table.add_column(heading, justify="left" if heading == "shape" else "right")
    for shape, n in track(cells):
        result = measure(shape, n, noise, arguments.repetitions, arguments.draws)
        shown = (f"{result[name]:.1f}" if name == "later by" else f"{100 * result[name]:.0f}" for name in headings)
        table.add_row(shape, f"{n:,}", *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
