"""Linear layers at full or at eight bits, and what feeds them. Knows nothing of attention or pages.

Eight bits mean one scale a row of activations, taken while they are made, and one a row of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.norm import add_rms_norm, rms_norm
from kernels.norm_quantize import add_rms_norm_quantize
from kernels.quantized_gemm import quantized_gemm
from kernels.row_quantizer import quantize_rows
from kernels.swiglu import swiglu_packed


@dataclass(frozen=True, slots=True)
class Rows:
    """Activations: (rows, width) values and, at eight bits, (rows,) fp32 scales."""

    values: Tensor
    scales: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Weight(Rows):
    """A layer: (outputs, inputs) values and, in the dtype of its results, its (outputs,) bias."""

    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Full width: activations and weights in `dtype`, products by the vendor's library."""

    dtype: torch.dtype
    backend: str = "auto"

    def pack(self, weight: Tensor, device: torch.device, bias: Tensor | None = None) -> Weight:
        """A weight (outputs, inputs) and its bias as `linear` takes them."""
        return Weight(weight.detach().to(device, self.dtype), bias=self._bias(bias, device))

    def linear(self, x: Rows, weight: Weight) -> Tensor:
        """(rows, outputs) in `dtype`."""
        return F.linear(x.values, weight.values, weight.bias)

    def rows(self, x: Tensor) -> Rows:
        """Activations as `linear` takes them."""
        return Rows(x)

    def norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Rows, Tensor]:
        """Normed rows of x + residual, and the sum."""
        if residual is None:
            return Rows(rms_norm(x, weight, eps, backend=self.backend)), x
        normed, total = add_rms_norm(x, residual, weight, eps, backend=self.backend)
        return Rows(normed), total

    def swiglu(self, gate_up: Tensor) -> Rows:
        """silu(gate) * up of the two halves of each row."""
        return Rows(swiglu_packed(gate_up, backend=self.backend))

    def _bias(self, bias: Tensor | None, device: torch.device) -> Tensor | None:
        return None if bias is None else bias.detach().to(device, self.dtype)


@dataclass(frozen=True, slots=True)
class EightBitArithmetic(Arithmetic):
    """Weights and activations of linear layers in `narrow`: float8_e4m3fn or int8.

    vendor: whether the vendor's library multiplies, fp8 on CUDA only, or our kernel.
    """

    narrow: torch.dtype = torch.float8_e4m3fn
    vendor: bool = False

    def pack(self, weight: Tensor, device: torch.device, bias: Tensor | None = None) -> Weight:
        rows = quantize_rows(weight.detach().to(device), self.narrow, backend="torch")
        return Weight(*rows, self._bias(bias, device))

    def linear(self, x: Rows, weight: Weight) -> Tensor:
        assert x.scales is not None
        assert weight.scales is not None
        if self.vendor:
            scales = x.scales[:, None], weight.scales[None]
            out = torch._scaled_mm(x.values, weight.values.t(), *scales, out_dtype=self.dtype)
            return out if weight.bias is None else out.add_(weight.bias)
        return quantized_gemm(
            x.values, weight.values, x.scales, weight.scales,
            bias=weight.bias, dtype=self.dtype, backend=self.backend,
        )  # fmt: skip

    def rows(self, x: Tensor) -> Rows:
        return Rows(*quantize_rows(x, self.narrow, backend=self.backend))

    def norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Rows, Tensor]:
        values, scales, total = add_rms_norm_quantize(
            x, residual, weight, eps, self.narrow, backend=self.backend
        )
        return Rows(values, scales), total

    def swiglu(self, gate_up: Tensor) -> Rows:
        return self.rows(swiglu_packed(gate_up, backend=self.backend))
