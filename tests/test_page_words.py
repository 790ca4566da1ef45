"""What a page's numbers say in words: the same numbers give the same sentence, and a rule that is broken is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from lmms_plam.site.words import (
    RULES,
    Gain,
    Looked,
    Onset,
    Picked,
    Ranked,
    mean_of,
    say_attention,
    say_gains,
    say_language,
    say_plateaus,
    say_ranks,
    say_search,
    survivors,
)


def gain(benchmark, points, half=1.0, **others):
    return Gain(benchmark, points, points - half, points + half, **others)


MERGE = "merging from layer 24 on"


def test_gains_losses_and_intervals_that_hold_0_are_told_apart_by_the_interval_alone():
    gains = [gain("a", 1.1, 0.8), gain("b", 2.5), gain("c", 0.3), gain("d", -3.0), gain("e", -0.9)]
    said = say_gains(MERGE, gains)
    assert said[0] == (
        "Merging from layer 24 on gains 1.1 points (0.3 to 1.9) to 2.5 points (1.5 to 3.5) on two of five benchmarks"
        " (a, b) and loses 3.0 points (2.0 to 4.0) on one of five benchmarks (d); on two of five benchmarks (c, e) the"
        " interval holds 0."
    )


def test_no_difference_is_said_as_plainly_as_one():
    assert say_gains(MERGE, [gain("mmstar", 0.4)]) == [
        "Merging from layer 24 on neither gains nor loses for sure: on mmstar the interval of +0.4 points"
        " (-0.6 to +1.4) holds 0."
    ]
    assert say_gains(MERGE, [gain("a", 0.4), gain("b", 0.1)])[0].endswith("on both benchmarks the interval holds 0.")
    assert say_gains(MERGE, []) == []


def test_a_difference_without_an_interval_is_never_counted():
    assert Gain("a", 9.0, None, None).sign == 0
    assert "neither gains nor loses" in say_gains(MERGE, [Gain("a", 9.0, None, None)])[0]


@pytest.mark.parametrize(
    ("by_format", "said"),
    [
        (0.0, None),
        (0.19, None),
        (0.5, "Part of mmstar's gain"),
        (1.2, "Most of mmstar's gain"),
        (2.0, "All of mmstar's"),
    ],
)
def test_answer_format_is_named_where_it_makes_a_tenth_of_a_gain_or_more(by_format, said):
    lines = [line for line in say_gains(MERGE, [gain("mmstar", 2.0, by_format=by_format)]) if "format" in line]
    assert [line.startswith(said) for line in lines] == ([True] if said else [])


def test_answer_format_that_works_against_a_gain_is_no_part_of_it():
    assert not any("format" in line for line in say_gains(MERGE, [gain("a", 2.0, by_format=-1.0)]))
    (loss,) = [line for line in say_gains(MERGE, [gain("a", -2.0, by_format=-1.0)]) if "format" in line]
    assert loss == "Part of a's loss is answer format (-1.0 of -2.0 points)."


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), min_size=2, max_size=9))
def test_the_mean_has_the_interval_of_a_mean_of_independent_estimates(pairs):
    gains = [gain(str(place), points, half) for place, (points, half) in enumerate(pairs)]
    found = mean_of(gains)
    z = norm.ppf(0.975)
    errors = [half / z for _, half in pairs]
    standard_error = sum(error**2 for error in errors) ** 0.5 / len(pairs)
    middle = sum(points for points, _ in pairs) / len(pairs)
    assert (found.points, found.low, found.high) == pytest.approx(
        (middle, middle - z * standard_error, middle + z * standard_error)
    )


def test_no_mean_is_said_of_one_benchmark_or_where_an_interval_is_missing():
    assert mean_of([gain("a", 1.0)]) is None
    assert mean_of([gain("a", 1.0), Gain("b", 1.0, None, None)]) is None
    assert mean_of([gain("a", 1.0), gain("b", 1.0, level=0.9)]) is None


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=9))
def test_as_many_remain_after_holm_as_statsmodels_says(p_values):
    gains = [gain(str(place), 5.0, p_value=p) for place, p in enumerate(p_values)]
    rejected = multipletests(p_values, alpha=0.05, method="holm")[0]
    assert survivors(gains) == rejected.sum()


def test_what_remains_after_holm_is_said_of_what_was_counted():
    gains = [gain("a", 5.0, p_value=0.001), gain("b", 2.0, p_value=0.04), gain("c", 0.0, p_value=0.9)]
    assert say_gains(MERGE, gains)[1] == "After Holm's adjustment over the three benchmarks one of them remains."
    none = [replace(one, p_value=0.04) for one in gains]
    assert say_gains(MERGE, none)[1].endswith("none of them remains.")
    unknown = [replace(one, p_value=None) for one in gains]
    assert not any("Holm" in line for line in say_gains(MERGE, unknown))


def test_plateaus_are_said_where_there_are_some_and_their_lack_where_there_is_none():
    assert say_plateaus([]) == ""
    assert say_plateaus([Onset("a", None)]) == "No plateau is found on a."
    assert say_plateaus([Onset("a", 18)]) == "The plateau begins at layer 18 on a."
    assert say_plateaus([Onset("a", 18), Onset("b", 20), Onset("c", None)]) == (
        "The plateau begins at layers 18 to 20 on two of three benchmarks, on the others there is none."
    )


def test_a_search_is_worth_what_its_pick_gains_on_documents_that_the_choice_did_not_see():
    sure = Picked("a", "layers 20 on", gain("a", 1.5), 0.01)
    unsure = Picked("b", "layers 21 on", None, 0.2)
    assert say_search([sure, unsure]) == [
        "The search on a picks layers 20 on: on documents that the choice did not see it gains +1.5 points (+0.5 to"
        " +2.5); some recipe is better than the untouched VLM (p 0.0100).",
        "The search on b picks layers 21 on; too few documents say what it is worth; no recipe is better than the"
        " untouched VLM for sure (p 0.2000).",
    ]
    (together,) = say_search([sure, unsure, Picked("c", "layers 22 on", gain("c", -1.5), 0.5)])
    assert together == (
        "On documents that their choice did not see the picks of three searches gain on one of three benchmarks (a),"
        " +0.0 points on average (-0.7 to +0.7); some recipe is better than the untouched VLM on one of three"
        " benchmarks (a)."
    )


def test_language_is_lost_given_back_or_neither_and_nothing_is_said_without_text():
    lost, back, costs = [gain("blimp", -3.0)], [gain("blimp", 2.0)], [gain("mmstar", 0.1)]
    assert say_language(lost, back, costs) == (
        "On text, against its base LM the VLM has lost 3.0 points (2.0 to 4.0); the merge gives back 2.0 points"
        " (1.0 to 3.0); on pictures it neither gains nor costs for sure (+0.1 points, -0.9 to +1.1)."
    )
    assert say_language([], [gain("blimp", 0.2)], []) == (
        "On text, the merge gives nothing back for sure (+0.2 points, -0.8 to +1.2)."
    )
    assert say_language([], [], costs) == ""


def test_attention_changes_where_its_test_says_so():
    assert say_attention([Looked("a", -0.4, -0.7, -0.1, 0.01)]) == [
        "On a the merged layers look at the picture less (-0.4 points of all attention, -0.7 to -0.1)."
    ]
    assert "no more and no less for sure" in say_attention([Looked("a", -0.4, -0.9, 0.1, 0.05)])[0]
    three = [Looked(name, 1.0, 0.5, 1.5, p) for name, p in zip("abc", (0.01, 0.2, 0.3), strict=True)]
    assert say_attention(three) == [
        "The merged layers look at the picture more on one of three benchmarks (a) and less on none; elsewhere no"
        " change is sure."
    ]


def test_who_leads_is_said_with_those_that_could_hold_the_place():
    ranked = [Ranked("a", 60.0, (1, 1)), Ranked("b", 70.0, (1, 1)), Ranked("c", 65.0, (1, 2))]
    assert say_ranks(ranked, 2, "leaderboard") == (
        "On the leaderboard b stands first of three (70.0 points, the mean over two benchmarks); a could hold its place"
        " on every benchmark."
    )
    assert say_ranks(ranked[:1], 2, "leaderboard") == ""


def test_every_rule_is_one_sentence_or_more_and_none_is_there_twice():
    assert len(set(RULES)) == len(RULES)
    assert all(rule[0].isupper() and rule.endswith(".") for rule in RULES)
