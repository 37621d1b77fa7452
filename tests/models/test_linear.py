"""Narrow linear layers against the products they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.linear import BFloat16Linear, Int8Linear, narrow_linears, quantize_rows

# Largest error measured, relative to the largest result; an output is a sum of 100 terms.
TOLERANCES = {Int8Linear: 0.02, BFloat16Linear: 0.006}


@pytest.fixture(params=[True, False])
def layer(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(100, 37, bias=request.param).requires_grad_(False)


@pytest.mark.parametrize("kind", [Int8Linear, BFloat16Linear])
@pytest.mark.parametrize("rows", [0, 1, 17, 50])
def test_results_are_close(
    layer: nn.Linear, kind: type[Int8Linear] | type[BFloat16Linear], rows: int
) -> None:
    x, narrow = torch.randn(rows, 100), kind(layer)
    assert narrow(x).dtype == torch.float32
    torch.testing.assert_close(narrow(x), layer(x), atol=2 * TOLERANCES[kind], rtol=0)


def test_a_row_in_int8_depends_on_itself_alone(layer: nn.Linear) -> None:
    narrow, x = Int8Linear(layer), torch.randn(50, 100)
    x[3] *= 1000
    assert torch.equal(narrow(x)[17:18], narrow(x[17:18]))


def test_sums_in_int8_are_exact() -> None:
    layer = nn.Linear(4096, 8, bias=False).requires_grad_(False)
    layer.weight.fill_(127.0)
    assert torch.equal(
        Int8Linear(layer)(torch.full((1, 4096), 127.0)), torch.full((1, 8), 127.0**2 * 4096)
    )


def test_a_row_that_is_not_finite_shows(layer: nn.Linear) -> None:
    x = torch.randn(3, 100)
    x[1, 5] = float("nan")
    y = Int8Linear(layer)(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_zero_rows_stay_zero() -> None:
    values, scales = quantize_rows(torch.zeros(2, 4))
    assert not values.any()
    assert not scales.any()


def test_layers_are_replaced_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    narrow_linears(model, torch.float32)
    assert sum(isinstance(module, nn.Linear) for module in model.modules()) == 2
    narrow_linears(model, torch.int8)
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 2
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
