"""The maths of a merge: the linear method, the schedules over depth, the start layer."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from peft.utils.merge_utils import task_arithmetic

from lmms_plam.config import MergeRecipe
from lmms_plam.errors import ConfigError
from lmms_plam.merge.layers import resolve_layers, resolve_start_layer
from lmms_plam.merge.methods import linear
from lmms_plam.merge.schedules import Coefficients, coefficients, growth

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAMBDAS = st.floats(0, 1.5, width=32)
WEIGHTS = hnp.arrays(np.float32, 12, elements=st.floats(-8, 8, width=32))


def bits(tensor):
    """The tensor's raw bits, so that -0.0 is not 0.0."""
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", DTYPES)
@given(lm=WEIGHTS, vlm=WEIGHTS)
def test_zero_one_is_the_vlm_and_one_zero_the_base_lm_bit_for_bit(dtype, lm, vlm):
    lm, vlm = (torch.from_numpy(array * np.float32(-1)).to(dtype) for array in (lm, vlm))
    assert torch.equal(bits(linear(lm, vlm, 0, 1)), bits(vlm))
    assert torch.equal(bits(linear(lm, vlm, 1, 0)), bits(lm))


def test_a_term_with_coefficient_zero_does_not_enter_even_as_nan():
    nan, one = torch.full((3,), math.nan), torch.ones(3)
    assert torch.equal(linear(nan, one, 0, 0.5), one / 2)
    assert torch.equal(linear(one, nan, 0.5, 0), one / 2)


@given(lm=WEIGHTS, vlm=WEIGHTS, a=LAMBDAS, b=LAMBDAS)
def test_linear_is_the_float32_sum_of_float32_products(lm, vlm, a, b):
    expected = np.float32(a) * lm + np.float32(b) * vlm
    merged = linear(torch.from_numpy(lm), torch.from_numpy(vlm), a, b).numpy()
    assert np.array_equal(merged, expected)  # == does not tell -0.0 from 0.0, which a left-out term may turn


@pytest.mark.parametrize("dtype", DTYPES)
@given(lm=WEIGHTS, vlm=WEIGHTS, a=LAMBDAS, b=LAMBDAS)
def test_linear_agrees_with_peft_task_arithmetic_to_the_rounding_of_the_dtype(dtype, lm, vlm, a, b):
    lm, vlm = (torch.from_numpy(array).to(dtype) for array in (lm, vlm))
    peft = task_arithmetic([lm.double(), vlm.double()], torch.tensor([a, b], dtype=torch.float64))
    tolerance = 2 * torch.finfo(dtype).eps * 16
    assert torch.allclose(linear(lm, vlm, a, b).double(), peft, rtol=0, atol=tolerance)


@given(w=WEIGHTS, a=st.floats(0.125, 1), b=st.floats(0.125, 1))
def test_merging_a_tensor_with_itself_scales_it_by_the_sum(w, a, b):
    tensor = torch.from_numpy(w)
    assert torch.allclose(linear(tensor, tensor, a, b), tensor * (a + b), rtol=1e-6, atol=1e-6)


def test_the_result_has_the_vlms_dtype():
    merged = linear(torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=torch.bfloat16), 0.5, 0.5)
    assert merged.dtype == torch.bfloat16


def recipe(**fields):
    return MergeRecipe.model_validate(fields)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", {0: 1, 11: 1, 23: 1}),
        ("linear", {0: 0, 1: 0.0435, 5: 0.217, 11: 0.478, 23: 1}),
        ("loglinear", {0: 0, 1: 0.218, 5: 0.564, 10: 0.755, 11: 0.782, 15: 0.872, 23: 1}),
    ],
)
def test_schedules_give_the_values_read_off_the_blogs_figure_for_24_layers(schedule, values):
    for layer, value in values.items():
        assert growth(schedule, layer, 24) == pytest.approx(value, abs=5e-4)


def test_loglinear_gives_early_layers_more_of_the_base_lm_than_linear():
    for layer in range(1, 23):
        assert growth("loglinear", layer, 24) > growth("linear", layer, 24)
    mean = sum(growth("loglinear", layer, 24) for layer in range(24)) / 24
    assert mean == pytest.approx(math.lgamma(25) / (24 * math.log(24)))


@given(
    depth=st.integers(1, 80),
    lambda_lm=st.floats(0.01, 1.5),
    lambda_vlm=st.floats(0.01, 1.5),
    schedule=st.sampled_from(["constant", "linear", "loglinear"]),
    form=st.sampled_from(["ratio", "share"]),
)
def test_coefficients_start_at_the_vlm_end_at_the_recipe_grow_and_keep_their_sum(
    depth, lambda_lm, lambda_vlm, schedule, form
):
    merge = recipe(lambda_lm=lambda_lm, lambda_vlm=lambda_vlm, schedule=schedule, schedule_form=form)
    pairs = [coefficients(merge, layer, depth) for layer in range(depth)]
    assert pairs[-1] == Coefficients(lambda_lm, lambda_vlm)
    if schedule != "constant" and depth > 1:
        assert pairs[0] == Coefficients(0.0, lambda_lm + lambda_vlm)
    for pair in pairs:
        assert pair.lm >= 0
        assert pair.vlm >= 0
        assert pair.lm + pair.vlm == pytest.approx(lambda_lm + lambda_vlm)
    assert all(below.lm <= above.lm + 1e-12 for below, above in itertools.pairwise(pairs))


def test_the_two_forms_differ_as_the_blogs_readings_do():
    # three layers: r = 1/2 in the middle one; w r / (1 + w r) with w = 1 is 1/3, a r with a = 1/2 is 1/4
    ratio = coefficients(recipe(schedule="linear", schedule_form="ratio"), 1, 3)
    share = coefficients(recipe(schedule="linear", schedule_form="share"), 1, 3)
    assert (ratio.lm, ratio.vlm) == pytest.approx((1 / 3, 2 / 3))
    assert (share.lm, share.vlm) == pytest.approx((1 / 4, 3 / 4))


def test_the_pure_base_lm_stays_pure_in_the_ratio_form():
    merge = recipe(lambda_lm=1, lambda_vlm=0, schedule="linear", schedule_form="ratio")
    assert all(coefficients(merge, layer, 24) == Coefficients(1.0, 0.0) for layer in range(1, 24))


@pytest.mark.parametrize(("start", "layer"), [(0, 0), (27, 27), (0.5, 14), (0.7, 20), (0.01, 0), (0.999, 27)])
def test_start_layer_is_a_layer_or_the_nearest_one_to_a_fraction(start, layer):
    assert resolve_start_layer(start, 28) == layer


def test_start_layer_reads_the_onset_of_a_probe(tmp_path):
    path = tmp_path / "plateau.json"
    path.write_text(json.dumps({"onset": 19, "verdict": "plateau"}))
    assert resolve_start_layer(str(path), 28) == 19
    with pytest.raises(ConfigError, match=r"19 lies beyond .* 12 layers .*plateau\.json"):
        resolve_start_layer(str(path), 12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"onset": null, "verdict": "no plateau: the curve still rises"}', "verdict was 'no plateau: the curve still"),
        ('{"onset": 3.5}', "onset: Input should be a valid integer"),
        ('{"verdict": "plateau"}', "onset: Field required"),
        ("[]", "no plateau.json"),
        ("\xff", "no plateau.json .*Invalid JSON"),
        ("{", "no plateau.json"),
    ],
)
def test_a_probe_without_a_usable_onset_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "plateau.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        resolve_start_layer(str(path), 28)


def test_a_start_layer_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json' is no file: give a layer"):
        resolve_start_layer(str(tmp_path / "none.json"), 28)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start_layer": 28}, "start_layer 28 lies beyond"),
        ({"start_layer": 3, "end_layer": 29}, "end_layer 29 lies beyond"),
        ({"start_layer": 20, "end_layer": 20}, "end_layer 20 must be larger than start_layer 20"),
    ],
)
def test_layers_beyond_the_decoder_or_none_at_all_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        resolve_layers(recipe(**fields), 28)


def test_layers_reach_to_the_last_one_unless_an_end_is_given():
    assert resolve_layers(recipe(start_layer=20), 28) == range(20, 28)
    assert resolve_layers(recipe(start_layer=20, end_layer=24), 28) == range(20, 24)
