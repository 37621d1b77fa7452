"""Grids, GPTQ and QuantEase: none is worse than the one before, and exact where it can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.layers.gram import CalibrationDataError
from compress.quantization.gptq import damped, quantize_gptq
from compress.quantization.grid import Grid
from compress.quantization.quantease import largest_eigenvalue, layer_error, quantease
from compress.quantization.smoothquant import fold, smoothing_scales


def layer(seed: int, outputs: int = 64, inputs: int = 128) -> tuple[Tensor, Tensor]:
    """A weight and the Gram matrix of correlated inputs."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=random) / inputs**0.5
    rows = torch.randn(1_024, inputs, generator=random) @ (torch.eye(inputs) + mix)
    return torch.randn(outputs, inputs, generator=random), (rows.T @ rows).double()


def test_a_layer_that_gives_nothing_has_lost_nothing() -> None:
    weight, hessian = layer(0)
    nothing = torch.zeros_like(weight)
    assert layer_error(nothing, nothing, hessian) == 0.0
    assert layer_error(nothing, weight, hessian) == float("inf")


def test_codes_are_the_nearest_ones_of_the_grid() -> None:
    weight, _ = layer(0)
    grid = Grid.of(weight, 4, 32)
    codes = grid.codes(weight)
    assert (int(codes.min()), int(codes.max()), codes.dtype) == (-8, 7, torch.int8)
    every = torch.arange(-8, 8) * grid.expanded()[..., None]
    nearest = (every - weight[..., None]).abs().amin(2)
    assert torch.allclose((grid.values(codes) - weight).abs(), nearest, atol=1e-6)
    assert torch.equal(grid.rounded(grid.rounded(weight)), grid.rounded(weight))


def test_a_clipped_scale_is_better_than_that_of_the_largest_weight() -> None:
    weight, _ = layer(1)
    clipped = Grid.of(weight, 3)
    plain = Grid(weight.abs().amax(1, keepdim=True) / 3, 3, 128)
    errors = [(grid.rounded(weight) - weight).square().sum() for grid in (clipped, plain)]
    assert errors[0] < errors[1]


def test_a_channel_of_zeros_stays_zero() -> None:
    weight, hessian = layer(2)
    weight[3] = 0
    grid = Grid.of(weight, 4)
    assert not grid.rounded(weight)[3].any()
    assert not quantize_gptq(weight, hessian, grid)[3].any()


@pytest.mark.parametrize(("bits", "group_size"), [(5, None), (4, 100)])
def test_a_grid_that_does_not_fit_is_refused(bits: int, group_size: int | None) -> None:
    with pytest.raises(ValueError, match="use"):
        Grid.of(torch.ones(2, 128), bits, group_size)


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq_beats_rounding_and_quantease_beats_gptq(bits: int, group_size: int | None) -> None:
    ratios = []
    for seed in range(3):
        weight, hessian = layer(seed)
        grid = Grid.of(weight, bits, group_size)
        gptq = quantize_gptq(weight, hessian, grid)
        found = quantease(weight, hessian, grid, gptq)
        errors = [
            layer_error(weight, candidate, hessian)
            for candidate in (grid.rounded(weight), gptq, found.values)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert torch.allclose(grid.rounded(found.values), found.values, rtol=1e-6)
        assert list(found.errors) == sorted(found.errors, reverse=True)
        ratios.append(errors[2] / errors[1])
    assert sum(ratios) / len(ratios) < 0.95


def test_the_kept_residual_states_the_true_objective() -> None:
    weight, hessian = layer(4)
    grid = Grid.of(weight, 3)
    found = quantease(weight, hessian, grid, grid.rounded(weight), outliers=40)
    difference = (weight - found.weight).double()
    exact = float(((difference @ damped(hessian)) * difference).sum())
    assert found.errors[-1] == pytest.approx(exact, rel=1e-4)


def test_blocks_do_not_change_what_one_pass_over_all_inputs_gives() -> None:
    weight, hessian = (part.double() for part in layer(5, 4, 300))
    grid = Grid.of(weight, 3)
    sigma, plain = damped(hessian), grid.rounded(weight)
    found = quantease(weight, hessian, grid, plain, sweeps=1).values
    for index in range(300):
        best = plain[:, index] + ((weight - plain) @ sigma[:, index]) / sigma[index, index]
        plain[:, index] = grid.rounded_column(best, index)
    assert torch.allclose(found, plain)


def test_with_independent_inputs_nothing_beats_rounding() -> None:
    weight, _ = layer(6)
    hessian, grid = torch.eye(128, dtype=torch.float64), Grid.of(weight, 4)
    rounded = grid.rounded(weight)
    assert torch.equal(quantize_gptq(weight, hessian, grid), rounded)
    assert torch.equal(quantease(weight, hessian, grid, rounded).values, rounded)


def test_more_outliers_leave_less_error_and_none_is_the_plain_method() -> None:
    weight, hessian = layer(7)
    weight[5, 7] = 30.0
    grid = Grid.of(weight, 3)
    start = quantize_gptq(weight, hessian, grid)
    errors = []
    for count in (0, 1, 8, 64):
        found = quantease(weight, hessian, grid, start, outliers=count)
        assert int((found.outliers != 0).sum()) <= count
        assert list(found.errors) == sorted(found.errors, reverse=True)
        errors.append(layer_error(weight, found.weight, hessian))
    assert errors == sorted(errors, reverse=True)
    plain = quantease(weight, hessian, grid, start)
    assert errors[0] == layer_error(weight, plain.values, hessian)


def test_the_eigenvalue_is_never_too_small() -> None:
    for seed in range(5):
        _, hessian = layer(seed)
        exact = float(torch.linalg.eigvalsh(hessian)[-1])
        assert exact <= largest_eigenvalue(hessian) <= 1.06 * exact


def test_act_order_changes_the_order_and_not_the_grid() -> None:
    weight, hessian = layer(8)
    hessian = hessian * torch.outer(scale := torch.linspace(0.1, 3, 128).double(), scale)
    grid = Grid.of(weight, 3)
    ordered, plain = (
        quantize_gptq(weight, hessian, grid, act_order) for act_order in (True, False)
    )
    assert torch.allclose(grid.rounded(ordered), ordered, rtol=1e-6)
    assert layer_error(weight, ordered, hessian) < layer_error(weight, plain, hessian)


def test_inputs_that_never_spoke_do_no_harm_and_a_bad_gram_matrix_is_named() -> None:
    weight, hessian = layer(9)
    hessian[:, 3] = hessian[3] = 0
    grid = Grid.of(weight, 4)
    assert torch.isfinite(quantize_gptq(weight, hessian, grid)).all()
    with pytest.raises(CalibrationDataError, match="not positive"):
        quantize_gptq(weight, -hessian, grid)


def test_smoothing_folds_exactly_and_evens_out_the_inputs() -> None:
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(200, 16, generator=random) * torch.logspace(-2, 2, 16)
    norm, weights = torch.rand(16, generator=random), [torch.randn(5, 16, generator=random)] * 2
    scales = smoothing_scales((inputs * norm).abs().amax(0), weights)
    smooth_norm, smooth = fold(norm, weights, scales)
    before, after = (inputs * norm) @ weights[0].T, (inputs * smooth_norm) @ smooth[0].T
    assert torch.allclose(before, after, rtol=1e-5, atol=1e-5)
    spread = [(inputs * kind).abs().amax(0) for kind in (norm, smooth_norm)]
    assert spread[1].max() / spread[1].min() < spread[0].max() / spread[0].min()
    with pytest.raises(ValueError, match="0 to 1"):
        smoothing_scales(inputs.abs().amax(0), weights, 1.5)
