"""Optional: int8 rounding by torchao as a method of the quantizing stage. Knows no model.

torchao is no dependency of ours (`pip install torchao`); it is imported when the method is asked
for. Ours is the implementation, this one is what it is compared with.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import FairslateError
from models.quantized_weights import CodedWeight


class AdapterMissingError(FairslateError):
    """A method of a package that is not installed."""

    code = "adapter_missing"


def quantize_torchao(weight: Tensor) -> CodedWeight:
    """weight: (q, p) float32. Codes and scales (q, 1) as torchao's W8A8 chooses them."""
    quantized: Any = torchao_linear(weight).weight
    return CodedWeight(quantized.qdata.clone(), quantized.scale.float())


def torchao_linear(weight: Tensor) -> nn.Linear:
    """A layer whose product torchao computes in int8, activations token by token."""
    try:
        torchao = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise AdapterMissingError(
            f"torchao cannot be imported ({error}); pip install torchao, or use rtn"
        ) from error
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    torchao.quantize_(layer, torchao.Int8DynamicActivationInt8WeightConfig())
    return layer
