"""Every statistic against an independent oracle: scipy, statsmodels, a closed form or a count by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests

from lmms_plam.errors import DataError
from lmms_plam.stats.bootstrap import acceleration, bootstrap, interval
from lmms_plam.stats.collapse import collapse
from lmms_plam.stats.comparison import Analysis, Settings
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric, register
from lmms_plam.stats.multiplicity import benjamini_hochberg, holm
from lmms_plam.stats.ranks import rank_intervals
from lmms_plam.stats.significance import max_t, mcnemar, sign_flip
from lmms_plam.stats.spread import minimum_detectable_effect, spread
from lmms_plam.stats.strata import by_stratum
from lmms_plam.stats.units import Units


def make_matrix(scores, clusters=None, strata=None, answers=None, **columns) -> ScoreMatrix:
    scores = np.asarray(scores, dtype=float)
    n = len(scores)
    return ScoreMatrix(
        doc_ids=np.arange(n),
        variants=tuple("abcdefgh"[: scores.shape[1]]),
        scores=scores,
        answers=np.full(scores.shape, "", dtype=object) if answers is None else np.asarray(answers, dtype=object),
        clusters=np.arange(n).astype(str) if clusters is None else np.asarray(clusters).astype(str),
        strata=np.full(n, "") if strata is None else np.asarray(strata).astype(str),
        columns={name: np.asarray(values).astype(str) for name, values in columns.items()},
    )


def answers_of_two(rng, n, accuracy=0.6, discordance=0.05):
    first = (rng.random(n) < accuracy).astype(float)
    return np.column_stack([first, np.where(rng.random(n) < discordance, 1 - first, first)])


MEAN, MACRO = find_metric("mean"), find_metric("macro")
GAIN = np.array([-1.0, 1.0])


def near(theirs, width=0.01):
    """Compare interval ends; between draws, scipy's quantiles lie elsewhere than those of the mid-distribution."""
    low, high = theirs.confidence_interval
    return pytest.approx((low, high), abs=width * (high - low))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# The bootstrap


def test_bca_interval_is_scipys_on_scipys_own_draws(rng):
    scores = np.column_stack([np.zeros(800), rng.gamma(1.0, size=800)])
    units = Units.of(make_matrix(scores), MEAN)
    theirs = stats.bootstrap(
        (scores[:, 0], scores[:, 1]),
        lambda a, b, axis=-1: (b - a).mean(axis=axis),
        paired=True,
        method="BCa",
        random_state=1,
    )
    ours = interval(theirs.bootstrap_distribution, units, GAIN)
    assert ours.method == "BCa bootstrap"
    assert (ours.low, ours.high) == near(theirs)
    percentile = np.quantile(theirs.bootstrap_distribution, [0.025, 0.975])
    assert tuple(percentile) != near(theirs)  # so that the correction is what is tested


def test_our_draws_have_the_distribution_of_scipys(rng):
    scores = answers_of_two(rng, 400)
    theirs = stats.bootstrap(
        (scores[:, 0], scores[:, 1]),
        lambda a, b, axis=-1: (b - a).mean(axis=axis),
        paired=True,
        method="BCa",
        random_state=1,
    )
    found = Analysis.of(make_matrix(scores), MEAN).compare("a", "b").difference
    assert (found.ci_low, found.ci_high) == near(theirs, 0.1)
    drawn = bootstrap(Units.of(make_matrix(scores), MEAN), 20_000, rng) @ GAIN
    assert drawn.std() == pytest.approx(theirs.standard_error, rel=0.03)


def test_equal_rows_drawn_together_are_the_naive_bootstrap_of_clusters(rng):
    clusters, strata = np.repeat(np.arange(60), 3), np.repeat([0, 1, 2], 60)
    scores = rng.integers(0, 2, (180, 2))
    units = Units.of(make_matrix(scores, clusters, strata), MACRO)
    assert len(units.count) < units.n_clusters == 60
    drawn = bootstrap(units, 40_000, rng)
    by_cluster = scores.reshape(60, 3, 2).mean(axis=1)
    picks = np.concatenate([rng.integers(20 * s, 20 * s + 20, (40_000, 20)) for s in range(3)], axis=1)
    naive = by_cluster[picks].mean(axis=1)
    assert drawn.mean(axis=0) == pytest.approx(naive.mean(axis=0), abs=0.002)
    assert np.cov(drawn.T) == pytest.approx(np.cov(naive.T), rel=0.03, abs=1e-5)


def test_draws_are_the_same_for_the_same_seed_and_paired_across_variants(rng):
    scores = answers_of_two(rng, 200)
    twice = [Analysis.of(make_matrix(scores), MEAN, Settings(seed=3)).compare("a", "b") for _ in range(2)]
    assert twice[0] == twice[1]
    same = Analysis.of(make_matrix(scores[:, [0, 0]]), MEAN)
    assert (same.drawn[:, 0] == same.drawn[:, 1]).all()


def test_acceleration_of_strata_is_scipys_for_two_samples(rng):
    """With two strata the sum metric is the sum of two means, which scipy knows as a two-sample statistic."""
    one, two = rng.gamma(1.0, size=700), rng.gamma(0.5, size=300)
    matrix = make_matrix(np.concatenate([one, two])[:, None] @ np.ones((1, 2)), strata=np.repeat([0, 1], [700, 300]))
    units = Units.of(matrix, register_sum())
    theirs = stats.bootstrap(
        (one, two),
        lambda x, y, axis=-1: x.mean(axis=axis) + y.mean(axis=axis),
        method="BCa",
        random_state=2,
    )
    ours = interval(theirs.bootstrap_distribution, units, np.array([1.0, 0.0]))
    assert ours.method == "BCa bootstrap"
    assert (ours.low, ours.high) == near(theirs)


def register_sum():
    register("test_sum", estimand="sum over strata of means", pooling="sum")(MEAN.credit)
    return find_metric("test_sum")


def test_few_differing_documents_take_percentiles_widened_to_a_t_interval(rng):
    """Hesterberg's expanded percentile interval; for a mean over one stratum the factor is root n / (n - 1).

    Of 18 documents that differ the variance is as uncertain as of 36 normal ones; one more gain and loss are known.
    """
    scores = np.repeat([[0, 1], [1, 0], [1, 1]], [12, 6, 482], axis=0)
    units = Units.of(make_matrix(scores), MEAN)
    assert spread(units, GAIN).effective == pytest.approx(18, rel=0.02)
    drawn = rng.normal(scale=np.sqrt(18) / 500, size=400_000)
    ours = interval(drawn, units, GAIN)
    gap = scores[:, 1] - scores[:, 0]
    freedom = 2 * 500 * gap.var(ddof=1) ** 2 / (((gap - gap.mean()) ** 4).mean() - gap.var() ** 2)
    assert freedom == pytest.approx(2 * 18, rel=0.1)
    plain = 500 * gap.var() + 1
    pseudo = 2 * plain / 19  # of the 18 documents and the one that stands for them
    known = (500 * gap.var() * 500 / 499 + pseudo) / (500 * gap.var() * 500 / 499)
    reach = stats.t.ppf(0.975, freedom * known**2) * np.sqrt(known * 500 / 499) * 500 * gap.std() / 500
    assert ours.method == "percentile bootstrap"
    assert (ours.low, ours.high) == pytest.approx((-reach / np.sqrt(500), reach / np.sqrt(500)), rel=0.02)


def test_ties_count_half_in_quantiles(rng):
    drawn = np.repeat([0.0, 1.0], [600, 400])
    ours = interval(drawn, Units.of(make_matrix(np.eye(2)), MEAN), GAIN, level=0.2)
    assert 0 < ours.low < ours.high < 1


# Standard errors


def test_standard_error_without_clusters_is_that_of_paired_differences(rng):
    scores = answers_of_two(rng, 500)
    gap = scores[:, 1] - scores[:, 0]
    ours = spread(Units.of(make_matrix(scores), MEAN), GAIN)
    assert ours.error == pytest.approx(gap.std(ddof=1) / np.sqrt(500), rel=1e-12)


def test_clustered_standard_error_is_statsmodels_cr1(rng):
    clusters = rng.integers(0, 40, 600)
    scores = answers_of_two(rng, 600, discordance=0.3)
    gap = scores[:, 1] - scores[:, 0]
    fit = sm.OLS(gap, np.ones(600)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    ours = spread(Units.of(make_matrix(scores, clusters), MEAN), GAIN).error
    assert ours == pytest.approx(fit.bse[0], rel=1e-12)


def test_stratified_standard_error_is_the_textbook_one(rng):
    strata = np.repeat(np.arange(5), [20, 30, 40, 50, 60])
    scores = rng.uniform(size=(200, 1))  # of short tails, so that Welch's degrees of freedom are the fewer
    variances = np.array([scores[strata == s, 0].var(ddof=1) / n for s, n in enumerate([20, 30, 40, 50, 60])])
    ours = spread(Units.of(make_matrix(scores, strata=strata), MACRO), np.ones(1))
    assert ours.error == pytest.approx(np.sqrt(variances.sum()) / 5)
    assert ours.freedom == pytest.approx(variances.sum() ** 2 / (variances**2 / [19, 29, 39, 49, 59]).sum())


def test_linearised_error_of_a_ratio_agrees_with_the_bootstrap(rng):
    yes = rng.random((3000, 2)) < 0.5
    scores = rng.random((3000, 2)) < 0.85
    answers = np.where(yes, "yes", "no")
    units = Units.of(make_matrix(scores, np.repeat(np.arange(500), 6), answers=answers), find_metric("yes_f1"))
    drawn = bootstrap(units, 10_000, rng) @ GAIN
    assert spread(units, GAIN).error == pytest.approx(drawn.std(), rel=0.03)


def test_detectable_effect_is_found_four_times_in_five():
    effect = minimum_detectable_effect(1.0)
    assert effect == pytest.approx(2.80, abs=0.002)
    assert stats.norm.sf(1.96 - effect) == pytest.approx(0.8, abs=1e-3)


# P-values


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (3, 9), (30, 18), (60, 60)])
def test_sign_flips_of_plain_answers_are_mcnemars_mid_p(gained, lost, rng):
    scores = np.repeat([[0, 1], [1, 0], [1, 1]], [gained, lost, 50], axis=0)
    units = Units.of(make_matrix(scores), MEAN)
    midp = mcnemar(units, 0, 1)
    n, k = gained + lost, min(gained, lost)
    exact = sm_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue
    assert midp == pytest.approx(1.0 if gained == lost else exact - stats.binom.pmf(k, n, 0.5), abs=1e-12)
    assert sign_flip(units, 0, 1, 100_000, rng) == pytest.approx(midp, abs=0.005 if n > 16 else 1e-12)


def test_few_clusters_are_enumerated(rng):
    clusters = np.repeat(np.arange(8), 4)
    scores = rng.integers(0, 2, (32, 2))
    gaps = (scores[:, 1] - scores[:, 0]).reshape(8, 4).sum(axis=1)
    null = np.abs([np.dot(signs, gaps) for signs in itertools.product([-1, 1], repeat=8)])
    seen = abs(gaps.sum())
    by_hand = np.mean(null > seen) + np.mean(null == seen) / 2 if seen else 1.0
    assert sign_flip(Units.of(make_matrix(scores, clusters), MEAN), 0, 1, 10_000, rng) == pytest.approx(by_hand)


def test_sign_flips_of_a_ratio_swap_whole_clusters(rng):
    clusters = np.repeat(np.arange(7), 6)
    answers = rng.choice(["yes", "no"], (42, 2))
    scores = rng.integers(0, 2, (42, 2)).astype(float)
    metric = find_metric("yes_f1")

    def f1(columns):
        picked = np.take_along_axis(scores, columns, axis=1)[:, 0], np.take_along_axis(answers, columns, axis=1)[:, 0]
        right, yes = picked[0] == 1, picked[1] == "yes"
        true = (yes & right).sum()
        return 2 * true / (2 * true + (yes & ~right).sum() + (~yes & ~right).sum())

    gaps = []
    for labels in itertools.product([0, 1], repeat=7):
        label = np.repeat(labels, 6)[:, None]
        gaps.append(f1(1 - label) - f1(label))
    null, seen = np.abs(gaps), abs(gaps[0])
    by_hand = np.mean(null > seen + 1e-12) + np.mean(np.abs(null - seen) <= 1e-12) / 2
    units = Units.of(make_matrix(scores, clusters, answers=answers), metric)
    assert sign_flip(units, 0, 1, 10_000, rng) == pytest.approx(by_hand)


def test_max_t_controls_looking_at_many_variants(rng):
    scores = (rng.random((400, 1)) < 0.6).astype(float)
    variants = np.where(rng.random((400, 7)) < 0.1, 1 - scores, scores)
    units = Units.of(make_matrix(np.hstack([scores, variants])), MEAN)
    adjusted = max_t(units, 0, 20_000, rng)
    raw = np.array([1.0, *(sign_flip(units, 0, place, 20_000, rng) for place in range(1, 8))])
    assert adjusted[0] == 1
    assert (adjusted[1:] >= raw[1:] - 0.01).all()
    assert (adjusted <= np.minimum(1, 7 * raw) + 0.02).all()  # never beyond Bonferroni
    better, worse = (max_t(units, 0, 20_000, rng, alternative) for alternative in ("greater", "less"))
    gained = units.estimate() > units.estimate()[0]
    assert (better[gained] <= adjusted[gained] + 0.01).all()
    assert (np.minimum(better, worse) * 2 <= adjusted + 0.05).any()
    assert (better[~gained] == 1).all()
    one = max_t(Units.of(make_matrix(np.hstack([scores, variants[:, :1]])), MEAN), 0, 20_000, rng)
    assert one[1] == pytest.approx(raw[1], abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 9, 256])
def test_adjusted_p_values_are_statsmodels(n, rng):
    for p_values in (rng.random(n), rng.random(n) ** 6, rng.choice([0.0, 0.01, 0.2, 1.0], n)):
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
        assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])
    assert holm([]).size == 0


# Ranks


def test_ranks_are_certain_where_differences_are_and_open_where_not(rng):
    scores = np.column_stack([rng.random(2000) < share for share in (0.9, 0.601, 0.6, 0.2)]).astype(float)
    analysis = Analysis.of(make_matrix(scores), MEAN)
    best, worst = rank_intervals(analysis.drawn, analysis.units.estimate())
    assert best.tolist() == [1, 2, 2, 4]
    assert worst.tolist() == [1, 3, 3, 4]


def test_one_model_has_rank_one(rng):
    assert [ranks.tolist() for ranks in rank_intervals(rng.random((100, 1)), np.array([0.5]))] == [[1], [1]]


@pytest.mark.parametrize(("gained", "sure"), [(4, False), (9, True)])
def test_few_changes_don_t_decide_a_rank_which_the_p_value_doesn_t(gained, sure):
    scores = np.repeat([[0, 1], [1, 1]], [gained, 500], axis=0)
    best, worst = Analysis.of(make_matrix(scores), MEAN).ranks()
    assert (best.tolist(), worst.tolist()) == (([2, 1], [2, 1]) if sure else ([1, 1], [2, 2]))


# What can't be inferred is said


def test_variants_that_never_differ_have_p_one_and_an_interval_as_wide_as_adjusted_walds():
    """Bonett and Price (2012): z root(2 / (n + 2)) / root(n + 2), which so lumpy a distribution exceeds by little."""
    found = Analysis.of(make_matrix([[0, 0], [1, 1]] * 50), MEAN).compare("a", "b")
    wald = stats.norm.ppf(0.975) * np.sqrt(2) / 102
    assert found.difference.value == 0
    assert (found.difference.ci_low, found.difference.ci_high) == pytest.approx((-wald, wald), rel=0.12)
    assert found.p_value == found.mcnemar_p == 1
    assert found.detectable is None
    assert "no cluster differs: the interval allows for one document more" in found.difference.notes[0]
    assert "(up to 3.0% unlike clusters" in found.difference.notes[0]


@pytest.mark.parametrize("name", ["mean", "macro", "mme", "all_right", "yes_f1"])
def test_where_nothing_differs_an_interval_is_as_wide_as_one_documents_change(name):
    """In units of what one document that changes from wrong to right moves the metric, wherever strata are alike."""
    answers = np.tile([["yes"], ["no"]], (60, 2))
    scores = np.ones((120, 2))
    pair = np.repeat(np.arange(60), 2)
    matrix = make_matrix(scores, pair, pair % 4, answers)
    ends = Analysis.of(matrix, find_metric(name)).compare("a", "b").difference
    documents = {"mme": 60, "all_right": 60, "yes_f1": 60}.get(name, 120)  # of weight
    step = find_metric(name).scale * {"mme": 4 * 200}.get(name, 1) / documents
    assert (ends.ci_low, ends.ci_high) == pytest.approx((-2.9 * step, 2.9 * step), rel=0.1)


def test_few_changes_are_shown_by_the_interval_as_by_the_p_value():
    """Five gains and no loss have a mid-p of .06 at four and .03 at five; the interval leaves zero about there."""
    for gained, lost in ((1, 0), (3, 0), (4, 0), (6, 0), (8, 0), (6, 2), (12, 2)):
        scores = np.repeat([[0, 1], [1, 0], [1, 1]], [gained, lost, 500], axis=0)
        found = Analysis.of(make_matrix(scores), MEAN).compare("a", "b")
        assert (found.difference.ci_low > 0) == (found.p_value < 0.05), (gained, lost)


def test_a_constant_difference_may_be_smaller_but_no_greater():
    found = Analysis.of(make_matrix([[0, 1]] * 70), MEAN).compare("a", "b")
    assert (found.difference.value, found.difference.ci_high) == (1, 1)
    assert 0.94 < found.difference.ci_low < 0.98
    assert found.p_value < 0.001
    assert "every cluster says the same" in found.difference.notes[0]


def test_a_stratum_without_a_right_answer_knows_what_a_right_one_is_worth(rng):
    scores = np.vstack([np.zeros((30, 2)), 100 * rng.integers(0, 2, (30, 2))])
    analysis = Analysis.of(make_matrix(scores, strata=np.repeat(["a", "b"], 30)), MEAN)
    none, _ = by_stratum(analysis, "a", "b")
    assert none.comparison.difference.value == 0
    assert none.comparison.difference.ci_high == pytest.approx(2.9 * 100 / 30, rel=0.1)


@pytest.mark.parametrize("n", [3, 40])
def test_no_interval_leaves_what_is_possible(n):
    perfect = Analysis.of(make_matrix([[1, 0]] * n), MEAN)
    assert perfect.score("a").ci_high == 1
    assert perfect.score("b").ci_low == 0
    assert 0 < perfect.score("b").ci_high < 1 if n > 3 else True


def test_one_cluster_has_neither_interval_nor_p_value():
    found = Analysis.of(make_matrix([[0, 1], [1, 1]], clusters=["x", "x"]), MEAN).compare("a", "b")
    assert (found.difference.ci_low, found.difference.standard_error, found.p_value, found.detectable) == (None,) * 4
    assert found.difference.notes == ("one cluster: neither an interval nor a p-value exists",)
    assert found.difference.method == "none"


def test_single_clusters_in_all_strata_are_collapsed():
    """The survey statistician's estimator: the strata's clusters as if they were drawn from one (Wolter, 2.5)."""
    scores = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [0, 1]])
    found = Analysis.of(make_matrix(scores, strata=range(6)), MACRO).compare("a", "b").difference
    gap = scores[:, 1] - scores[:, 0]
    assert found.value == pytest.approx(gap.mean())
    assert found.standard_error == pytest.approx(gap.std(ddof=1) / np.sqrt(6))
    assert found.strata == 6
    assert "6 of 6 strata have a single cluster: they are collapsed" in found.notes[1]


@pytest.mark.parametrize("name", ["mean", "macro", "mme", "all_right"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 5, 9), (7, 1, 4), (1, 6), (30, 1), (1, 1), (3, 1, 1, 2, 1)])
def test_collapsing_strata_changes_no_estimate_and_centres_draws_on_it(name, sizes, rng):
    pair = np.repeat(np.arange(sum(sizes)), 2)
    strata = np.repeat(np.arange(len(sizes)), sizes)[pair]
    units = Units.of(make_matrix(rng.random((len(pair), 3)).round(1), pair, strata), find_metric(name))
    collapsed = collapse(units)
    assert (collapsed.stratum_sizes > 1).all()
    assert collapsed.n_clusters == units.n_clusters
    assert collapsed.estimate() == pytest.approx(units.estimate())
    drawn = bootstrap(units, 20_000, rng)
    assert drawn.mean(axis=0) == pytest.approx(units.estimate(), abs=4 * drawn.std(axis=0).max() / 20_000**0.5 + 1e-9)
    assert drawn.std(axis=0) == pytest.approx([spread(units, one).plug_in for one in np.eye(3)], rel=0.05, abs=1e-12)


def test_a_stratum_of_one_cluster_varies_as_its_neighbours_clusters_do(rng):
    """Of a macro mean over 1 and 29 clusters, the first stratum's variance is 29 times the second's."""
    scores = rng.normal(size=(30, 1))
    units = Units.of(make_matrix(scores, strata=[0, *[1] * 29]), MACRO)
    centre = scores.mean()
    variance = ((scores - centre) ** 2).sum() / 29
    assert spread(units, np.ones(1)).error == pytest.approx(np.sqrt(variance * (1 + 1 / 29)) / 2)


def test_nothing_is_collapsed_where_each_stratum_has_two_clusters(rng):
    units = Units.of(make_matrix(rng.integers(0, 2, (8, 2)), strata=np.arange(8) // 2), MACRO)
    assert collapse(units) is units


def test_eight_documents_of_seven_strata_do_not_exclude_zero():
    """Seen on MMMU: +.125 with an interval of +.094 to +.156 and p .44, as six of seven strata never varied."""
    scores = [[0, 1], [0, 1], [1, 0], [1, 1], [0, 0], [1, 1], [0, 0], [0, 0]]
    found = Analysis.of(make_matrix(scores, strata=[0, 0, 1, 2, 3, 4, 5, 6]), MEAN).compare("a", "b")
    assert found.difference.value == 0.125
    assert found.difference.ci_low < -0.2
    assert found.difference.ci_high > 0.4
    assert found.p_value > 0.4


@pytest.mark.parametrize(("n", "unseen"), [(2, "77.6%"), (60, "4.9%")])
def test_what_zero_variance_may_hide_is_a_share(n, unseen):
    (note, *_) = reversed(Analysis.of(make_matrix([[0, 1]] * n), MEAN).compare("a", "b").difference.notes)
    assert f"up to {unseen} unlike clusters" in note


def test_few_clusters_take_percentiles_and_are_called_rough(rng):
    found = Analysis.of(make_matrix(answers_of_two(rng, 60), np.repeat(np.arange(12), 5)), MEAN).score("a")
    assert found.method == "percentile bootstrap"
    assert found.notes == ("only 12 clusters: the interval is rough",)


def test_strata_of_one_cluster_are_counted(rng):
    matrix = make_matrix(rng.integers(0, 2, (62, 2)), strata=[*["big"] * 60, "x", "y"])
    assert "2 of 3 strata have a single cluster: they are" in Analysis.of(matrix, MACRO).score("a").notes[0]
    matrix = make_matrix(rng.integers(0, 2, (61, 2)), strata=[*["big"] * 60, "x"])
    assert "1 of 2 strata have a single cluster: 2, its neighbour" in Analysis.of(matrix, MACRO).score("a").notes[0]


@given(st.integers(1, 25), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=40)
def test_no_input_gives_nan(n_clusters, n_strata, seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, n_clusters, 40)
    matrix = make_matrix(
        rng.integers(0, 2, (40, 3)) * rng.integers(0, 2),
        clusters,
        clusters % n_strata,
        answers=rng.choice(["yes", "no", "maybe"], (40, 3)),
    )
    for name in ("mean", "macro", "mme", "all_right", "yes_f1"):
        try:
            analysis = Analysis.of(matrix, find_metric(name), Settings(draws=1000))
        except DataError:
            continue
        for other in "bc":
            found = analysis.compare("a", other)
            numbers = [found.a, found.b, found.difference.value, found.p_value, found.difference.ci_low]
            numbers += [found.difference.ci_high, found.difference.standard_error, found.detectable]
            assert all(number is None or np.isfinite(number) for number in numbers)
        assert np.isfinite(max_t(analysis.units, 0, 1000, rng)).all()
        assert np.isfinite(acceleration(analysis.units, np.array([-1.0, 1.0, 0.0])))


@pytest.mark.parametrize("odd", [np.ones(3), np.full((1, 2), np.nan), "text"])
def test_a_metric_that_returns_no_numbers_is_refused(odd):
    register("test_odd", estimand="nothing")(lambda matrix: (odd, np.ones_like(matrix.scores)))
    with pytest.raises(DataError, match=r"'test_odd' must return two arrays of \(1, 2\) finite numbers"):
        Analysis.of(make_matrix([[0, 1]]), find_metric("test_odd"))


def test_a_metric_without_any_document_is_0_and_said_so():
    matrix = make_matrix([[0, 1]] * 70, answers=[["maybe", "maybe"]] * 70)
    found = Analysis.of(matrix, find_metric("yes_precision")).compare("a", "b")
    assert (found.a, found.b, found.difference.ci_low, found.p_value) == (0, 0, 0, 1)
    assert "no document counts" in found.difference.notes[0]


def test_an_unknown_metric_is_refused():
    with pytest.raises(DataError, match=r"no metric 'meen'\. Did you mean 'mean'\?"):
        find_metric("meen")
