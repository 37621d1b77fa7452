"""A linear layer at eight bits wherever that is faster. Knows nothing of models.

    out = x weight^T (+ bias) (+ residual),        x and weight quantized by rows, or neither

The dense weight is kept beside the quantized one for the batches it serves better; without it all
are quantized. Errors and limits are those of `quantize_rows` and `quantized_gemm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.checks import check_shape
from kernels.eight_bits.gemm_choice import Provider, choose_provider
from kernels.eight_bits.quantize import quantize_rows_reference
from kernels.quantized_gemm import quantized_gemm
from kernels.row_quantizer import quantize_rows


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight (columns, depth) in eight bits with a scale a column, and as it was."""

    values: Tensor  # (columns, depth) int8 or float8_e4m3fn
    scales: Tensor  # (columns,) fp32
    dense: Tensor | None  # (columns, depth)

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype, *, keep_dense: bool = True) -> QuantizedWeight:
        """Quantizes `weight` to `dtype`."""
        check_shape("weight", weight, ("columns", "depth"))
        values, scales = quantize_rows_reference(weight.detach(), dtype)
        return cls(values, scales, weight.detach() if keep_dense else None)

    def provider(self, rows: int) -> Provider:
        """Who multiplies `rows` rows with this weight fastest."""
        if self.dense is None:
            return "ours"
        columns, depth = self.values.shape
        return choose_provider(self.values.dtype, rows, columns, depth, self.values.device)


def quantized_linear(
    x: Tensor,
    weight: QuantizedWeight,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    provider: Provider | None = None,
    backend: str = "auto",
) -> Tensor:
    """Product (M, columns) in the dtype of x (M, depth), by `provider` or by the fastest."""
    check_shape("x", x, ("rows", weight.values.shape[1]))
    provider = provider or weight.provider(len(x))
    if provider == "dense" and weight.dense is not None:
        out = F.linear(x, weight.dense, None if bias is None else bias.to(x.dtype))
        return out if residual is None else out + residual
    values, scales = quantize_rows(x, weight.values.dtype, backend=backend)
    operands = (values, weight.values, scales, weight.scales)
    if provider == "vendor":
        return vendor_gemm(*operands, bias=bias, residual=residual, dtype=x.dtype)
    return quantized_gemm(*operands, bias=bias, residual=residual, dtype=x.dtype, backend=backend)


def vendor_gemm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`quantized_gemm` on a GPU by the vendor's library, as far as torch offers it.

    fp8 goes with its scales through torch._scaled_mm, its sums in the tensor cores' short format:
    what that rounds off is far below what rounding to eight bits did. int8 goes through
    torch._int_mm, whose sums are scaled in passes of their own. Both want rows and columns in
    multiples of 16.
    """
    if a.dtype == torch.int8:
        out = torch._int_mm(a, b.T) * a_scales[:, None] * b_scales
    else:
        scales = (a_scales[:, None], b_scales[None])
        out = torch._scaled_mm(a, b.T, *scales, out_dtype=dtype, use_fast_accum=True)
    for term in (bias, residual):
        out = out if term is None else out + term
    return out.to(dtype)
