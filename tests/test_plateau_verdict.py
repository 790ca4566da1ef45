"""What decides a verdict, threshold by threshold, on curves whose draws are written down."""

from __future__ import annotations

import numpy as np
import pytest

from lmms_plam.probes import plateau
from lmms_plam.probes.curve import MaskingCurve
from lmms_plam.probes.late import LateContrast
from lmms_plam.probes.onset import OnsetRule
from lmms_plam.probes.plateau import find_plateau

CUTS = np.arange(9)


def curve_of(scores, draws):
    return MaskingCurve(CUTS, np.asarray(scores, float), np.asarray(draws, float), 1.0, 100, 100, 0)


def step(at, height=1.0):
    """A curve that rises at one cut."""
    return np.where(at <= CUTS, height, 0.0)


@pytest.mark.parametrize(("errors", "verdict"), [(1.99, "no plateau"), (2.0, "no plateau"), (2.01, "plateau")])
def test_a_rise_counts_from_twice_its_standard_error_on(errors, verdict):
    half = 0.1
    error = half * np.sqrt(100 / 99)  # of draws half of which are so much higher, half so much lower
    rise = errors * error - (1e-12 if errors == 2 else 0)
    draws = [step(1, rise + sign * half) for sign in (-1, 1) * 50]
    found = find_plateau(curve_of(step(1, rise), draws))
    assert found.rise_error == pytest.approx(error)
    assert found.verdict == verdict
    assert ("no rise beyond noise" in found.reason) == (verdict == "no plateau")


@pytest.mark.parametrize(("late", "verdict"), [(10, "plateau"), (11, "no plateau")])
@pytest.mark.parametrize(("top_points", "end"), [(4, 6), (3, 7), (1, 7)])
def test_a_curve_may_rise_to_its_end_from_a_tenth_of_the_draws_on(late, verdict, top_points, end):
    """The end are the last points that make the top but their first, two at least."""
    for at in (end, 8):
        draws = [step(2)] * (100 - late) + [step(at)] * late
        assert find_plateau(curve_of(step(2), draws), OnsetRule(top_points=top_points)).verdict == verdict
    draws = [step(2)] * (100 - late) + [step(end - 1)] * late
    assert find_plateau(curve_of(step(2), draws), OnsetRule(top_points=top_points)).verdict == "plateau"


@pytest.mark.parametrize(("early", "separated"), [(10, True), (11, False)])
def test_separation_is_a_stage_up_to_a_tenth_of_the_draws_without_it(early, separated):
    draws = [step(5)] * (100 - early) + [step(1)] * early
    stages = [stage.name for stage in find_plateau(curve_of(step(5), draws)).stages]
    assert ("separation" in stages) == separated


@pytest.mark.parametrize(
    ("p", "difference", "verdict"),
    [(0.05, 0.02, "late decline"), (0.05, -0.02, "late review"), (0.0501, 0.02, "plateau")],
)
def test_a_late_contrast_counts_up_to_a_p_value_of_a_twentieth(monkeypatch, p, difference, verdict):
    monkeypatch.setattr(plateau, "late_contrast", lambda *_: LateContrast(4, difference, p, p, p))
    assert find_plateau(curve_of(step(2), [step(2)] * 100)).verdict == verdict
