"""The methods that turn one layer's weight into codes and scales, by name. Knows no model.

rtn: nearest codes. gptq and quantease answer the second moments of the inputs, see there; quantease
starts from gptq. torchao: another package's nearest codes, for comparison, w8a8 only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.quantization.gptq import quantize_gptq
from compress.quantization.grid import Grid
from compress.quantization.quantease import layer_error, quantease
from compress.quantization.torchao_layers import quantize_torchao
from models.quantization import FLOAT, INT, OUTLIERS, PACKED
from models.quantized_weights import CodedWeight

METHODS = ("rtn", "gptq", "quantease", "torchao")
SCHEMES = {"w8a8": INT, "w4a16": PACKED, "fp8": FLOAT}
LARGEST_FP8 = 448.0
GROUP = 128


@dataclass(frozen=True, slots=True)
class QuantizerSettings:
    """scheme: of SCHEMES. group_size: inputs a scale of w4a16. sweeps, outlier_share: quantease."""

    method: str = "quantease"
    scheme: str = "w8a8"
    group_size: int = GROUP
    sweeps: int = 5
    outlier_share: float = 0.0

    @property
    def form(self) -> str:
        """How the codes are stored."""
        return OUTLIERS if self.outlier_share else SCHEMES[self.scheme]

    def fits(self, inputs: int) -> bool:
        """Whether layers of that many inputs can be quantized like this."""
        return self.scheme != "w4a16" or inputs % self.group_size == 0


@dataclass(frozen=True, slots=True)
class LayerResult:
    """error: relative squared output error on the calibration inputs."""

    coded: CodedWeight
    error: float


def quantize_layer(weight: Tensor, hessian: Tensor, settings: QuantizerSettings) -> LayerResult:
    """weight: (q, p) float32. hessian: (p, p) float64, X Xᵀ without damping."""
    coded = _CODERS[settings.scheme](weight, hessian, settings)
    return LayerResult(coded, layer_error(weight, coded.weight, hessian))


def _eight_bits(weight: Tensor, hessian: Tensor, settings: QuantizerSettings) -> CodedWeight:
    if settings.method == "torchao":
        return quantize_torchao(weight)
    grid = Grid.of(weight, 8)
    values, _ = _chosen(weight, hessian, grid, settings)
    return CodedWeight(grid.codes(values), grid.scales)


def _four_bits(weight: Tensor, hessian: Tensor, settings: QuantizerSettings) -> CodedWeight:
    """Scales are bf16 from the start: engines round them to it."""
    found = Grid.of(weight, 4, settings.group_size)
    grid = Grid(found.scales.bfloat16().float(), 4, settings.group_size)
    values, outliers = _chosen(weight, hessian, grid, settings)
    return CodedWeight(grid.codes(values), grid.scales.bfloat16(), outliers)


def _eight_bit_floats(weight: Tensor, hessian: Tensor, settings: QuantizerSettings) -> CodedWeight:
    """Nearest values: the grid of e4m3 is finer where weights are small."""
    scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / LARGEST_FP8
    return CodedWeight((weight / scales).to(torch.float8_e4m3fn), scales)


_CODERS: dict[str, Callable[[Tensor, Tensor, QuantizerSettings], CodedWeight]] = {
    "w8a8": _eight_bits,
    "w4a16": _four_bits,
    "fp8": _eight_bit_floats,
}


def _chosen(
    weight: Tensor, hessian: Tensor, grid: Grid, settings: QuantizerSettings
) -> tuple[Tensor, Tensor | None]:
    """Values on the grid, and outliers if any are allowed."""
    if settings.method == "rtn":
        return grid.rounded(weight), None
    start = quantize_gptq(weight, hessian, grid)
    if settings.method == "gptq":
        return start, None
    count = -int(-settings.outlier_share * weight.numel() // 1)
    found = quantease(weight, hessian, grid, start, settings.sweeps, count)
    return found.values, found.outliers if count else None
