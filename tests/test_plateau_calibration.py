"""The calibration script runs, and what it measures is in the range that it is meant to show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from test_plateau import matrix_of

from lmms_plam.probes.curve import masking_curve
from lmms_plam.stats.metrics import find_metric

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "plateau_calibration.py"


@pytest.fixture(scope="module")
def calibration():
    spec = importlib.util.spec_from_file_location("plateau_calibration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_simulated_documents_have_the_true_curve_and_flip_in_runs(calibration):
    truth = np.linspace(0.2, 0.8, 29)
    for noise in calibration.NOISES.values():
        scores = calibration.simulate(truth, 20_000, noise, np.random.default_rng(0))
        np.testing.assert_allclose(scores.mean(axis=0), truth, atol=0.03)
        near, far = (np.corrcoef(scores[:, 14], scores[:, cut])[0, 1] for cut in (15, 24))
        assert near > far > 0.5


def test_its_fast_bootstrap_has_the_spread_of_the_real_one(calibration):
    noise = calibration.NOISES["clustered"]
    scores = calibration.simulate(np.linspace(0.2, 0.8, 29), 600, noise, np.random.default_rng(0))
    resampling = np.random.default_rng(1).multinomial(120, np.full(120, 1 / 120), size=4000) / 120
    fast = calibration.bootstrapped(scores, noise.cluster_size, resampling)
    real = masking_curve(matrix_of(scores, clusters=np.arange(600) // 5), find_metric("mean"), draws=4000)
    alone = masking_curve(matrix_of(scores), find_metric("mean"), draws=4000)
    np.testing.assert_allclose(fast.scores, real.scores)
    np.testing.assert_allclose(fast.draws.std(axis=0), real.draws.std(axis=0), rtol=0.07)
    assert real.draws.std(axis=0).mean() > 1.2 * alone.draws.std(axis=0).mean()  # luck shared in clusters counts


def test_intervals_cover_and_a_flat_curve_has_no_plateau(calibration):
    noise = calibration.NOISES["calm"]
    rising = calibration.measure("rounded rise", 300, noise, repetitions=40, draws=200, seed=1)
    flat = calibration.measure("none: flat", 300, noise, repetitions=20, draws=200, seed=1)
    assert rising["mid-p"] >= 0.75
    assert rising["percentile"] >= rising["mid-p"]
    assert flat["no plateau"] >= 0.85
