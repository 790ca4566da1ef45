"""The calibration script runs, and what it measures is in the range that it is meant to show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

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
        scores = calibration.simulate(truth, 20_000, noise, np.random.default_rng(0)).scores
        np.testing.assert_allclose(scores.mean(axis=0), truth, atol=0.03)
        near, far = (np.corrcoef(scores[:, 14], scores[:, cut])[0, 1] for cut in (15, 24))
        assert near > far > 0.5


def test_clusters_share_their_luck(calibration):
    noise = calibration.NOISES["clustered"]
    matrix = calibration.simulate(np.full(29, 0.5), 20_000, noise, np.random.default_rng(0))
    by_cluster = matrix.scores[:, 14].reshape(-1, noise.cluster_size)
    assert np.corrcoef(by_cluster[:, 0], by_cluster[:, 1])[0, 1] > 0.1
    assert len(set(matrix.clusters)) == 4000


def test_intervals_cover_and_a_flat_curve_has_no_plateau(calibration):
    noise = calibration.NOISES["calm"]
    rising = calibration.measure("rounded rise", 300, noise, repetitions=40, draws=200, seed=1)
    flat = calibration.measure("none: flat", 300, noise, repetitions=20, draws=200, seed=1)
    assert rising["mid-p"] >= 0.75
    assert rising["percentile"] >= rising["mid-p"]
    assert flat["no plateau"] >= 0.85
