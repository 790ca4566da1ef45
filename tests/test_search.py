"""The statistics of choosing among recipes, each against a count by hand, a brute force or an older test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from search_worlds import BASE, RACING, asked_of, grid, line, matrix_of, recipe, scores_of, surface_of

from lmms_plam.errors import DataError
from lmms_plam.search.analyse import analyse
from lmms_plam.search.crossfit import Plan, always, cross_fit
from lmms_plam.search.labelfree import agreement
from lmms_plam.search.pick import best, borders, gentlest_first, near_best
from lmms_plam.search.racing import blocks, plainly_behind
from lmms_plam.search.result import SearchSettings
from lmms_plam.search.surface import Surface, neighbours
from lmms_plam.search.transfer import add_transfer
from lmms_plam.stats.comparison import Analysis, Settings
from lmms_plam.stats.metrics import METRICS, find_metric, register
from lmms_plam.stats.significance import max_t, sign_flip
from lmms_plam.stats.simultaneous import any_better, simultaneous
from lmms_plam.stats.spread import spread, standard_errors
from lmms_plam.stats.units import Units

QUICK = SearchSettings(plan=Plan(repeats=4, halvings=20), draws=500)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# Picking


def test_ties_go_to_the_later_layer_then_to_less_of_the_base_lm_then_to_the_sum_nearest_one():
    recipes = [BASE, recipe(17, 0.1, 0.9), recipe(18, 0.5, 0.5), recipe(18, 0.4, 0.8), recipe(18, 0.4, 0.6)]
    recipes += [recipe(18, 0.3, 0.9), recipe(18, 0.25, 0.75)]  # a share of a quarter both
    order = gentlest_first(recipes, np.arange(1, 7))
    assert order.tolist() == [6, 5, 3, 4, 2, 1]
    assert best(np.full((1, 7), 0.5), order)[0] == 6


def test_a_sum_that_differs_by_rounding_alone_is_a_tie():
    values = np.array([[0.0, 0.3, 0.1 + 0.2, 0.1]])
    assert values[0, 2] > values[0, 1]
    assert best(values, np.array([1, 2, 3]))[0] == 1


def test_recipes_within_noise_are_those_that_two_paired_standard_errors_cannot_tell(rng):
    recipes = [BASE, *line((17, 18))]
    surface = surface_of(recipes, scores_of(recipes, 300, lambda one: 0.05 if one.start_layer == 18 else 0))
    candidates = surface.columns("merge")
    pick = int(best(surface.units.estimate()[None], candidates)[0])
    gaps = surface.matrix.scores[:, [pick]] - surface.matrix.scores
    z = gaps.mean(axis=0) / np.maximum(gaps.std(axis=0, ddof=1) / 300**0.5, 1e-12)
    expected = [column for column in candidates if abs(z[column]) <= 2]
    assert near_best(surface.units, pick, candidates).tolist() == expected
    assert pick in expected
    assert len(expected) < len(candidates)


@pytest.mark.parametrize(
    ("picked", "depth", "found"),
    [
        ((18, 0.5, 0.5), None, []),
        ((17, 0.5, 0.5), None, ["the earliest start layer asked, 17"]),
        ((19, 0.5, 0.5), None, ["the latest start layer asked, 19"]),
        ((19, 0.5, 0.5), 20, []),  # there is no later layer
        ((18, 0.1, 0.9), None, []),  # before it comes the untouched VLM
        ((18, 1.0, 0.0), None, []),  # nothing is left of the VLM
    ],
)
def test_a_line_has_no_border_but_its_start_layers(picked, depth, found):
    recipes = [BASE, *line((17, 18, 19))]
    names = [one.name for one in recipes]
    assert borders(recipes, names.index(recipe(*picked).name), depth) == found


@pytest.mark.parametrize(
    ("picked", "found"),
    [
        ((0.5, 0.5), []),
        ((0.5, 0.0), []),
        ((1.5, 0.5), ["the highest lambda_lm asked, 1.5"]),
        ((1.5, 1.5), ["the highest lambda_lm asked, 1.5", "the highest lambda_vlm asked, 1.5"]),
    ],
)
def test_a_grid_ends_where_its_coefficients_could_go_on(picked, found):
    recipes = [BASE, *grid((18,))]
    names = [one.name for one in recipes]
    assert borders(recipes, names.index(recipe(18, *picked).name)) == found


def test_a_line_that_stops_early_has_a_border():
    recipes = [BASE, *line((18,))[:5]]
    assert borders(recipes, 5) == ["the highest lambda_lm asked, 0.5"]
    recipes = [BASE, *line((18,))[3:8]]
    assert borders(recipes, 1) == ["the lowest lambda_lm asked, 0.4"]


def test_neighbours_are_one_step_away_and_agree_in_all_else():
    recipes = [BASE, recipe(17, 0, 1.2), *line((17, 19)), recipe(17, 0.5, 0.5, name="mlp", modules="mlp")]
    near = neighbours(recipes)
    names = [[recipes[place].name for place in places] for places in near]
    assert names[0] == names[1] == names[-1] == []
    assert set(names[[one.name for one in recipes].index("17: 0.5 0.5")]) == {
        "17: 0.4 0.6",
        "17: 0.6 0.4",
        "19: 0.5 0.5",
    }
    square = [BASE, *grid((18,))]
    counts = {one.name: len(places) for one, places in zip(square, neighbours(square), strict=True)}
    assert counts["18: 1 1"] == 8
    assert counts["18: 1.5 1.5"] == 3


# Cross-fitting


def f1_surface(n=60, seed=0):
    recipes = [BASE, *line((18,), steps=4)]
    rng = np.random.default_rng(seed)
    answers = np.where(rng.random((n, 5)) < 0.5, "yes", "no").astype(object)
    scores = (answers == np.where(rng.random((n, 1)) < 0.5, "yes", "no")).astype(float)
    return surface_of(recipes, scores, clusters=np.arange(n) // 3, answers=answers, metric="yes_f1")


@pytest.mark.parametrize(("metric", "seed"), [("mean", 11), ("macro", 2), ("yes_f1", 11), ("mme", 7)])
def test_leaving_out_one_cluster_is_what_brute_force_says(metric, seed):
    surface = f1_surface(seed=seed)
    strata = np.repeat(["a", "b", "c", "d"], 15)
    matrix = replace(surface.matrix, strata=strata)
    surface = Surface.of(surface.record.model_copy(update={"metric": metric}), matrix)
    order = gentlest_first(surface.recipes, surface.columns("merge"))
    found = cross_fit(
        surface.units,
        {"pick": lambda values: best(values, order), "base": always(surface.base)},
        Plan(folds=20, repeats=1, halvings=0),
        np.random.default_rng(0),
    )
    stitched, answers = matrix.scores[:, 0].copy(), matrix.answers[:, 0].copy()
    chosen = set()
    for name in np.unique(matrix.clusters):
        held = matrix.clusters == name
        seen = Units.of(matrix.select(~held), find_metric(metric)).estimate()
        pick = max(order, key=lambda column: (round(seen[column], 9), -order.tolist().index(column)))
        chosen.add(int(pick))
        stitched[held], answers[held] = matrix.scores[held, pick], matrix.answers[held, pick]
    both = replace(
        matrix.take([0, 0]),
        scores=np.column_stack([matrix.scores[:, 0], stitched]),
        answers=np.column_stack([matrix.answers[:, 0], answers]),
    )
    base, pick = Units.of(both, find_metric(metric)).estimate()
    assert len(chosen) > 1  # so that there is something to stitch
    assert found.gain("pick", "base").gain == pytest.approx(pick - base, abs=1e-12)


@pytest.mark.parametrize("strata", [None, np.arange(900) % 3])
def test_where_nothing_is_chosen_the_halves_give_the_ordinary_standard_error(strata):
    recipes = [BASE, recipe(18, 0.5, 0.5)]
    surface = surface_of(recipes, scores_of(recipes, 900, flips=0.1), strata=strata)
    rules = {"pick": always(1), "base": always(0)}
    found = cross_fit(surface.units, rules, Plan(repeats=1, halvings=2000), np.random.default_rng(0)).gain(
        "pick", "base"
    )
    assert found.gain == pytest.approx(surface.gains[1])
    assert found.standard_error == pytest.approx(spread(surface.units, np.array([-1.0, 1.0])).error, rel=0.05)
    reach = norm.ppf(0.975) * found.standard_error
    assert (found.ci_low, found.ci_high) == pytest.approx((found.gain - reach, found.gain + reach))


def test_a_choice_never_sees_the_documents_that_it_is_scored_on():
    """Each recipe is right on one fold's worth of documents alone: whoever looks gains, whoever doesn't loses."""
    recipes = [BASE, *line((18,))]
    rng = np.random.default_rng(3)
    scores = np.zeros((400, 11))
    scores[np.arange(400), rng.integers(1, 11, 400)] = 1
    surface = surface_of(recipes, scores)
    search = analyse(surface, QUICK)
    assert search.in_sample.gain > 0.11
    assert search.unseen.gain < 0.1  # what is best on the others is worse than average on the rest


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([30, 61]), st.sampled_from([1, 4]))
def test_the_cross_fitted_gain_lies_between_the_worst_and_the_best_that_could_be_picked(seed, n, n_strata):
    recipes = [BASE, *line((18,), steps=4)]
    surface = surface_of(recipes, scores_of(recipes, n, seed=seed, flips=0.2), strata=np.arange(n) % n_strata)
    best_each = (surface.matrix.scores[:, 1:].max(axis=1) - surface.matrix.scores[:, 0]).mean()
    worst_each = (surface.matrix.scores[:, 1:].min(axis=1) - surface.matrix.scores[:, 0]).mean()
    order = surface.columns("merge")
    rules = {"pick": lambda values: best(values, order), "base": always(0)}
    found = cross_fit(surface.units, rules, Plan(repeats=2, halvings=3), np.random.default_rng(seed))
    assert worst_each - 1e-9 <= found.gain("pick", "base").gain <= best_each + 1e-9


def test_few_clusters_have_no_standard_error_and_one_has_nothing():
    recipes = [BASE, *line((18,), steps=4)]
    few = analyse(surface_of(recipes, scores_of(recipes, 60), clusters=np.arange(60) // 5), QUICK)
    assert few.unseen.standard_error is None
    assert "only 12 clusters" in " ".join(few.notes)
    one = analyse(surface_of(recipes, scores_of(recipes, 60), clusters=np.zeros(60)), QUICK)
    assert (one.unseen, one.any_better_p, one.stability, one.in_sample.ci_low) == (None, None, None, None)
    with pytest.raises(DataError, match="a search takes many documents, and there is one"):
        analyse(surface_of(recipes, scores_of(recipes, 1)), QUICK)


# Intervals and p-values after the choice


def test_standard_errors_of_many_contrasts_are_those_of_each(rng):
    surface = f1_surface()
    contrasts = rng.standard_normal((5, 3))
    errors, plug_in = standard_errors(surface.units, contrasts)
    for column in range(3):
        found = spread(surface.units, contrasts[:, column])
        assert (errors[column], plug_in[column]) == pytest.approx((found.error, found.plug_in))


def test_one_recipe_needs_no_more_than_an_ordinary_interval_and_many_need_more():
    recipes = [BASE, *line((17, 18))]
    surface = surface_of(recipes, scores_of(recipes, 800, flips=0.1))
    rng = np.random.default_rng(0)
    alone = simultaneous(surface.units, 0, np.array([5]), 4000, rng)
    assert alone.critical == pytest.approx(1.96, abs=0.12)
    many = simultaneous(surface.units, 0, surface.columns("merge"), 4000, rng)
    assert 2.1 < many.critical < norm.ppf(1 - 0.025 / 20) + 0.2  # below Bonferroni's


def test_any_better_is_the_smallest_max_t_and_one_recipe_has_its_one_sided_sign_flip():
    recipes = [BASE, *line((18,))]
    scores = scores_of(recipes, 300, lambda one: 0.03)
    surface = surface_of(recipes, scores)
    units, family = surface.units, surface.columns("merge")
    same = [np.random.default_rng(5) for _ in range(2)]
    assert any_better(units, 0, family, 2000, same[0]) == max_t(units, 0, 2000, same[1], "greater").min()
    two = units.select([0, 1])
    one_sided = any_better(two, 0, np.array([1]), 20_000, np.random.default_rng(1))
    assert one_sided == pytest.approx(sign_flip(two, 0, 1, 20_000, np.random.default_rng(2)) / 2, abs=0.01)


def test_each_merge_is_compared_with_the_vlm_scaled_by_its_own_sum():
    recipes = [BASE, recipe(18, 0, 1.2), recipe(17, 0, 1.2), recipe(18, 0.3, 0.9), recipe(18, 0.3, 0.7)]
    recipes += [recipe(18, 0.3, 1.0), recipe(18, 0.3, 0.9, name="mlp", modules="mlp")]
    surface = surface_of(recipes, scores_of(recipes, 100))
    assert surface.controls().tolist() == [0, 1, 2, 1, 0, 5, 6]
    references = np.array([0, 1, 2, 1, 0, 5, 6])
    found = max_t(surface.units, references, 3000, np.random.default_rng(0))
    assert (found[[0, 1, 2, 5, 6]] == 1).all()


def test_what_scaling_alone_gives_is_no_merit_of_the_merge():
    recipes = [BASE, recipe(18, 0, 1.2), recipe(18, 0.3, 0.9), recipe(18, 0.2, 1.0)]
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(float)
    better = np.maximum(base, rng.random(400) < 0.2)
    flipped = [np.where(rng.random(400) < 0.02, 1 - better, better) for _ in range(2)]
    search = analyse(surface_of(recipes, np.column_stack([base, better, *flipped])), QUICK)
    assert search.any_better_p < 0.01
    assert search.better_than_scaled_p > 0.2
    assert search.scaled.name == "18: 0 1.2"
    assert search.scaled.unseen.gain > 0.05
    assert search.scaled.merge_unseen.gain < 0.01


# Racing


def test_a_recipe_plainly_behind_is_dropped_with_the_reason_and_the_base_never():
    recipes = [BASE, *line((18,), steps=4)]
    scores = scores_of(recipes, 200, lambda one: 0.2 if one.coefficients[0] < 0.6 else -0.1)
    scores[:, 0] = 0
    dropped = plainly_behind(matrix_of(recipes, scores), find_metric("mean"), recipes, 2)
    assert set(dropped) == {"18: 0.75 0.25", "18: 1 0"}
    gap = scores[:, 1:].mean(axis=0).max() - scores[:, 4].mean()
    top = recipes[1 + int(scores[:, 1:].mean(axis=0).argmax())].name
    difference = scores[:, [one.name for one in recipes].index(top)] - scores[:, 4]
    z = difference.mean() / (difference.std(ddof=1) / 200**0.5)
    assert dropped["18: 1 0"] == f"{gap:.4g} behind '{top}', {z:.1f} standard errors, on 200 documents"
    assert plainly_behind(matrix_of(recipes, scores[:10]), find_metric("mean"), recipes, 2) == {}


def test_where_lower_is_better_the_others_are_dropped():
    recipes = [BASE, recipe(18, 0.2, 0.8), recipe(18, 0.4, 0.6)]
    scores = scores_of(recipes, 200, lambda one: 0.2 if one.coefficients[0] < 0.3 else -0.1)
    dropped = plainly_behind(matrix_of(recipes, scores), find_metric("mean"), recipes, 2, higher_is_better=False)
    assert set(dropped) == {"18: 0.2 0.8"}


def test_a_control_stays_while_a_merge_needs_it():
    recipes = [BASE, recipe(18, 0, 1.2), recipe(18, 0, 1.4), recipe(18, 0.3, 0.9), recipe(18, 0.5, 0.9)]
    rng = np.random.default_rng(0)
    right = (rng.random(300) < 0.8).astype(float)
    bad = [(rng.random(300) < 0.3).astype(float) for _ in range(3)]
    matrix = matrix_of(recipes, np.column_stack([right, bad[0], bad[1], right, bad[2]]))
    assert set(plainly_behind(matrix, find_metric("mean"), recipes, 2)) == {"18: 0 1.4", "18: 0.5 0.9"}


def test_racing_refuses_what_it_does_not_know():
    recipes = [BASE, recipe(18, 0.3, 0.7)]
    matrix = matrix_of(recipes, scores_of(recipes, 50))
    with pytest.raises(DataError, match="with z above 0, not 0"):
        plainly_behind(matrix, find_metric("mean"), recipes, 0)
    with pytest.raises(DataError, match=r"'18: 0\.3 0\.7' is none of the search's recipes"):
        plainly_behind(matrix, find_metric("mean"), [BASE], 2)


@settings(max_examples=40)
@given(st.integers(2, 120), st.integers(1, 40), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_blocks_hold_every_document_once_and_clusters_whole(n, size, per_cluster, n_strata, seed):
    clusters = (np.arange(n) // per_cluster).astype(str)
    strata = ((np.arange(n) // per_cluster) % n_strata).astype(str)
    found = blocks(clusters, strata, size, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    where = {name: {place for place, block in enumerate(found) if name in clusters[block]} for name in clusters}
    assert all(len(places) == 1 for places in where.values())
    assert all(len(block) <= size + per_cluster for block in found)


def test_blocks_of_a_sorted_benchmark_are_small_pictures_of_the_whole():
    strata = np.repeat(list("abc"), [100, 300, 600])
    found = blocks(np.arange(1000).astype(str), strata, 100, seed=1)
    assert [len(block) for block in found] == [100] * 10
    for block in found:
        counts = [(strata[block] == name).sum() for name in "abc"]
        assert np.abs(np.array(counts) - [10, 30, 60]).max() <= 2


def test_a_dropped_recipe_counts_on_its_own_documents_alone():
    recipes = [BASE, recipe(18, 0.2, 0.8), recipe(18, 0.4, 0.6, dropped_after=100), recipe(18, 0.6, 0.4)]
    scores = scores_of(recipes, 300)
    scores[:100, 2] = 1  # it looked best as long as it was asked
    surface = surface_of(recipes, scores, racing=RACING)
    search = analyse(surface, QUICK)
    dropped = search.measured("18: 0.4 0.6")
    assert (dropped.documents, dropped.score) == (100, 1.0)
    assert dropped.gain == pytest.approx(1 - scores[:100, 0].mean())
    assert (dropped.ci_low, dropped.standard_error) == (None, None)
    assert any("flatters the gain on unseen documents" in note for note in search.notes)
    assert search.pick != dropped.recipe.name
    assert dropped.recipe.name not in {*search.near_best, *search.stability.by_bootstrap, *search.stability.by_fold}
    scores[100:, 2] = np.random.default_rng(0).random(200)  # what nobody asked can't matter
    again = analyse(surface_of(recipes, scores, racing=RACING), QUICK)
    assert again == search


def test_max_t_of_a_dropped_recipe_is_that_of_the_documents_it_was_asked_on():
    recipes = [BASE, recipe(18, 0.2, 0.8, dropped_after=60)]
    rng = np.random.default_rng(2)
    scores = np.column_stack([np.ones(200), rng.random(200) < 0.93]).astype(float)
    asked = asked_of(recipes, 200)
    filled = Units.of(matrix_of(recipes, np.where(asked, scores, scores[:, [0]])), find_metric("mean"))
    short = Units.of(matrix_of(recipes, scores[:60]), find_metric("mean"))
    exact = [max_t(units, 0, 10_000, np.random.default_rng(0), "less")[1] for units in (filled, short)]
    assert 0 < exact[0] < 0.2
    assert exact[0] == pytest.approx(exact[1])


def test_a_dropped_merge_meets_its_control_on_the_documents_it_was_asked_on():
    recipes = [BASE, recipe(18, 0, 1.2), recipe(18, 0.3, 0.9, dropped_after=60), recipe(18, 0.1, 0.8)]
    rng = np.random.default_rng(2)
    control = (rng.random(200) < 0.3).astype(float)
    merged = np.where(rng.random(200) < 0.06, 1 - control, control)
    scores = np.column_stack([rng.random(200) < 0.5, control, merged, control]).astype(float)
    surface = surface_of(recipes, scores, racing=RACING)
    units = surface.against(surface.controls())
    found = any_better(units, surface.controls(), np.array([2]), 10_000, np.random.default_rng(0))
    short = Units.of(matrix_of(recipes[1:3], scores[:60, 1:3]), find_metric("mean"))
    assert found == pytest.approx(any_better(short, 0, np.array([1]), 10_000, np.random.default_rng(0)))
    assert 0 < found < 1


def test_a_cluster_that_was_asked_in_part_does_not_count():
    recipes = [BASE, recipe(18, 0.2, 0.8), recipe(18, 0.4, 0.6, dropped_after=101)]
    scores = scores_of(recipes, 200)
    surface = surface_of(recipes, scores, clusters=np.arange(200) // 2, racing=RACING)
    assert surface.n_asked.tolist() == [200, 200, 101]
    assert surface.asked[:, 2].sum() == 100
    assert surface.gains[2] == pytest.approx((scores[:100, 2] - scores[:100, 0]).mean())


# The label-free pick


def test_the_label_free_pick_agrees_most_with_its_neighbours_and_sees_no_score():
    recipes = [BASE, *line((18,), steps=4)]
    answers = np.array([list("xABCC"), list("xABBD"), list("xABBB"), list("xAAAB")] * 10, dtype=object)
    surface = surface_of(recipes, np.zeros((40, 5)), answers=answers)
    agreeing, compared = agreement(surface)
    assert compared[0].tolist() == [0, 1, 2, 2, 1]
    assert agreeing.sum(axis=0).tolist() == [0, 10, 10 + 30, 30 + 20, 20]
    search = analyse(surface, replace(QUICK, criterion="label-free"))
    assert search.pick == search.label_free.name == "18: 0.75 0.25"
    assert search.label_free.agreement == pytest.approx(50 / 80)
    assert search.in_sample.gain == 0


def test_answers_that_nobody_gave_agree_with_none():
    recipes = [BASE, *line((18,), steps=3)]
    recipes[2] = recipes[2].model_copy(update={"dropped_after": 10, "dropped_why": "behind"})
    surface = surface_of(recipes, np.zeros((40, 4)), answers=np.full((40, 4), "A", dtype=object), racing=RACING)
    agreeing, compared = agreement(surface)
    assert agreeing.sum(axis=0).tolist() == compared.sum(axis=0).tolist() == [0, 10, 20, 10]


def test_its_gain_has_the_ordinary_interval_since_no_score_chose_it():
    recipes = [BASE, *line((17, 18))]
    surface = surface_of(recipes, scores_of(recipes, 400))
    free = analyse(surface, QUICK).label_free
    plain = Analysis.of(surface.matrix, find_metric("mean"), Settings(draws=500)).compare("base", free.name)
    assert (free.gain, free.ci_low, free.ci_high) == pytest.approx(
        (plain.difference.value, plain.difference.ci_low, plain.difference.ci_high)
    )


def test_without_neighbours_there_is_no_label_free_pick():
    recipes = [BASE, recipe(18, 0.3, 0.7), recipe(18, 0.3, 0.7, name="mlp", modules="mlp")]
    surface = surface_of(recipes, scores_of(recipes, 100))
    assert analyse(surface, QUICK).label_free is None
    with pytest.raises(DataError, match="no recipe has a neighbour"):
        analyse(surface, replace(QUICK, criterion="label-free"))


# The whole


def test_a_real_gain_is_found_where_it_is():
    recipes = [BASE, *line((16, 17, 18, 19))]
    gain = {16: 0.0, 17: 0.02, 18: 0.08, 19: 0.02}
    search = analyse(surface_of(recipes, scores_of(recipes, 1500, lambda one: gain[one.start_layer])), QUICK)
    assert search.in_sample.recipe.start_layer == 18
    assert search.any_better_p < 0.01
    assert search.unseen.ci_low < 0.08 < search.unseen.ci_high
    assert search.in_sample.ci_low < 0.08 < search.in_sample.ci_high
    assert search.unseen.gain <= search.in_sample.gain
    by_layer = {layer.start_layer: layer.unseen.gain for layer in search.layers}
    assert max(by_layer, key=by_layer.get) == 18
    assert search.stability.by_bootstrap[search.pick] == max(search.stability.by_bootstrap.values())
    assert sum(search.stability.by_fold.values()) == pytest.approx(1)
    assert len(search.stability.by_seed) == 4


def test_a_search_is_the_same_turned_over():
    @register("share_wrong_searched", estimand="share of wrong answers")
    def share_wrong(matrix):
        return 1 - matrix.scores, np.ones_like(matrix.scores)

    try:
        recipes = [BASE, recipe(18, 0, 1.2), *line((17, 18)), recipe(18, 0.9, 0.3, dropped_after=200)]
        scores = scores_of(recipes, 300, lambda one: 0.03)
        up = analyse(surface_of(recipes, scores, racing=RACING), QUICK)
        down = analyse(
            surface_of(recipes, scores, racing=RACING, metric="share_wrong_searched", higher_is_better=False), QUICK
        )
    finally:
        del METRICS["share_wrong_searched"]
    assert (down.pick, down.near_best, down.borders) == (up.pick, up.near_best, up.borders)
    assert down.base == pytest.approx(1 - up.base)
    assert down.in_sample.score == pytest.approx(1 - up.in_sample.score)
    assert down.in_sample.gain == pytest.approx(up.in_sample.gain)
    for name in ("gain", "ci_low", "ci_high"):  # equal clusters come in another order, so that the draws are others
        assert getattr(down.in_sample, name) == pytest.approx(getattr(up.in_sample, name), abs=0.01)
        assert getattr(down.unseen, name) == pytest.approx(getattr(up.unseen, name), abs=0.02)
    assert down.any_better_p == pytest.approx(up.any_better_p, abs=0.05)
    assert down.better_than_scaled_p == pytest.approx(up.better_than_scaled_p, abs=0.05)
    assert down.measured("18: 0.9 0.3").gain == pytest.approx(up.measured("18: 0.9 0.3").gain)


@pytest.mark.parametrize(
    ("metric", "perfect"), [("mean", 1), ("percent", 100), ("macro", 1), ("mme", 600), ("all_right", 100)]
)
def test_every_pooling_goes_through(metric, perfect):
    recipes = [BASE, *line((18,), steps=4)]
    clusters = np.arange(240) // 2
    surface = surface_of(recipes, scores_of(recipes, 240), clusters=clusters, strata=clusters % 3, metric=metric)
    search = analyse(surface, QUICK)
    assert search.perfect == perfect
    plain = Units.of(surface.matrix, find_metric(metric)).estimate()
    assert [one.score for one in search.recipes] == pytest.approx(plain)
    assert search.unseen.standard_error > 0


def test_strata_of_one_cluster_leave_a_search_its_intervals():
    recipes = [BASE, *line((18,), steps=4)]
    found = analyse(surface_of(recipes, scores_of(recipes, 40, flips=0.2), strata=np.arange(40)), QUICK)
    assert found.in_sample.ci_low < found.in_sample.gain < found.in_sample.ci_high
    assert found.unseen.standard_error > 0


def test_a_pick_that_hardly_differs_from_the_base_is_said_to():
    recipes = [BASE, *line((18,), steps=4)]
    scores = np.repeat(np.random.default_rng(0).random((100, 1)) < 0.5, 5, axis=1).astype(float)
    same = analyse(surface_of(recipes, scores), QUICK)
    assert (same.in_sample.gain, same.unseen.standard_error, same.any_better_p) == (0, 0, 1)
    allowed = "its intervals allow for one document more that changes, either way"
    assert f"the pick scores as the base on every document: {allowed}" in same.notes
    scores[:3, 1:] = 1 - scores[:3, 1:]
    few = analyse(surface_of(recipes, scores), QUICK)
    assert "the pick and the base differ on about 3 of 100 clusters: the intervals are rough" in few.notes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": Plan(folds=1)}, "at least 2 folds, not 1"),
        ({"plan": Plan(repeats=0)}, "repeated 1 to 1,000 times, not 0"),
        ({"plan": Plan(halvings=5)}, "takes 10 to 10,000 halvings, not 5"),
        ({"level": 95}, "such as 0.95, not 95"),
        ({"draws": 10}, "10 bootstrap draws are too few"),
        ({"seed": -1}, "0 or more, not -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(DataError, match=said):
        SearchSettings(**changed)


def test_a_sweep_compares_layers_among_recipes_that_are_else_alike():
    recipes = [
        BASE,
        *line((17, 18), steps=4),
        *(recipe(16, 0.5, 0.5, name=name, modules=name) for name in ("mlp", "q")),
    ]
    recipes.append(recipe(17, 0.75, 0.25, name="mlp too", modules="mlp"))
    gain = {"18: 0.5 0.5": 0.2}
    search = analyse(surface_of(recipes, scores_of(recipes, 300, lambda one: gain.get(one.name, 0))), QUICK)
    assert [(layer.start_layer, layer.recipes, layer.name) for layer in search.layers] == [
        (17, 4, "17: 0.5 0.5"),
        (18, 4, "18: 0.5 0.5"),
    ]


# Transfer


def two(n=400, **said):
    recipes = [BASE, *line((17, 18))]
    first = surface_of(recipes, scores_of(recipes, n, lambda one: 0.02), task="one", model="m", **said)
    renamed = [one.model_copy(update={"name": f"other {one.name}"}) for one in recipes]
    second = surface_of(renamed, scores_of(renamed, n, lambda one: 0.04, seed=3), task="two", model="m", **said)
    return [first, second]


def test_a_recipe_tuned_on_one_benchmark_is_scored_on_all_documents_of_another_whatever_its_name():
    surfaces = two()
    searches = add_transfer(surfaces, [analyse(one, QUICK) for one in surfaces])
    own, other = searches[0].transfer
    assert (own.gain, own.ci_low) == (searches[0].unseen.gain, searches[0].unseen.ci_low)
    assert (other.tuned_on, other.scored_on, other.name) == ("one", "two", searches[0].pick)
    column = surfaces[1].matrix.column(f"other {searches[0].pick}")
    assert other.gain == pytest.approx(surfaces[1].gains[column])
    assert other.ci_low < other.gain < other.ci_high


def test_where_benchmarks_share_documents_none_is_used_twice():
    """Each recipe is right on its own documents alone, in both benchmarks: tuning on the rest finds nothing there."""
    recipes = [BASE, *line((18,))]
    scores = np.zeros((400, 11))
    scores[np.arange(400), np.random.default_rng(3).integers(1, 11, 400)] = 1
    apart = [surface_of(recipes, scores, task=task, documents=text) for task, text in (("one", "a"), ("two", "b"))]
    shared = [surface_of(recipes, scores, task=task, documents="a") for task in ("one", "two")]
    for surfaces, gains in ((apart, True), (shared, False)):
        searches = add_transfer(surfaces, [analyse(one, QUICK) for one in surfaces])
        assert (searches[0].transfer[1].gain > 0.11) == gains
    assert searches[0].transfer[1].gain < 0.1
    assert "cross-fitting" in searches[0].transfer[1].how


def test_a_recipe_that_was_not_asked_there_has_no_transfer():
    surfaces = two()
    searches = [analyse(one, QUICK) for one in surfaces]
    place = surfaces[1].matrix.column(f"other {searches[0].pick}")
    recipes = list(surfaces[1].recipes)
    without = [one for column, one in enumerate(recipes) if column != place]
    scores = np.delete(surfaces[1].matrix.scores, place, axis=1)
    lacking = surface_of(without, scores, task="two", model="m")
    found = add_transfer([surfaces[0], lacking], [searches[0], analyse(lacking, QUICK)])[0].transfer[1]
    assert (found.gain, found.how) == (None, "the recipe wasn't asked there")
    recipes[place] = recipes[place].model_copy(update={"dropped_after": 100, "dropped_why": "behind"})
    raced = surface_of(recipes, surfaces[1].matrix.scores, task="two", model="m")
    found = add_transfer([surfaces[0], raced], [searches[0], analyse(raced, QUICK)])[0].transfer[1]
    assert (found.gain, found.how) == (None, "racing dropped the recipe there after 100 documents")


def test_a_table_of_transfer_is_of_one_model_and_of_different_benchmarks():
    surfaces = two()
    searches = [analyse(one, QUICK) for one in surfaces]
    with pytest.raises(DataError, match="one is there twice"):
        add_transfer([surfaces[0], surfaces[0]], [searches[0], searches[0]])
    other = replace(surfaces[1], record=surfaces[1].record.model_copy(update={"model": "n"}))
    with pytest.raises(DataError, match="one is of model m, two of model n"):
        add_transfer([surfaces[0], other], searches)
    assert add_transfer(surfaces[:1], searches[:1]) == searches[:1]
