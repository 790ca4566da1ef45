"""Merge methods against peft and mergekit on the same tensors: to the last bit where the definitions agree."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from mergekit_golden import GOLDEN, make_inputs
from method_sources import by_method, merge
from peft.utils import merge_utils
from safetensors.torch import load_file

from lmms_plam.merge.methods import drop

DENSITIES = [0.01, 0.2, 0.5, 0.9, 1]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture
def parents():
    inputs = make_inputs()
    return inputs["ancestor"], inputs["lm"], inputs["vlm"]


def changes(parents):
    ancestor, *models = parents
    return [model - ancestor for model in models]


def weights(*values):
    return torch.tensor(values)


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at density 1 peft says that it prunes nothing
        return function(*arguments, **options)


def stays_as_ours(monkeypatch, density):
    """Make peft drop what `drop` drops; it prunes the base LM's change first."""
    grown = merge_utils.random_pruning(torch.ones(9), 0.99999, rescale=True)
    if grown.max() == 1:
        pytest.skip("this release of peft forgets to grow what stays (it drops the result of its division)")
    names = iter(["base_lm", "vlm"])

    def bernoulli(chances):
        assert torch.all(chances == torch.tensor(density, dtype=torch.float32))
        return (
            drop(torch.ones_like(chances), density, f"{next(names)}.layers.0.mlp.up_proj.weight", 3, 0) != 0
        ).float()

    monkeypatch.setattr(torch, "bernoulli", bernoulli)


def test_the_golden_file_is_of_the_tensors_that_are_merged_here(golden):
    for name, tensor in make_inputs().items():
        assert torch.equal(golden[name], tensor)


def test_task_arithmetic_is_pefts_bit_for_bit(parents):
    expected = parents[0] + merge_utils.task_arithmetic(changes(parents), weights(0.4, 0.7))
    assert torch.equal(merge(parents, by_method("task_arithmetic"), 0.4, 0.7), expected)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("pair", [(0.4, 0.7), (1, 1), (0.5, 0.5)])
def test_ties_is_pefts_bit_for_bit(parents, density, pair):
    if int(density * parents[0].numel()) == 0:
        pytest.skip("peft lets all go there")
    expected = parents[0] + quietly(merge_utils.ties, changes(parents), weights(*pair), density)
    assert torch.equal(merge(parents, by_method("ties", density=density), *pair), expected)


@pytest.mark.parametrize("density", DENSITIES[:-1])
def test_dare_linear_is_pefts_bit_for_bit_where_the_same_changes_stay(parents, density, monkeypatch):
    stays_as_ours(monkeypatch, density)
    expected = parents[0] + merge_utils.dare_linear(changes(parents), weights(0.4, 0.7), density)
    assert torch.equal(merge(parents, by_method("dare_linear", density=density, seed=3), 0.4, 0.7), expected)


@pytest.mark.parametrize("density", DENSITIES[:-1])
def test_dare_ties_is_pefts_bit_for_bit_where_the_same_changes_stay(parents, density, monkeypatch):
    stays_as_ours(monkeypatch, density)
    expected = parents[0] + merge_utils.dare_ties(changes(parents), weights(0.4, 0.7), density)
    assert torch.equal(merge(parents, by_method("dare_ties", density=density, seed=3), 0.4, 0.7), expected)


def test_task_arithmetic_is_mergekits_bit_for_bit(parents, golden):
    assert torch.equal(merge(parents, by_method("task_arithmetic"), 0.4, 0.7), golden["task_arithmetic"])


def test_ties_of_one_model_or_of_both_with_coefficients_of_1_is_mergekits_bit_for_bit(parents, golden):
    way = by_method("ties", density=0.3)
    assert torch.equal(merge(parents, way, 0, 0.7), golden["ties_of_one"])
    assert torch.equal(merge(parents, way, 1, 1), golden["ties_of_both"])


def test_with_smaller_coefficients_mergekits_ties_goes_all_the_way_and_ours_as_far_as_they_say(parents, golden):
    ancestor = parents[0]
    half = merge(parents, by_method("ties", density=0.3), 0.5, 0.5) - ancestor
    assert torch.allclose(2 * half, golden["ties_of_both_by_half"] - ancestor, atol=1e-6)
    assert torch.equal(golden["ties_of_both_by_half"], golden["ties_of_both"])


def test_dare_is_mergekits_bit_for_bit_where_the_same_changes_stay_and_are_grown(golden, monkeypatch):
    masks = {"base_lm": golden["mask_lm"], "vlm": golden["mask_vlm"]}
    monkeypatch.setattr(
        "lmms_plam.merge.combine.drop",
        lambda change, density, of, seed, start: change * masks[of.split(".")[0]] / density,
    )
    parents = golden["ancestor"], golden["lm"], golden["vlm"]
    grown = merge(parents, by_method("dare_linear", density=0.5), 0.25, 0.25)
    assert torch.equal(grown, golden["dare_linear"])  # whose coefficients are .5, and which grows nothing
    elected = merge(parents, by_method("dare_ties", density=0.5), 0.5, 0.5)
    assert torch.equal(elected, golden["dare_ties_of_both"])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slerp_is_mergekits_to_the_rounding_of_its_float32_angle(golden, share, dtype):
    parents = golden["ancestor"], golden["lm"], golden["vlm"]
    merged = merge(parents, by_method("slerp"), 1 - share, share)
    assert torch.allclose(merged, golden[f"slerp_{share}"], rtol=0, atol=2e-6 * golden["lm"].abs().max())
    theirs = golden[f"slerp_{share}"].to(dtype).float()
    assert torch.allclose(merged.to(dtype).float(), theirs, rtol=2 * torch.finfo(dtype).eps, atol=2e-6)


def test_slerp_of_orthogonal_vectors_stays_on_the_circle():
    lm, vlm = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    third = merge((lm, lm, vlm), by_method("slerp"), 2 / 3, 1 / 3)
    assert torch.allclose(third, torch.tensor([[3 * math.cos(math.pi / 6), 3 * math.sin(math.pi / 6)]]))


def test_fisher_is_the_mean_by_information():
    """Against float64, since neither peft nor mergekit has it."""
    generator = torch.Generator().manual_seed(0)
    lm, vlm = torch.randn((2, 24, 16), generator=generator)
    ours, theirs = torch.rand((2, 24, 16), generator=generator).pow(8)
    merged = merge((lm, lm, vlm), by_method("fisher"), 0.3, 0.9, information=(ours, theirs))
    a, b = 0.3 * theirs.double(), 0.9 * ours.double()
    assert torch.allclose(merged.double(), (a * lm.double() + b * vlm.double()) / (a + b), atol=1e-6)
