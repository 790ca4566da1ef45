"""What merge methods do at their limits, and that neither order nor blocks of rows have a say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from method_sources import NAME, InMemory, bits, by_method, merge

from lmms_plam.merge import Coefficients, Further, MergedTensor
from lmms_plam.merge.apply import merge_tensor
from lmms_plam.merge.blocks import read_whole
from lmms_plam.merge.methods import drop, thresholds, trim

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CHANGING = ["task_arithmetic", "ties", "dare_linear", "dare_ties"]
COEFFICIENTS = st.floats(0, 1.5, width=32)
WEIGHTS = hnp.arrays(np.float32, (3, 6, 4), elements=st.floats(-8, 8, width=32))


def models(array, dtype=torch.float32):
    return tuple(torch.from_numpy(array).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["slerp", *CHANGING, "fisher"])
@given(array=WEIGHTS)
def test_zero_one_is_the_vlm_and_one_zero_the_base_lm_bit_for_bit_where_all_of_a_change_stays(method, dtype, array):
    ancestor, lm, vlm = models(array, dtype)
    information = (torch.ones_like(vlm).float(),) * 2 if method == "fisher" else None
    way = by_method(method)
    assert torch.equal(bits(merge((ancestor, lm, vlm), way, 0, 1, information=information)), bits(vlm))
    assert torch.equal(bits(merge((ancestor, lm, vlm), way, 1, 0, information=information)), bits(lm))


@given(array=WEIGHTS, a=COEFFICIENTS, b=st.floats(0.0625, 1.5, width=32))
def test_at_density_1_dare_is_task_arithmetic_or_ties(array, a, b):
    parents = models(array)
    for dare, plain in (("dare_linear", "task_arithmetic"), ("dare_ties", "ties")):
        assert torch.equal(merge(parents, by_method(dare), a, b), merge(parents, by_method(plain), a, b))


@given(array=WEIGHTS, b=st.floats(0, 1.5, width=32))
def test_where_the_base_lm_is_the_ancestor_task_arithmetic_is_linear_and_lambda_lm_has_no_part(array, b):
    parents = models(array)
    own = by_method("task_arithmetic", against=None)
    merged = merge(parents, own, 0.3, b)
    assert torch.equal(merged, merge(parents, own, 1.2, b))
    assert torch.allclose(merged, (1 - b) * parents[1] + b * parents[2], atol=1e-5)


@given(array=WEIGHTS, density=st.floats(0.0625, 1))
def test_where_the_base_lm_is_the_ancestor_ties_trims_the_vlms_change(array, density):
    parents = models(array)
    change = parents[2] - parents[1]
    (least,) = thresholds(lambda: [[change]], density)
    merged = merge(parents, by_method("ties", density, against=None), 0.3, 0.5)
    assert torch.equal(merged, parents[1] + 0.5 * trim(change, least))


@pytest.mark.parametrize("method", ["slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "fisher"])
@given(array=WEIGHTS, share=st.floats(0.0625, 0.9375, width=32))
def test_three_equal_models_merge_to_themselves(method, array, share):
    own = torch.from_numpy(array[0])
    information = tuple(torch.from_numpy(array[1:]).abs()) if method == "fisher" else None
    density = 0.5 if method in ("ties", "dare_linear", "dare_ties") else 1
    merged = merge((own, own, own), by_method(method, density), share, 1 - share, information=information)
    assert torch.allclose(merged, own, rtol=1e-6, atol=0)


@given(array=WEIGHTS, share=st.floats(0.0625, 0.9375))
def test_slerp_of_parallel_tensors_and_of_nothing_is_linear(array, share):
    lm = torch.from_numpy(array[0])
    for vlm in (1.5 * lm, torch.zeros_like(lm)):
        merged = merge((lm, lm, vlm), by_method("slerp"), share, 1 - share)
        assert torch.equal(merged, merge((lm, lm, vlm), by_method("linear"), share, 1 - share))


@given(array=WEIGHTS, scale=st.floats(0.5, 1.5, width=32), share=st.floats(0.0625, 0.9375, width=32))
def test_slerp_scales_with_the_sum_of_the_coefficients(array, scale, share):
    parents = models(array)
    one = merge(parents, by_method("slerp"), share, 1 - share)
    scaled = merge(parents, by_method("slerp"), scale * share, scale * (1 - share))
    assert torch.allclose(scaled, scale * one, rtol=1e-4, atol=1e-5)


@given(array=WEIGHTS, scale=st.floats(0.125, 4))
def test_of_fisher_coefficients_only_the_ratio_counts(array, scale):
    parents, information = models(array), tuple(torch.from_numpy(array[:2]).abs())
    one = merge(parents, by_method("fisher"), 0.3, 0.9, information=information)
    other = merge(parents, by_method("fisher"), 0.3 * scale, 0.9 * scale, information=information)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert torch.all(one <= torch.maximum(parents[1], parents[2]) + 1e-5)
    assert torch.all(one >= torch.minimum(parents[1], parents[2]) - 1e-5)


def test_fisher_without_information_is_the_mean_by_coefficients():
    lm, vlm, none = torch.ones(2, 2), torch.full((2, 2), 5.0), torch.zeros(2, 2)
    assert torch.equal(merge((lm, lm, vlm), by_method("fisher"), 1, 3, information=(none, none)), 4 * lm)


def test_ties_takes_the_mean_of_those_that_agree_and_zero_has_no_sign():
    ancestor = torch.zeros(1, 5)
    lm = torch.tensor([[1.0, 2.0, -1.0, 0.0, 2.0]])
    vlm = torch.tensor([[3.0, -1.0, 1.0, -4.0, -5.0]])
    merged = merge((ancestor, lm, vlm), by_method("ties"), 1, 1)
    assert merged.tolist() == [[2.0, 2.0, 1.0, -4.0, -5.0]]


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
@given(array=WEIGHTS, b=st.floats(0.0625, 1.5, width=32))
def test_a_model_with_coefficient_zero_has_no_voice_in_the_election_of_signs(method, array, b):
    ancestor, lm, vlm = models(array)
    for other in (lm, -7 * lm):
        merged = merge((ancestor, other, vlm), by_method(method), 0, b)
        assert torch.allclose(merged, ancestor + b * (vlm - ancestor), rtol=1e-6, atol=1e-5)


@settings(max_examples=50)
@given(
    changes=hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(width=32)),
    density=st.floats(1e-6, 1),
)
def test_at_least_the_part_that_density_says_stays_and_more_only_where_sizes_are_equal(changes, density):
    changes = np.nan_to_num(changes)
    change = torch.from_numpy(changes)
    count = max(1, int(density * change.numel()))
    (least,) = thresholds(lambda: ([row[None]] for row in change), density)
    assert least == np.sort(np.abs(changes), axis=None)[-count]
    assert (change.abs() > least).sum() < count <= (change.abs() >= least).sum()
    assert torch.equal(trim(change, least), torch.where(change.abs() >= least, change, 0))


@pytest.mark.parametrize("way", [by_method("ties", 0.4), by_method("task_arithmetic"), by_method("slerp")])
@given(array=WEIGHTS, seed=st.integers(0, 9))
def test_the_order_of_weights_within_a_tensor_has_no_say(way, array, seed):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(24))
    shuffled = tuple(tensor.flatten()[order].view(6, 4) for tensor in models(array))
    merged = merge(models(array), way, 0.3, 0.6).flatten()[order].view(6, 4)
    assert torch.allclose(merge(shuffled, way, 0.3, 0.6), merged, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "way",
    [
        by_method("linear"),
        by_method("slerp"),
        by_method("fisher"),
        *(by_method(method, 0.4, seed=2) for method in CHANGING),
        by_method("ties", 0.4, against=None),
    ],
    ids=lambda way: way.method,
)
def test_blocks_of_rows_have_no_say_and_no_source_is_read_whole(way, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    ancestor, lm, vlm, *information = torch.randn((5, 40, 7), generator=generator)
    information = [one.abs() for one in information] if way.method == "fisher" else None
    whole = merge((ancestor, lm, vlm), way, 0.3, 0.6, information=information)
    for read, merged in ((70, 21), (21, 7), (7, 7), (7, 70)):
        monkeypatch.setattr("lmms_plam.merge.blocks._READ_AT_ONCE", read)
        monkeypatch.setattr("lmms_plam.merge.blocks._MERGED_AT_ONCE", merged)
        assert torch.equal(bits(merge((ancestor, lm, vlm), way, 0.3, 0.6, information=information)), bits(whole))
        source, before = InMemory({"lm": lm}), InMemory({"a": ancestor})
        if way.method in CHANGING and way.ancestor:
            tensor = MergedTensor(NAME, "lm", Coefficients(0.3, 0.6), ((0, 40),), way, "a")
            assert torch.equal(merge_tensor(vlm, source, tensor, Further(before)), whole)
            assert max(source.asked + before.asked) * 7 <= read
            passes = 3 if way.method == "ties" else 1
            assert sum(source.asked) == sum(before.asked) == 40 * passes


@pytest.mark.parametrize("merged", [14, 50, 100])
def test_a_merge_reads_the_blocks_that_reading_the_whole_reads(merged, monkeypatch):
    monkeypatch.setattr("lmms_plam.merge.blocks._READ_AT_ONCE", 21)
    monkeypatch.setattr("lmms_plam.merge.blocks._MERGED_AT_ONCE", merged)
    lm, vlm = torch.randn((2, 40, 7), generator=torch.Generator().manual_seed(1))
    source, again = InMemory({"lm": lm}), InMemory({"lm": lm})
    merge_tensor(vlm, source, MergedTensor(NAME, "lm", Coefficients(0.3, 0.6), ((0, 40),)))
    assert torch.equal(read_whole(again, "lm", lm.shape), lm)
    assert source.asked == again.asked, "a checkpoint tells by its blocks whether it has changed since"


def test_only_the_rows_that_are_asked_for_are_merged_and_looked_at():
    ancestor, lm, vlm = torch.randn((3, 10, 4), generator=torch.Generator().manual_seed(1))
    rows = ((0, 3), (5, 9))
    inside = torch.tensor([0, 1, 2, 5, 6, 7, 8])
    for way in (by_method("ties", 0.4), by_method("slerp")):
        merged = merge((ancestor, lm, vlm), way, 0.3, 0.6, rows=rows)
        alone = merge((ancestor[inside], lm[inside], vlm[inside]), way, 0.3, 0.6)
        assert torch.allclose(merged[inside], alone, atol=1e-6)
        assert torch.equal(merged[[3, 4, 9]], vlm[[3, 4, 9]])


def test_what_dare_drops_follows_from_seed_tensor_and_model_alone():
    ancestor, lm, vlm = torch.randn((3, 32, 8), generator=torch.Generator().manual_seed(1))
    way = by_method("dare_linear", 0.5, seed=4)
    first = merge((ancestor, lm, vlm), way, 0.5, 0.5)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(merge((ancestor, lm, vlm), way, 0.5, 0.5), first)
    on_disk = merge((ancestor, lm, vlm), way, 0.5, 0.5, name="language_model.model.layers.0.mlp.up_proj.weight")
    assert torch.equal(on_disk, first)  # the same tensor under another name
    for other in (
        merge((ancestor, lm, vlm), by_method("dare_linear", 0.5, seed=5), 0.5, 0.5),
        merge((ancestor, lm, vlm), way, 0.5, 0.5, name=NAME.replace(".0.", ".1.")),
    ):
        assert not torch.equal(other, first)
    both = merge((torch.zeros(32, 8), torch.ones(32, 8), torch.ones(32, 8)), way, 0.25, 0.5)
    assert both.unique().tolist() == [0.0, 0.5, 1.0, 1.5]  # two masks, not one


def test_dare_keeps_changes_as_often_as_density_says_and_their_sum_on_average():
    ones = torch.ones(400, 500)
    for density in (0.1, 0.5, 0.9):
        dropped = drop(ones, density, "x", 0, 0)
        error = math.sqrt(density * (1 - density) / ones.numel())
        assert (dropped != 0).float().mean().item() == pytest.approx(density, abs=5 * error)
        assert dropped.mean().item() == pytest.approx(1, abs=5 * error / density)


def test_what_dare_drops_is_the_same_in_every_release():
    kept = drop(torch.ones(24), 0.5, "vlm.layers.0.mlp.up_proj.weight", 0, 0) != 0
    assert "".join("x" if one else "." for one in kept) == "..x.x.x..x.x..x....x.x.x"
