"""Second moments do not depend on how the inputs were cut into batches, and refuse bad ones."""

from __future__ import annotations

import pytest
import torch

from compress.layers.gram import CalibrationDataError, Gram


def test_batches_add_up() -> None:
    inputs, dense = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0))
    parts = Gram(5)
    for rows in (slice(0, 7), slice(7, 30)):
        parts.add(inputs[rows].unsqueeze(0), dense[rows].unsqueeze(0))
    moments = parts.moments()
    assert torch.allclose(moments.hessian, (inputs.T @ inputs).double(), atol=1e-5)
    assert torch.allclose(moments.cross, (inputs.T @ dense).double(), atol=1e-5)
    assert moments.samples == 30


def test_without_dense_inputs_the_cross_is_the_hessian() -> None:
    gram = Gram(3)
    gram.add(torch.randn(9, 3))
    moments = gram.moments()
    assert torch.equal(moments.cross, moments.hessian)


def test_a_ridge_is_a_share_of_the_mean_diagonal() -> None:
    gram = Gram(2)
    gram.add(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    assert gram.moments().ridge(0.1) == pytest.approx(0.5)


def test_dense_inputs_may_be_of_another_width() -> None:
    inputs, dense = torch.randn(30, 3), torch.randn(30, 5)
    gram = Gram(3)
    gram.add(inputs, dense)
    assert torch.allclose(gram.moments().cross, (inputs.T @ dense).double(), atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationDataError, match="NaN or infinity"):
        Gram(2).add(torch.tensor([[1.0, bad]]))


def test_too_few_rows_are_refused() -> None:
    gram = Gram(2)
    gram.add(torch.ones(3, 2))
    with pytest.raises(CalibrationDataError, match="3 calibration rows are fewer than 4"):
        gram.moments(least_samples=4)


def test_dense_inputs_come_with_every_batch_or_none() -> None:
    gram = Gram(2)
    gram.add(torch.ones(3, 2))
    with pytest.raises(ValueError, match="earlier batches"):
        gram.add(torch.ones(3, 2), torch.ones(3, 2))
    other = Gram(2)
    other.add(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="every batch"):
        other.add(torch.ones(3, 2))
    with pytest.raises(ValueError, match="do not belong"):
        other.add(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="width 3"):
        other.add(torch.ones(1, 3))
