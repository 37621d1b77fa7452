"""Linear layers in eight bits or bf16 on torch operations, float32 in and out. Knows no decoder.

Eight bits: one scale a row of weights, one scale a row of activations, taken as they come.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 127
ROW_SCALES = "row_scales"


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, width) float32 to int8 and scales (rows, 1) with x ~ values * scales.

    A row that is not finite gets such a scale, so its error shows.
    """
    scales = x.abs().amax(-1, keepdim=True) / LARGEST
    return (x / scales.clamp(min=1e-30)).round().to(torch.int8), scales


def attach_row_scales(layer: nn.Module, scales: Tensor) -> None:
    """Notes that the rows of `layer.weight` are int8 codes times scales (rows,)."""
    layer.register_buffer(ROW_SCALES, scales, persistent=False)


def row_scales(layer: nn.Module) -> Tensor | None:
    """(rows,) scales that the weights were stored with, if they were stored in int8."""
    return getattr(layer, ROW_SCALES, None)


def row_codes(weight: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
    """(rows, width) int8 and (rows, 1): the stored codes where there are scales, else new ones.

    A stored weight is the code times the scale, rounded once, so the quotient rounds to the code.
    """
    if scales is None:
        return quantize_rows(weight)
    column = scales[:, None]
    return (weight / column.clamp(min=1e-30)).round().to(torch.int8), column


class Int8Linear(nn.Module):
    """y = (q(x) . q(W)^T) * scale(x) * scale(W) + b, the sum exact in int32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values, scales = row_codes(layer.weight.detach(), row_scales(layer))
        # `_int_mm` takes no more than 16 rows less, and multiples of 8 otherwise.
        self._columns = values.shape[0]
        self._weight = F.pad(values, (0, -values.shape[1] % 8, 0, -values.shape[0] % 8)).t()
        self._scales = scales.flatten()
        self._bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, inputs)."""
        values, scales = quantize_rows(x)
        rows = max(32, len(x))
        padding = (0, len(self._weight) - x.shape[1], 0, rows - len(x))
        sums = torch._int_mm(F.pad(values, padding), self._weight)[: len(x), : self._columns]
        y = sums * scales * self._scales
        return y if self._bias is None else y + self._bias


class BFloat16Linear(nn.Module):
    """y = bf16(x) . bf16(W)^T + b, summed in float32 and rounded to bf16."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight = layer.weight.detach().bfloat16()
        self._bias = None if layer.bias is None else layer.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, inputs)."""
        return F.linear(x.bfloat16(), self._weight, self._bias).float()


def narrow_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces every nn.Linear below `module` in place; float32 leaves them."""
    if dtype == torch.float32:
        return
    narrow = Int8Linear if dtype == torch.int8 else BFloat16Linear
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, narrow(child))
        else:
            narrow_linears(child, dtype)
