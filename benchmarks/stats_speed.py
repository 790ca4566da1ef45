"""How long all inference on nine benchmarks takes, at their real sizes: 10,000 BCa draws, flips and all the rest.

python benchmarks/stats_speed.py                # two variants: the limit is 5 s on 2 cores
python benchmarks/stats_speed.py --variants 29  # a sweep: the limit is 60 s
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from itertools import repeat

import numpy as np

from lmms_plam.stats.comparison import Analysis
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.significance import max_t

MME_PAIRS = (30, 30, 30, 30, 147, 170, 200, 200, 200, 20, 70, 20, 20, 20)

BENCHMARKS = {
    # name: (metric, documents of each cluster as (size, how many), strata sizes in clusters)
    "mmstar": ("macro", [(1, 1500)], [84] * 6 + [83] * 12),
    "mme": ("mme", [(2, 1187)], MME_PAIRS),
    "mmmu_val": ("mean", [(1, 900)], [30] * 30),
    "mmbench_en_dev_static": ("all_right", [(4, 1000), (3, 1), (2, 163)], [58] * 19 + [62]),
    "realworldqa": ("mean", [(1, 765)], [765]),
    "pope": ("yes_f1", [(18, 500)], [500]),
    "gqa": ("mean", [(31, 174), (32, 224)], [398]),
    "textvqa_val": ("mean", [(1, 1700), (2, 1098), (3, 368)], [3166]),
    "scienceqa_img": ("mean", [(1, 2017)], [2017]),
}


def make(name: str, n_variants: int, rng: np.random.Generator) -> ScoreMatrix:
    """Draw answers of variants that disagree with the first on 2 to 8%."""
    _, sizes, strata = BENCHMARKS[name]
    by_cluster = np.concatenate([np.full(how_many, size) for size, how_many in sizes])
    cluster = np.repeat(np.arange(len(by_cluster)), by_cluster)
    stratum = np.repeat(np.arange(len(strata)), strata)[cluster]
    first = (rng.random(len(cluster)) < rng.beta(3, 1.5, len(by_cluster))[cluster])[:, None]
    flipped = rng.random((len(cluster), n_variants - 1)) < np.linspace(0.02, 0.08, n_variants - 1)
    scores = np.hstack([first, first ^ flipped]).astype(float)
    if name == "textvqa_val":
        scores *= rng.choice([0.3, 0.6, 0.9, 1.0], scores.shape, p=[0.1, 0.1, 0.1, 0.7])
    truth = (rng.random(len(cluster)) < 0.5)[:, None]
    answers = np.where((scores == 1) == truth, "yes", "no").astype(object)
    return ScoreMatrix(
        doc_ids=np.arange(len(cluster)),
        variants=tuple(map(str, range(n_variants))),
        scores=scores,
        answers=answers,
        clusters=cluster.astype(str),
        strata=stratum.astype(str),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=2)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    matrices = {name: make(name, arguments.variants, rng) for name in BENCHMARKS}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = {}
    for name, matrix in matrices.items():
        start = time.perf_counter()
        analysis = Analysis.of(matrix, find_metric(BENCHMARKS[name][0]))
        for first, other in zip(repeat(matrix.variants[0]), matrix.variants[1:], strict=False):
            analysis.compare(first, other)
        if arguments.variants > 2:
            max_t(analysis.units, 0, analysis.settings.draws, np.random.default_rng(1))
        seconds[name] = round(time.perf_counter() - start, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "variants": arguments.variants,
                "seconds": seconds,
                "total_seconds": round(sum(seconds.values()), 2),
                "cpu_seconds": round(time.process_time(), 2),
                "peak_mb": peak // 1024,
                "peak_mb_before": before // 1024,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
