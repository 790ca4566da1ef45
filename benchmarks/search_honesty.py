"""Are a recipe search's numbers true? Simulated searches whose true gains are known.

    python benchmarks/search_honesty.py --searches 30            # a few minutes of one core
    python benchmarks/search_honesty.py                          # about an hour
    python benchmarks/search_honesty.py --racing 2 --only null   # racing at z = 2, blocks of 100 documents
    python benchmarks/search_honesty.py --speed                  # time and memory of one analysis, 1,500 x 256

A document is right under the untouched VLM with probability 0.62. Under a recipe it flips each way with probability
0.04, where nothing helps; which documents flip follows a Gaussian field over the recipes, so that neighbours flip the
same ones. In `few`, five neighbouring recipes gain 2 points; in `much`, a region gains up to 6. For each row:

    gain     mean true gain of the pick
    naive    the best score's gain on the documents that chose it, minus the pick's true gain: mean
    error    the cross-fitted gain minus the pick's true gain: median and mean, each with its Monte Carlo error; then
             its mean over what it estimates, the true gain of the recipes that its folds chose on fewer documents; and
             its skewness, by which a median lies beside a mean
    SE       root mean square of the cross-fit's standard error, over the standard deviation of the cross-fitted gain,
             and over that of its error; then the first again with the stitched column's own standard error, which
             ignores that the choice varies
    held     how often the cross-fit's 95% interval, the simultaneous one and the ordinary one hold the true gain
    any      how often "is any merge better than the base?" has p < 0.05
    cost     share of the answers that racing leaves to ask
    shift    what racing adds to the cross-fitted gain: mean difference to the same searches without it
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri
from scipy.stats import skew

from lmms_plam.config import MergeRecipe
from lmms_plam.search.analyse import analyse
from lmms_plam.search.crossfit import CrossFit, Plan, always, cross_fit
from lmms_plam.search.pick import best, gentlest_first
from lmms_plam.search.racing import plainly_behind
from lmms_plam.search.record import Recipe, SearchRecord
from lmms_plam.search.surface import Surface
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.simultaneous import any_better, simultaneous
from lmms_plam.stats.spread import standard_errors

ACCURACY, FLIPS, BLOCK = 0.62, 0.04, 100
WORLDS = ("null", "few", "much")
BASE = Recipe(name="base", kind="base")


@dataclass(frozen=True)
class World:
    """Recipes, what each of them truly gains, and how the documents that they flip go together."""

    recipes: tuple[Recipe, ...]
    gains: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, kind: str, n_recipes: int) -> World:
        """Lay 26 recipes along two lines, or a square number on a grid."""
        if n_recipes == 26:
            places = np.array([(layer, step) for layer in range(2) for step in range(13)], dtype=float)
            recipes = [
                merge(17 + int(layer), round(0.05 * (step + 1), 2), round(1 - 0.05 * (step + 1), 2))
                for layer, step in places
            ]
            places[:, 0] *= 2
            width = 3
        else:
            side, width = int(n_recipes**0.5), 5
            places = np.array([(lm, vlm) for lm in range(side) for vlm in range(side)], dtype=float)
            recipes = [merge(18, round(0.1 * (lm + 1), 1), round(0.1 * vlm, 1)) for lm, vlm in places]
        apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2))
        alike = 0.7 * np.exp(-((apart / 4) ** 2) / 2) + 0.25 + 0.05 * np.eye(len(places))
        centre = apart[np.argmin(((places - places.mean(axis=0) - 1) ** 2).sum(axis=1))]
        gains = {
            "null": np.zeros(len(places)),
            "few": np.where(centre <= 1.01, 0.02, 0.0),
            "much": 0.06 * np.exp(-((centre / width) ** 2) / 2),
        }
        return cls((BASE, *recipes), np.concatenate([[0.0], gains[kind]]), np.linalg.cholesky(alike))

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return (n, n_recipes) right and wrong answers, the base's first."""
        right = rng.random((n, 1)) < ACCURACY
        field = rng.standard_normal((n, len(self.root))) @ self.root.T
        lost = field > -ndtri(FLIPS / ACCURACY)
        won = field > -ndtri((FLIPS + self.gains[1:]) / (1 - ACCURACY))
        return np.hstack([right, np.where(right, ~lost, won)]).astype(float)

    def search(self, n: int, rng: np.random.Generator, racing: float | None = None) -> Surface:
        """Search, dropping recipes that are so many standard errors behind."""
        scores = self.draw(n, rng)
        names = tuple(recipe.name for recipe in self.recipes)
        documents = np.arange(n)
        text = documents.astype(str)
        matrix = ScoreMatrix(documents, names, scores, np.full(scores.shape, "", dtype=object), text, np.full(n, ""))
        asked, recipes = np.ones(scores.shape, dtype=bool), list(self.recipes)
        for done in range(BLOCK, n, BLOCK) if racing else ():
            alive = [place for place, recipe in enumerate(recipes) if recipe.dropped_after is None]
            so_far = matrix.select(documents < done).take(alive)
            for name, why in plainly_behind(so_far, find_metric("mean"), recipes, racing or 0).items():
                place = names.index(name)
                recipes[place] = recipes[place].model_copy(update={"dropped_after": done, "dropped_why": why})
                asked[done:, place] = False
        record = SearchRecord(task="simulated", recipes=tuple(recipes))
        return Surface.of(record, replace(matrix, scores=np.where(asked, scores, scores[:, :1])), asked)


def merge(start_layer: int, lambda_lm: float, lambda_vlm: float) -> Recipe:
    fields = MergeRecipe(start_layer=start_layer, lambda_lm=lambda_lm, lambda_vlm=lambda_vlm)
    return Recipe(name=f"{start_layer}: {lambda_lm:g} {lambda_vlm:g}", kind="merge", fields=fields)


def cross_fitted(surface: Surface, plan: Plan, rng: np.random.Generator) -> CrossFit:
    """Cross-fit the pick and the base."""
    order = gentlest_first(surface.recipes, surface.columns("merge"))
    rules = {"pick": lambda values: best(values, order), "base": always(surface.base)}
    return cross_fit(surface.units, rules, plan, rng)


def one_search(world: World, n: int, racing: float | None, plan: Plan, draws: int, seed: list[int]):
    """Search once; return the numbers that rows are made of."""
    rng = np.random.default_rng(seed)
    surface = world.search(n, rng, racing)
    units, family = surface.units, surface.columns("merge", complete=False)
    order = gentlest_first(surface.recipes, surface.columns("merge"))
    pick = int(best(units.estimate()[None], order)[0])
    truth, gain = world.gains[pick], surface.gains[pick]
    band = simultaneous(units, surface.base, family, draws, rng)
    crossed = cross_fitted(surface, plan, rng)
    found = crossed.gain("pick", "base")
    shift = 0.0
    if racing:
        all_asked = world.search(n, np.random.default_rng(seed))
        shift = found.gain - cross_fitted(all_asked, replace(plan, halvings=0), rng).gain("pick", "base").gain
    contrasts = np.eye(len(world.recipes)) - np.eye(len(world.recipes))[[0]].T
    errors, _ = standard_errors(units, contrasts)
    shares = np.bincount(crossed.picks["pick"].ravel(), minlength=len(errors)) / crossed.picks["pick"].size
    return {
        "gain": truth,
        "naive": gain - truth,
        "error": found.gain - truth,
        "fold_error": found.gain - shares @ world.gains,
        "se": found.standard_error,
        "stitched_se": np.sqrt(shares @ errors**2),
        "held": found.ci_low <= truth <= found.ci_high,
        "simultaneous": abs(gain - truth) <= band.critical * band.errors[pick] + 1e-12,
        "ordinary": abs(gain - truth) <= 1.96 * band.errors[pick] + 1e-12,
        "any": any_better(units, surface.base, family, draws, rng) < 0.05,
        "cost": surface.asked.mean(),
        "shift": shift,
    }


def measure(kind: str, n: int, n_recipes: int, racing: float | None, arguments: argparse.Namespace) -> dict:
    """Search many times."""
    world, plan = World.of(kind, n_recipes), Plan(folds=arguments.folds, halvings=arguments.halvings)
    start = time.perf_counter()
    seeds = [[arguments.seed, WORLDS.index(kind), n, n_recipes, turn] for turn in range(arguments.searches)]
    rows = [one_search(world, n, racing, plan, arguments.draws, seed) for seed in seeds]
    table = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}
    spread = table["error"].std(ddof=1)
    drawn = np.random.default_rng(arguments.seed).integers(len(rows), size=(1000, len(rows)))
    of_gain = (table["error"] + table["gain"]).std(ddof=1)
    se = float(np.sqrt((table["se"] ** 2).mean()))
    return {
        "world": kind,
        "n": n,
        "recipes": n_recipes,
        "racing": racing,
        "searches": len(rows),
        "gain": 100 * table["gain"].mean(),
        "naive": 100 * table["naive"].mean(),
        "median_error": 100 * float(np.median(table["error"])),
        "median_monte_carlo": 100 * float(np.median(table["error"][drawn], axis=1).std()),
        "skewness": float(skew(table["error"])),
        "mean_error": 100 * table["error"].mean(),
        "mean_fold_error": 100 * table["fold_error"].mean(),
        "mean_shift": 100 * table["shift"].mean(),
        "shift_monte_carlo": 100 * table["shift"].std() / len(rows) ** 0.5,
        "monte_carlo": 100 * spread / len(rows) ** 0.5,
        "se_ratio": se / of_gain,
        "se_ratio_of_error": se / spread,
        "stitched_se_ratio": float(np.sqrt((table["stitched_se"] ** 2).mean())) / of_gain,
        **{name: table[name].mean() for name in ("held", "simultaneous", "ordinary", "any", "cost")},
        "seconds": round(time.perf_counter() - start, 1),
    }


def speed() -> dict[str, float]:
    """Analyse 1,500 documents x 256 recipes as a run would, answers and all; the limits are 60 s and 1 GB."""
    surface = World.of("few", 256).search(1500, np.random.default_rng(0))
    answers = np.where(surface.matrix.scores == 1, "A", "B").astype(object)
    surface = replace(surface, matrix=replace(surface.matrix, answers=answers))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    analyse(surface)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mb_before": before // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=1000, help="a row")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws and flips; 10,000 in use, fewer here")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--halvings", type=int, default=30, help="for the standard error; 100 in use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(WORLDS), help="worlds, separated by commas")
    parser.add_argument("--documents", default="300,1000")
    parser.add_argument("--recipes", default="26,256")
    parser.add_argument("--racing", type=float, metavar="Z", help="drop recipes Z standard errors behind the best")
    parser.add_argument("--speed", action="store_true", help="time one analysis instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.speed:
        print(json.dumps(speed(), indent=2))
        return
    found = []
    for n_recipes in map(int, arguments.recipes.split(",")):
        for n in map(int, arguments.documents.split(",")):
            for kind in arguments.only.split(","):
                row = measure(kind, n, n_recipes, arguments.racing, arguments)
                found.append(row)
                if not arguments.json:
                    print(
                        f"{kind:5} {n:5} documents {n_recipes:4} recipes  gain {row['gain']:.2f}"
                        f"  naive {row['naive']:+.2f}"
                        f"  error {row['median_error']:+.2f} ± {row['median_monte_carlo']:.2f},"
                        f" {row['mean_error']:+.2f} ± {row['monte_carlo']:.2f}, {row['mean_fold_error']:+.2f},"
                        f" skewness {row['skewness']:.2f}"
                        f"  SE {row['se_ratio']:.2f} {row['se_ratio_of_error']:.2f}"
                        f" ({row['stitched_se_ratio']:.2f})  held {row['held']:.3f}"
                        f" {row['simultaneous']:.3f} {row['ordinary']:.3f}  any {row['any']:.3f}"
                        f"  cost {row['cost']:.2f}"
                        f"  shift {row['mean_shift']:+.3f} ± {row['shift_monte_carlo']:.3f}  {row['seconds']} s",
                        flush=True,
                    )
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
