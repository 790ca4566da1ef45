"""The simulation of searches runs, its worlds are what it says, and a few searches aren't absurd."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "search_honesty.py"


@pytest.fixture(scope="module")
def honesty():
    spec = importlib.util.spec_from_file_location("search_honesty", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_simulated_recipes_gain_what_they_are_said_to_and_neighbours_flip_alike(honesty):
    rng = np.random.default_rng(0)
    for kind in honesty.WORLDS:
        world = honesty.World.of(kind, 26)
        scores = world.draw(40_000, rng)
        np.testing.assert_allclose(scores.mean(axis=0) - scores[:, 0].mean(), world.gains, atol=0.006)
    flips = scores - scores[:, :1]
    near, far = (np.corrcoef(flips[:, 4], flips[:, other])[0, 1] for other in (5, 26))
    assert near > far > 0.1


def test_racing_drops_recipes_and_asks_the_others_the_same(honesty):
    world = honesty.World.of("much", 26)
    all_asked = world.search(400, np.random.default_rng(1))
    raced = world.search(400, np.random.default_rng(1), racing=2.0)
    assert 0.2 < raced.asked.mean() < 0.95
    assert raced.asked[:, 0].all()
    np.testing.assert_array_equal(raced.matrix.scores[raced.asked], all_asked.matrix.scores[raced.asked])


def test_a_few_searches_where_nothing_helps_find_nothing(honesty):
    arguments = argparse.Namespace(searches=60, draws=300, halvings=20, folds=5, seed=0)
    row = honesty.measure("null", 300, 26, None, arguments)
    assert row["naive"] > 1.5
    assert abs(row["mean_error"]) < 4 * row["monte_carlo"]
    assert 0.75 < row["se_ratio"] < 1.3
    assert row["stitched_se_ratio"] < row["se_ratio"]
    assert row["simultaneous"] >= 0.9 > row["ordinary"]
    assert row["any"] <= 0.15
    raced = honesty.measure("null", 300, 26, 2.0, arguments)
    assert raced["cost"] < 1
    assert abs(raced["mean_error"] - row["mean_error"]) < 0.5
