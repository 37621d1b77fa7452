"""Our nearest int8 codes and products are torchao's, where it is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from compress.quantization.quantizers import QuantizerSettings, quantize_layer
from compress.quantization.torchao_layers import AdapterMissingError, torchao_linear
from models.linear import Int8Linear

INSTALLED = importlib.util.find_spec("torchao") is not None
needs_torchao = pytest.mark.skipif(not INSTALLED, reason="torchao is not installed")


@needs_torchao
def test_codes_and_products_are_those_of_torchao() -> None:
    random = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(rows, 64, generator=random) for rows in (32, 48))
    hessian = (x.T @ x).double()
    ours, theirs = (
        quantize_layer(weight, hessian, QuantizerSettings(method)) for method in ("rtn", "torchao")
    )
    step = ours.coded.scales.max()
    assert (ours.coded.weight - theirs.coded.weight).abs().max() <= 1.01 * step
    assert ours.error < 1.05 * theirs.error
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    difference = Int8Linear(layer)(x) - torchao_linear(weight)(x)
    assert difference.norm() < 0.02 * (x @ weight.T).norm()


@pytest.mark.skipif(INSTALLED, reason="torchao is installed")
def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(AdapterMissingError, match="pip install torchao, or use rtn"):
        torchao_linear(torch.ones(2, 8))
