"""The plateau onset: every part against an independent computation, and the verdicts on curves of known shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression

from lmms_plam.errors import ConfigError, DataError
from lmms_plam.probes.curve import MaskingCurve, masking_curve, pool_curves
from lmms_plam.probes.estimate import mid_p_interval
from lmms_plam.probes.isotonic import isotonic_fit
from lmms_plam.probes.late import late_contrast
from lmms_plam.probes.onset import OnsetRule, onset_index, takeoff_index
from lmms_plam.probes.plateau import find_plateau
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

CUTS = np.arange(29)
MEAN = find_metric("mean")
CURVES = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(5, 30)), elements=st.floats(0, 1, width=32))


def ramp(start, end, low=0.3, high=0.6, cuts=CUTS):
    return low + (high - low) * np.clip((cuts - start) / (end - start), 0, 1)


def matrix_of(scores, cuts=CUTS, clusters=None, strata=None):
    n = len(scores)
    return ScoreMatrix(
        doc_ids=np.arange(n),
        variants=tuple(str(cut) for cut in cuts),
        scores=np.asarray(scores, dtype=float),
        answers=np.full(scores.shape, "", dtype=object),
        clusters=np.arange(n).astype(str) if clusters is None else np.asarray(clusters, dtype=str),
        strata=np.full(n, "") if strata is None else np.asarray(strata, dtype=str),
    )


def documents(curve, n, seed=0, flips=0.05):
    """0/1 scores whose expectation is the curve at every cut, most of each document's luck shared by all cuts."""
    rng = np.random.default_rng(seed)
    luck = rng.standard_normal((n, 1)) * np.sqrt(1 - flips) + rng.standard_normal((n, len(curve))) * np.sqrt(flips)
    return (luck < scipy.stats.norm.ppf(curve)).astype(float)


def plateau_of(curve, n=1500, seed=0, rule=None):
    cuts = np.arange(len(curve))
    return find_plateau(masking_curve(matrix_of(documents(curve, n, seed), cuts), MEAN, draws=1000), rule)


@given(CURVES)
def test_isotonic_fit_is_scikit_learns(curves):
    for curve, fit in zip(curves, isotonic_fit(curves), strict=True):
        np.testing.assert_allclose(fit, IsotonicRegression().fit_transform(np.arange(len(curve)), curve), atol=1e-9)


@given(CURVES, st.sampled_from([0.0, 1.0, 3.0]), st.sampled_from([0.0, 0.05, 0.2]))
def test_default_rule_reads_as_it_is_stated(curves, tolerance, share):
    cuts = np.arange(curves.shape[1])
    found = onset_index(curves, cuts, OnsetRule(tolerance=tolerance, share=share))
    for curve, index in zip(curves, found, strict=True):
        fit = IsotonicRegression().fit_transform(cuts, curve)
        top = fit[-4:].mean()
        margin = max(tolerance / 100, share * (top - fit[0]))
        distance = fit - (top - margin)
        if np.abs(distance).min() > 1e-9:  # else rounding decides
            assert index == np.flatnonzero(distance >= 0)[0]


@settings(max_examples=25)
@given(CURVES)
def test_segments_rule_is_the_least_squares_fit_of_flat_ramp_flat(curves):
    cuts = np.arange(curves.shape[1])
    for curve, index in zip(curves, onset_index(curves, cuts, OnsetRule("segments")), strict=True):
        errors = {}
        for start in cuts:
            for end in cuts[start + 1 :]:
                design = np.column_stack([np.ones(len(cuts)), np.clip((cuts - start) / (end - start), 0, 1)])
                solution = np.linalg.lstsq(design, curve, rcond=None)[0]
                if solution[1] >= -1e-12:
                    errors[start, end] = np.sum((curve - design @ solution) ** 2)
        if errors and np.ptp(curve) > 0:
            reached = min(error for (_, end), error in errors.items() if end == index)
            assert reached == pytest.approx(min(errors.values()), abs=1e-9)


def test_kneedle_rule_is_the_highest_point_above_the_diagonal():
    assert onset_index(ramp(0, 18), CUTS, OnsetRule("kneedle")) == 18
    assert onset_index(ramp(6, 18), CUTS, OnsetRule("kneedle")) == 18


def test_all_rules_find_a_clean_corner_also_on_few_cuts():
    sparse = np.array([0, 4, 8, 12, 16, 17, 18, 19, 20, 24, 28])
    for method in ("isotonic", "segments", "kneedle"):
        index = onset_index(ramp(8, 18, cuts=sparse), sparse, OnsetRule(method))
        assert sparse[index] == 18, method


@given(CURVES)
def test_takeoff_of_a_curve_is_the_onset_of_the_curve_turned_around(curves):
    cuts = np.arange(curves.shape[1])
    turned = 1 - curves[:, ::-1]
    np.testing.assert_array_equal(
        takeoff_index(curves, cuts, OnsetRule()), cuts[-1] - onset_index(turned, cuts, OnsetRule())
    )


def test_bootstrap_has_the_spread_that_scipy_gives_and_keeps_cuts_paired():
    scores = documents(ramp(8, 18), 300)
    curve = masking_curve(matrix_of(scores), MEAN, draws=4000)
    np.testing.assert_array_equal(curve.scores, scores.mean(axis=0))
    for values, drawn in (
        (scores[:, 20], curve.draws[:, 20]),
        (scores[:, 20] - scores[:, 28], curve.draws[:, 20] - curve.draws[:, 28]),
    ):
        oracle = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, rng=np.random.default_rng(1))
        assert drawn.std(ddof=1) == pytest.approx(oracle.standard_error, rel=0.07)


def test_documents_of_one_cluster_count_once():
    scores = documents(ramp(8, 18), 200)
    once = masking_curve(matrix_of(scores), MEAN, draws=4000)
    thrice = masking_curve(matrix_of(np.repeat(scores, 3, axis=0), clusters=np.arange(600) // 3), MEAN, draws=4000)
    assert thrice.n_clusters == 200
    np.testing.assert_allclose(thrice.draws.std(axis=0), once.draws.std(axis=0), rtol=0.07)


def test_a_benchmark_is_read_in_its_own_metric():
    scores = documents(ramp(8, 18), 120)
    strata = np.repeat(["a", "b"], [90, 30])
    curve = masking_curve(matrix_of(scores, strata=strata), find_metric("macro"))
    np.testing.assert_allclose(curve.scores, (scores[:90].mean(axis=0) + scores[90:].mean(axis=0)) / 2)
    pairs = masking_curve(matrix_of(scores, clusters=np.arange(120) // 2, strata=strata), find_metric("mme"), draws=10)
    assert (curve.perfect, pairs.perfect) == (1.0, 400.0)


def test_a_benchmark_that_no_answer_could_win_has_a_flat_curve():
    wrong = np.zeros((50, 29))
    matrix = replace(matrix_of(wrong), answers=np.full(wrong.shape, "no", dtype=object))
    curve = masking_curve(matrix, find_metric("yes_f1"), draws=100)
    assert curve.perfect == 1.0
    assert find_plateau(curve).verdict == "no plateau"


def test_variants_are_cuts_whatever_their_order():
    scores = documents(ramp(8, 18), 100)
    order = np.argsort([str(cut) for cut in CUTS])
    shuffled = masking_curve(matrix_of(scores[:, order], CUTS[order]), MEAN, draws=10)
    np.testing.assert_array_equal(shuffled.scores, scores.mean(axis=0))


def test_interval_counts_half_of_the_end_points():
    assert mid_p_interval(np.array([0.0, 0.08, 0.92, 0.0]), 0.9) == (2, 2)
    assert mid_p_interval(np.array([0.0, 0.12, 0.88, 0.0]), 0.9) == (1, 2)
    assert mid_p_interval(np.array([0.2, 0.6, 0.2]), 0.9) == (0, 2)


@given(hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 50)), st.sampled_from([0.5, 0.8, 0.9, 0.99]))
def test_interval_holds_a_median_and_its_level_less_half_an_end(counts, level):
    if counts.sum() == 0:
        return
    shares = counts / counts.sum()
    low, high = mid_p_interval(shares, level)
    inside = shares[low : high + 1].sum()
    assert inside + 1e-9 >= 2 * level - 1
    assert shares[:low].sum() <= 0.5 + 1e-9
    assert shares[high + 1 :].sum() <= 0.5 + 1e-9


def test_a_clear_plateau_is_found_with_its_stages():
    found = plateau_of(ramp(8, 18))
    assert found.verdict == "plateau"
    assert found.estimate.interval[0] <= 18 <= found.estimate.interval[1]
    assert found.estimate.interval[1] - found.estimate.interval[0] <= 2
    assert found.rise == pytest.approx(0.3, abs=0.03)
    assert [stage.name for stage in found.stages] == ["separation", "alignment", "degradation"]
    assert found.stages[0].first == 0
    assert found.stages[-1].end == 28
    assert all(one.end == other.first for one, other in zip(found.stages, found.stages[1:], strict=False))
    assert abs(found.stages[0].end - 8) <= 1
    assert set(found.cross_checks) == {"segments", "kneedle"}
    assert sum(found.estimate.probability.values()) == pytest.approx(1)


def test_a_rise_from_the_first_layer_has_no_separation():
    assert [stage.name for stage in plateau_of(ramp(0, 16)).stages] == ["alignment", "degradation"]


@pytest.mark.parametrize(
    ("curve", "why"),
    [
        (np.full(29, 0.4), "no rise beyond noise"),
        (ramp(0, 28), "may rise to its end"),
        (ramp(22, 28), "may rise to its end"),
        (ramp(8, 18, low=0.6, high=0.3), "no rise beyond noise"),
    ],
)
def test_no_plateau_is_a_result(curve, why):
    found = plateau_of(curve)
    assert (found.verdict, found.onset, found.stages) == ("no plateau", None, ())
    assert why in found.reason


def test_a_score_that_never_changes_is_no_plateau():
    scores = np.repeat(np.arange(40)[:, None] % 2, 29, axis=1)
    found = find_plateau(masking_curve(matrix_of(scores), MEAN, draws=100))
    assert found.verdict == "no plateau"
    assert found.late is None


def test_late_layers_that_lose_by_the_image_are_a_late_decline():
    found = plateau_of(ramp(8, 18) - 0.05 * np.clip((CUTS - 22) / 6, 0, 1))
    assert found.verdict == "late decline"
    assert found.onset is not None
    assert found.late.difference > 0.02
    assert found.late.p_decline < 0.01 < found.late.p_review


def test_a_dip_that_late_layers_mend_is_a_late_review():
    dip = np.where((CUTS >= 22) & (CUTS <= 24), 0.03, 0)
    found = plateau_of(ramp(8, 18) - dip)
    assert found.verdict == "late review"
    assert found.late.difference < -0.01
    assert 22 <= found.late.cut <= 24


def test_late_contrast_is_the_max_t_of_its_definition():
    curve = masking_curve(matrix_of(documents(ramp(8, 18), 400)), MEAN, draws=500)
    found = late_contrast(curve, 18)
    t, largest = [], np.zeros((2, 500))
    for cut in range(18, 28):
        difference = curve.scores[cut] - curve.scores[28]
        drawn = curve.draws[:, cut] - curve.draws[:, 28] - difference
        error = drawn.std(ddof=1)
        t.append(difference / error)
        largest = np.maximum(largest, [np.abs(drawn / error), drawn / error])
    assert found.cut == 18 + int(np.argmax(np.abs(t)))
    assert found.p_two_sided == pytest.approx((1 + np.sum(largest[0] >= np.max(np.abs(t)))) / 501)
    assert found.p_decline == pytest.approx((1 + np.sum(largest[1] >= np.max(t))) / 501)


def test_pooled_curve_weighs_benchmarks_alike_whatever_their_scale():
    wide, narrow = ramp(8, 18, 0.2, 0.8), ramp(8, 14, 0.3, 0.5)
    curves = [
        (str(high), masking_curve(matrix_of(documents(truth, 1500, seed)), MEAN, draws=1000))
        for seed, (high, truth) in enumerate([(0.8, wide), (0.5, narrow)])
    ]
    pooled = pool_curves(curves)
    expected = ((wide - 0.2) / 0.6 + (narrow - 0.3) / 0.2) / 2
    np.testing.assert_allclose(pooled.scores, expected, atol=0.08)
    rule = OnsetRule(tolerance=0)
    assert CUTS[onset_index(expected, CUTS, rule)] in range(16, 19)
    low, high = find_plateau(pooled, rule).estimate.interval
    assert low - 1 <= CUTS[onset_index(expected, CUTS, rule)] <= high + 1


def test_pooling_draws_benchmarks_apart():
    """Two copies of one benchmark, same seed: independent draws make the mean's variance half of the one's."""
    curve = masking_curve(matrix_of(documents(ramp(8, 18), 500)), MEAN, draws=4000)
    alone, both = (pool_curves([("task", curve)] * count).draws[:, 13].std() for count in (1, 2))
    assert both == pytest.approx(alone / np.sqrt(2), rel=0.07)


def test_curves_that_cannot_be_pooled_are_named():
    rising = masking_curve(matrix_of(documents(ramp(8, 18), 300)), MEAN, draws=50)
    flat = masking_curve(matrix_of(documents(np.full(29, 0.4), 300)), MEAN, draws=50)
    shallow = masking_curve(matrix_of(documents(ramp(3, 7, cuts=np.arange(13)), 300), range(13)), MEAN, draws=50)
    with pytest.raises(DataError, match="flat_task doesn't rise"):
        pool_curves([("task", rising), ("flat_task", flat)])
    with pytest.raises(DataError, match="differ in their cuts"):
        pool_curves([("task", rising), ("shallow", shallow)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": range(4)}, "can't be told from 4 points"),
        ({"cuts": range(1, 30)}, "cut 0, where no layer sees the image, is missing"),
        ({"cuts": ["base", *range(28)]}, "cuts are mixed with other variants"),
        ({"cuts": [f"merge{cut}" for cut in range(29)]}, "no masking probe's matrix"),
        ({"clusters": np.zeros(50)}, "one cluster"),
        ({"scale": 5}, "say what a perfect answer scores"),
        ({"perfect_answer": float("nan")}, "say what a perfect answer scores"),
        ({"metric": "yes_f1"}, "has no document to count"),
        ({"draws": 1}, "1 bootstrap draws are too few"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    cuts = list(change.get("cuts", CUTS))
    scores = documents(ramp(8, 18), 50)[:, : len(cuts)] * change.get("scale", 1)
    with pytest.raises(DataError, match=message):
        masking_curve(
            matrix_of(scores, cuts, change.get("clusters")),
            find_metric(change.get("metric", "mean")),
            perfect_answer=change.get("perfect_answer", 1.0),
            draws=change.get("draws", 10),
        )


def test_unknown_rules_and_tolerances_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'kneedle'"):
        OnsetRule("kneedl")
    with pytest.raises(ConfigError, match="tolerance >= 0"):
        OnsetRule(tolerance=-1)
    curve = masking_curve(matrix_of(documents(ramp(8, 18), 50)), MEAN, draws=10)
    with pytest.raises(ConfigError, match="leaves no rise"):
        find_plateau(curve, OnsetRule(top_points=29))
    with pytest.raises(ConfigError, match=r"between 0\.5 and 1"):
        find_plateau(curve, level=90)


def test_the_draws_depend_on_the_seed_alone():
    matrix = matrix_of(documents(ramp(8, 18), 100))
    one, same, other = (masking_curve(matrix, MEAN, draws=50, seed=seed).draws for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert isinstance(masking_curve(matrix, MEAN, draws=5), MaskingCurve)
