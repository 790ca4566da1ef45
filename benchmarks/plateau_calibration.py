"""How well the plateau onset's interval and verdict are calibrated, on simulated documents whose truth is known.

    python benchmarks/plateau_calibration.py --quick             # half a minute
    python benchmarks/plateau_calibration.py                     # two to three minutes on an idle core
    python benchmarks/plateau_calibration.py --noise lively      # or clustered: the same under other noise

The truth is a curve p[k], drawn anew from its shape's family for every repetition; the population's onset is what the
same rule reads off p itself. A document's answers at the 29 cuts come from one Gaussian copula whose margins are
exactly p: a part that all cuts share (easy and hard documents), a part that drifts from cut to cut (answers that flip
and stay flipped for a while), and independent noise. In `clustered`, five documents share some of their luck.

Beside the interval in use (mid-p percentiles) stand those that were tried: plain percentiles, bias-corrected
percentiles, the shortest interval that holds 90% of the draws; and how often the onset by itself is exact, below which
no interval around it can cover. Beside the verdict stands the criterion it came from: no
plateau if a tenth of the draws put the onset at one of the last two cuts, or if the rise of the isotonic fit is below
two standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.signal import lfilter
from scipy.stats import norm

from lmms_plam.probes.curve import MaskingCurve
from lmms_plam.probes.estimate import mid_p_interval
from lmms_plam.probes.onset import Levels, OnsetRule, onset_index
from lmms_plam.probes.plateau import Plateau, find_plateau

DEPTH = 28
CUTS = np.arange(DEPTH + 1)
RULE = OnsetRule()
LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Noise:
    """Shares of the copula's variance that drift over the cuts and that are independent; the rest is shared by all."""

    drifting: float
    independent: float
    persistence: float = 0.85
    clustered: float = 0.0  # share of the shared part that a cluster has in common
    cluster_size: int = 1


NOISES = {
    "calm": Noise(drifting=0.04, independent=0.01),
    "lively": Noise(drifting=0.10, independent=0.05),
    "clustered": Noise(drifting=0.04, independent=0.01, clustered=0.4, cluster_size=5),
}


def _corner(rng: np.random.Generator, first: float, last: float) -> tuple[np.ndarray, float]:
    """A straight rise from 0.3 to somewhere in 0.55..0.75, which ends in first..last; and where."""
    end = rng.uniform(first, last)
    start = end - rng.uniform(4, 9)
    return 0.3 + (rng.uniform(0.55, 0.75) - 0.3) * np.clip((CUTS - start) / (end - start), 0, 1), end


def _sharp(rng: np.random.Generator) -> np.ndarray:
    return _corner(rng, 14, 22)[0]


def _rounded(rng: np.random.Generator) -> np.ndarray:
    return 0.3 + rng.uniform(0.25, 0.45) / (1 + np.exp(-(CUTS - rng.uniform(9, 16)) / rng.uniform(0.8, 1.8)))


def _slow_tail(rng: np.random.Generator) -> np.ndarray:
    curve, end = _corner(rng, 12, 18)
    return curve + rng.uniform(0.015, 0.04) * np.clip((CUTS - end) / (DEPTH - end), 0, 1)


def _flat(rng: np.random.Generator) -> np.ndarray:
    return np.full(DEPTH + 1, rng.uniform(0.3, 0.6))


def _straight(rng: np.random.Generator) -> np.ndarray:
    return 0.3 + rng.uniform(0.15, 0.4) * CUTS / DEPTH


def _declining(rng: np.random.Generator) -> np.ndarray:
    return _sharp(rng) - rng.uniform(0.03, 0.05) * np.clip((CUTS - 23) / (DEPTH - 23), 0, 1)


SHAPES: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], tuple[str, ...]]] = {
    "sharp rise": (_sharp, ("plateau",)),
    "rounded rise": (_rounded, ("plateau",)),
    "slow tail": (_slow_tail, ("plateau", "late review")),  # a tail within the tolerance still is below full
    "none: flat": (_flat, ("no plateau",)),
    "none: straight": (_straight, ("no plateau",)),
    "late decline": (_declining, ("late decline",)),
}
"""Each shape's truths and the verdicts that are right for them."""


def simulate(truth: np.ndarray, n: int, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Draw 0/1 scores of n documents at all cuts, with expectation `truth`; neighbours form clusters."""
    cluster = np.arange(n) // noise.cluster_size
    shared = np.sqrt(noise.clustered) * rng.standard_normal(cluster[-1] + 1)[cluster]
    shared = shared + np.sqrt(1 - noise.clustered) * rng.standard_normal(n)
    innovations = rng.standard_normal((n, len(truth))) * np.sqrt(1 - noise.persistence**2)
    innovations[:, 0] /= np.sqrt(1 - noise.persistence**2)
    drifting = lfilter([1], [1, -noise.persistence], innovations, axis=1)
    luck = (
        np.sqrt(1 - noise.drifting - noise.independent) * shared[:, None]
        + np.sqrt(noise.drifting) * drifting
        + np.sqrt(noise.independent) * rng.standard_normal((n, len(truth)))
    )
    return (luck < norm.ppf(truth)).astype(float)


def bootstrapped(scores: np.ndarray, cluster_size: int, resampling: np.ndarray) -> MaskingCurve:
    """Average documents by cluster, and clusters by each draw's shares: `masking_curve` for the mean, made fast.

    Args:
        scores: (n, n_cuts).
        cluster_size: documents a cluster.
        resampling: (n_draws, n_clusters) share of each cluster in a draw. One table serves all repetitions, as they
            simulate other documents.
    """
    clusters = scores.reshape(-1, cluster_size, scores.shape[1]).mean(axis=1)
    return MaskingCurve(CUTS, scores.mean(axis=0), resampling @ clusters, 1.0, len(scores), len(clusters), seed=0)


def percentile(shares: np.ndarray) -> tuple[int, int]:
    """Plain percentiles."""
    return _between(shares, (1 - LEVEL) / 2, (1 + LEVEL) / 2)


def bias_corrected(shares: np.ndarray, onset: int) -> tuple[int, int]:
    """Percentiles moved by the bias of the draws' median (BC, Efron 1981), ties counted half."""
    bias = norm.ppf(np.clip(shares[:onset].sum() + shares[onset] / 2, 1e-3, 1 - 1e-3))
    return _between(shares, *norm.cdf(2 * bias + norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])))


def shortest(shares: np.ndarray) -> tuple[int, int]:
    """The shortest interval that holds the level's share of the draws."""
    sums = np.concatenate([[0], np.cumsum(shares)])
    spans = [(high - low, low, high) for low in range(len(shares)) for high in range(low, len(shares))]
    _, low, high = min(span for span in spans if sums[span[2] + 1] - sums[span[1]] >= LEVEL - 1e-12)
    return low, high


def _between(shares: np.ndarray, low: float, high: float) -> tuple[int, int]:
    ends = np.searchsorted(np.cumsum(shares) + 1e-12, [low, high])
    return int(ends[0]), int(ends[1])


def no_plateau_by_the_original_criterion(curve: MaskingCurve, found: Plateau) -> bool:
    """The criterion that the verdict came from, see above."""
    at_end = sum(share for cut, share in found.estimate.probability.items() if cut >= DEPTH - 1)
    rises = [levels.top - levels.fit[..., 0] for levels in (_levels(curve.scores), _levels(curve.draws))]
    return bool(at_end > 0.1 or rises[0] < 2 * rises[1].std(ddof=1))


def _levels(curves: np.ndarray) -> Levels:
    return Levels.of(curves, RULE, 1.0)


def measure(shape: str, n: int, noise: Noise, repetitions: int, draws: int, seed: int) -> dict[str, float]:
    """Repeat the experiment and average what is printed."""
    rng = np.random.default_rng([seed, n, list(SHAPES).index(shape)])
    draw_truth, right_verdicts = SHAPES[shape]
    n_clusters = n // noise.cluster_size
    resampling = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=draws) / n_clusters
    rows = []
    for _ in range(repetitions):
        truth = draw_truth(rng)
        true_onset = int(onset_index(truth, CUTS, RULE))
        curve = bootstrapped(simulate(truth, n, noise, rng), noise.cluster_size, resampling)
        found = find_plateau(curve, RULE, LEVEL)
        shares = np.array([found.estimate.probability.get(int(cut), 0.0) for cut in CUTS])
        intervals = {
            "mid-p": mid_p_interval(shares, LEVEL),
            "percentile": percentile(shares),
            "BC": bias_corrected(shares, found.estimate.value),
            "shortest": shortest(shares),
        }
        low, high = intervals["mid-p"]
        row = {name: float(ends[0] <= true_onset <= ends[1]) for name, ends in intervals.items()}
        error = found.estimate.value - true_onset
        row |= {"width": high - low, "alone": low == high, "error": error, "exact": error == 0}
        row |= {verdict: found.verdict == verdict for verdict in ("no plateau", "late decline", "late review")}
        row |= {
            "right": found.verdict in right_verdicts,
            "original": no_plateau_by_the_original_criterion(curve, found),
        }
        rows.append(row)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return means | {"sd": float(np.std([row["error"] for row in rows]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 repetitions of 400 draws, not 200 of 600")
    parser.add_argument("--noise", choices=NOISES, default="calm")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    repetitions, draws = (40, 400) if arguments.quick else (200, 600)
    noise = NOISES[arguments.noise]
    cells = [(shape, n) for shape in SHAPES for n in (300, 1000, 1500)]
    results = [
        measure(shape, n, noise, repetitions, draws, arguments.seed)
        for shape, n in track(cells, description=f"{repetitions} repetitions each")
    ]

    console = Console(width=150)
    how = f"{arguments.noise} noise, {repetitions} repetitions of {draws} draws, seed {arguments.seed}"
    onsets = Table(title=f"Onset: percent of nominal {LEVEL:.0%} intervals that hold the truth ({how})")
    verdicts = Table(title=f"Verdict: percent of repetitions ({how})")
    for table in (onsets, verdicts):
        for heading in ("shape", "documents"):
            table.add_column(heading)
    for heading in ("mid-p (used)", "width", "one layer", "onset exact", "percentile", "BC", "shortest", "bias", "SD"):
        onsets.add_column(heading, justify="right")
    for heading in ("right", "no plateau", "no plateau, original", "late decline", "late review"):
        verdicts.add_column(heading, justify="right")
    for (shape, n), result in zip(cells, results, strict=True):
        here = (shape, f"{n:,}")
        percent = {name: f"{100 * value:.0f}" for name, value in result.items()}
        if not shape.startswith("none"):
            numbers = (f"{result[name]:.1f}" for name in ("error", "sd"))
            percents = (percent[name] for name in ("alone", "exact", "percentile", "BC", "shortest"))
            coverage = f"{100 * result['mid-p']:.1f}"
            onsets.add_row(*here, coverage, f"{result['width']:.1f}", *percents, *numbers)
        verdicts.add_row(
            *here, *(percent[name] for name in ("right", "no plateau", "original", "late decline", "late review"))
        )
    console.print(onsets)
    console.print(verdicts)


if __name__ == "__main__":
    main()
