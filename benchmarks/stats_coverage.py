"""Do the intervals cover, and do the p-values reject, as often as they say?

Each row draws many samples from a known population of clusters, at the sizes of a real benchmark and with models that
disagree on 2 to 8% of the answers, and counts how often the 95% interval of the paired difference covers the
population's, and how often p < 0.05 where the two models are exchangeable. Rows with `--limit` take so many documents
of the benchmark's real strata, the first ones (where a dataset is sorted by stratum) or random ones, so that strata of
one cluster are common; their truth is that of the strata that have any. Rows of rare changes go from models that
differ on one document in a thousand to those that do on three in ten.

    python benchmarks/stats_coverage.py            # all rows, about 40 minutes of one core
    python benchmarks/stats_coverage.py --samples 1000 --only limit
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np

from lmms_plam.stats.bootstrap import bootstrap, interval
from lmms_plam.stats.significance import sign_flip
from lmms_plam.stats.units import Units

CONTRAST = np.array([-1.0, 1.0])
MME_PAIRS = (30, 30, 30, 30, 147, 170, 200, 200, 200, 20, 70, 20, 20, 20)
"""Image pairs in MME's ten perception and four cognition categories."""


@dataclass(frozen=True)
class Setting:
    """A population of clusters, as Units whose counts are proportions, and the size of a sample from each stratum.

    With `limit`, the sample is that many of all those clusters, the first or random ones.
    """

    name: str
    population: Units
    sizes: tuple[int, ...]
    limit: int | None = None
    first: bool = False

    def draw_sizes(self, rng: np.random.Generator) -> np.ndarray:
        """Return how many clusters of each stratum a sample has."""
        sizes = np.array(self.sizes)
        if self.limit is None:
            return sizes
        if self.first:
            before = np.cumsum(sizes) - sizes
            return np.clip(self.limit - before, 0, sizes)
        return rng.multivariate_hypergeometric(sizes, self.limit)


def sample(setting: Setting, rng: np.random.Generator) -> tuple[Units, float]:
    """Draw clusters from the population, stratum by stratum, and return what is true of such a sample's difference."""
    population, sizes = setting.population, setting.draw_sizes(rng)
    share = population.count / population.stratum_sizes[population.stratum]
    starts = np.flatnonzero(np.diff(population.stratum)) + 1
    count = np.concatenate([rng.multinomial(n, part) for n, part in zip(sizes, np.split(share, starts), strict=True)])
    expected = share * sizes[population.stratum]

    def of(rows: np.ndarray, times: np.ndarray) -> Units:
        return replace(
            population,
            credit=population.credit[rows],
            weight=population.weight[rows],
            count=times[rows],
            stratum=np.unique(population.stratum[rows], return_inverse=True)[1],
        )

    units, limitless = of(count > 0, count), of(expected > 0, (expected * 1e9).round().astype(np.int64))
    return units, float(limitless.estimate() @ CONTRAST)


def exchangeable(population: Units) -> Units:
    """Return the population in which each cluster may as well have its two sets of answers swapped."""
    order = np.argsort(np.tile(population.stratum, 2), kind="stable")
    return replace(
        population,
        credit=np.vstack([population.credit, population.credit[:, ::-1]])[order],
        weight=np.vstack([population.weight, population.weight[:, ::-1]])[order],
        count=np.tile(population.count, 2)[order],
        stratum=np.tile(population.stratum, 2)[order],
    ).select((0, 1))


def plain(name: str, sizes: tuple[int, ...], discordance: float, pooling: str) -> Setting:
    """One right-or-wrong answer a cluster; the second model gains 60% of the answers on which the two differ."""
    credit, count, stratum = [], [], []
    for place in range(len(sizes)):
        accuracy = 0.45 + 0.3 * place / max(1, len(sizes) - 1)
        both = accuracy - 0.4 * discordance
        shares = np.array([both, 0.4 * discordance, 0.6 * discordance, 1 - both - discordance])
        credit += [[1, 1], [1, 0], [0, 1], [0, 0]]
        count += (shares * 1_000_000).round().astype(int).tolist()
        stratum += [place] * 4
    return Setting(name, _units(credit, np.ones((len(credit), 2)), count, stratum, pooling), sizes)


def pairs(name: str, discordance: float) -> Setting:
    """MME: two correlated questions an image, worth 0, 50 or 200, in 14 categories; 60% of what changes is a gain."""
    value = np.array([0.0, 50.0, 200.0])
    table: dict[tuple[float, float], float] = {}
    for easiness, weight in ((0.55, 0.3), (0.85, 0.4), (0.97, 0.3)):
        for outcome in np.ndindex(2, 2, 2, 2):
            first, second = np.array(outcome[:2]), np.array(outcome[2:])
            flip = discordance * np.where(first == 1, 0.5, 2.7)
            chance = (
                np.where(first == 1, easiness, 1 - easiness).prod() * np.where(first == second, 1 - flip, flip).prod()
            )
            scores = (value[first.sum()], value[second.sum()])
            table[scores] = table.get(scores, 0.0) + weight * chance
    n_strata = len(MME_PAIRS)
    return Setting(
        name,
        _units(
            credit=np.tile(list(table), (n_strata, 1)),
            weight=np.ones((n_strata * len(table), 2)),
            count=np.tile((np.array(list(table.values())) * 1e9).round(), n_strata),
            stratum=np.repeat(np.arange(n_strata), len(table)),
            pooling="sum",
            reach=(0.0, 200.0),
        ),
        MME_PAIRS,
    )


def images(name: str, n: int, questions: np.ndarray, discordance: float, f1: bool = False) -> Setting:
    """Several questions an image, whose easiness and discordance vary with the image; F1 or accuracy."""
    rng = np.random.default_rng(99)
    n_images = len(questions)
    image = np.repeat(np.arange(n_images), questions)
    easiness = rng.beta(6, 1.5, n_images)[image]
    shaken = (discordance * rng.gamma(2.0, 0.5, n_images)).clip(max=0.5)[image]
    first = rng.random(len(image)) < easiness
    second = np.where(rng.random(len(image)) < shaken * np.where(first, 0.8, 1.6), ~first, first)
    right = np.column_stack([first, second]).astype(float)
    truth = (rng.random(len(image)) < 0.5)[:, None]
    credit, weight = right, np.ones_like(right)
    if f1:
        true_positive, wrong = truth * right, 1 - right
        credit, weight = 2 * true_positive, 2 * true_positive + wrong
    by_image = [np.stack([np.bincount(image, column) for column in part.T], axis=1) for part in (credit, weight)]
    count = np.ones(n_images, dtype=int)
    return Setting(name, _units(*by_image, count, np.zeros(n_images, dtype=int), "all"), (n,))


def rare(discordance: float, tilt: float, n: int, pooling: str = "all") -> Setting:
    """Models that differ on a given share, in ten strata; `tilt` of that is gained more often than lost."""
    gained, lost = discordance * (1 + tilt) / 2, discordance * (1 - tilt) / 2
    shares = np.array([0.65 - lost, lost, gained, 0.35 - gained])
    credit, strata = np.tile([[1, 1], [1, 0], [0, 1], [0, 0]], (10, 1)), np.repeat(np.arange(10), 4)
    units = _units(credit, np.ones((40, 2)), np.tile((shares * 1_000_000).round(), 10), strata, pooling)
    name = f"rare, {pooling}: {n} documents, {discordance:.1%} differ, effect {discordance * tilt:+.2%}"
    return Setting(name, units, (n // 10,) * 10)


def limited(setting: Setting, name: str, documents: int, each: float, *, is_sorted: bool) -> list[Setting]:
    """Return a setting as `--limit` cuts it: with so many documents of `each` to a cluster."""
    found = []
    for first in (True, False) if is_sorted else (False,):
        what = "first" if first else "random"
        found.append(
            replace(setting, name=f"{name} --limit {documents}, {what}", limit=round(documents / each), first=first)
        )
    return found


def _units(credit, weight, count, stratum, pooling, reach=(0.0, 1.0)) -> Units:
    return Units(
        credit=np.asarray(credit, dtype=float),
        weight=np.asarray(weight, dtype=float),
        count=np.asarray(count, dtype=np.int64),
        stratum=np.asarray(stratum, dtype=np.int64),
        pooling=pooling,
        scale=1.0,
        reach=reach,
    ).select((0, 1))


def settings() -> list[Setting]:
    """Return every population that is measured."""
    mmstar = (84,) * 6 + (83,) * 12
    mmbench = (58,) * 19 + (62,)
    gqa = 1 + np.random.default_rng(5).poisson(30.6, 20_000)
    textvqa = 1 + np.random.default_rng(6).binomial(2, 0.29, 20_000)
    pope = np.full(20_000, 18)
    found = [images("accuracy, textvqa: 3166 images x 1.6, 5%", 3166, textvqa, 0.05)]
    for d in (0.02, 0.05, 0.08):
        found += [
            plain(f"accuracy, realworldqa: 765 documents, {d:.0%}", (765,), d, "all"),
            plain(f"accuracy, ai2d: 3088 documents, {d:.0%}", (3088,), d, "all"),
            plain(f"accuracy, mmmu_val: 30 x 30 documents, {d:.0%}", (30,) * 30, d, "all"),
            plain(f"macro, mmstar: 18 categories, {d:.0%}", mmstar, d, "mean"),
            pairs(f"total, mme: 1187 pairs, {d:.0%}", d),
        ]
    for d in (0.02, 0.08):
        found += [
            images(f"F1, pope: 500 images x 18, {d:.0%}", 500, pope, d, f1=True),
            images(f"accuracy, gqa: 398 images x 31.6, {d:.0%}", 398, gqa, d),
        ]
    for d in (0.02, 0.05, 0.08):
        whole = {
            "mmstar": (plain("", mmstar, d, "mean"), 1, True),
            "mme": (pairs("", d), 2, True),
            "mmmu_val": (plain("", (30,) * 30, d, "all"), 1, True),
            "mmbench": (plain("", mmbench, d, "all"), 3.7, False),
            "realworldqa": (plain("", (765,), d, "all"), 1, False),
            "textvqa": (images("", 3166, textvqa, d), 1.6, False),
            "pope": (images("", 500, np.full(20_000, 6), d, f1=True), 6, False),
        }
        for documents in (50, 100, 200):
            asked = np.random.default_rng(7).poisson(documents / 398, 200_000)
            asked = asked[asked > 0][:20_000]  # questions on each image that random ones come upon
            whole["gqa"] = (images("", 398, asked, d), asked.mean(), False)
            for name, (setting, each, is_sorted) in whole.items():
                found += limited(setting, f"{name}, {d:.0%},", documents, each, is_sorted=is_sorted)
    return found + [
        rare(d, tilt, n, pooling)
        for pooling in ("all", "mean", "sum")
        for d in (0.001, 0.003, 0.01, 0.1, 0.3)
        for tilt in (0.0, 0.5, 1.0)
        for n in (50, 500, 2000)
    ]


def measure(setting: Setting, samples: int, draws: int, seed: int) -> dict[str, object]:
    """Count how often the interval covers and the test rejects."""
    null = replace(setting, population=exchangeable(setting.population))
    low = high = rejected = 0
    width = 0.0
    methods = set()
    start = time.perf_counter()
    for turn in range(samples):
        rng = np.random.default_rng([seed, turn])
        units, truth = sample(setting, rng)
        drawn = bootstrap(units, draws, rng) @ CONTRAST
        found = interval(drawn, units, CONTRAST)
        methods.add(found.method)
        low += found.low > truth + 1e-9 * abs(truth)
        high += found.high < truth - 1e-9 * abs(truth)
        width += (found.high - found.low) / samples
        rejected += sign_flip(sample(null, rng)[0], 0, 1, draws, rng) < 0.05
    coverage, false_positives = 1 - (low + high) / samples, rejected / samples
    return {
        "setting": setting.name,
        "samples": samples,
        "draws": draws,
        "method": ", ".join(sorted(methods)),
        "coverage": coverage,
        "coverage_se": float(np.sqrt(coverage * (1 - coverage) / samples)),
        "above": low / samples,
        "below": high / samples,
        "width": width,
        "false_positives": false_positives,
        "false_positives_se": float(np.sqrt(false_positives * (1 - false_positives) / samples)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000, help="of each bootstrap; 10,000 in use, fewer here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for setting in settings():
        if arguments.only not in setting.name:
            continue
        row = measure(setting, arguments.samples, arguments.draws, arguments.seed)
        rows.append(row)
        if not arguments.json:
            print(
                f"{row['setting']:62} coverage {row['coverage']:.3f} ± {row['coverage_se']:.3f}"
                f" (missed below {row['below']:.3f}, above {row['above']:.3f}; width {row['width']:.4g})"
                f"  false positives {row['false_positives']:.3f} ± {row['false_positives_se']:.3f}"
                f"  {row['method']}, {row['seconds']} s",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
