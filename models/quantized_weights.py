"""Quantized weights as they are stored and as they are computed with. Knows no method that chooses.

Every stored weight is a code times a scale, so what is read back is exactly what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.quantization import KV_SCALES, PER_INT32, Quantization, is_coded

ZERO = 8  # what is added to a code of 4 bits before it is packed
CODE_DTYPES = (torch.int8, torch.float8_e4m3fn)


@dataclass(frozen=True, slots=True)
class CodedWeight:
    """codes: (q, p) int8 or float8_e4m3fn. scales: (q, groups). outliers: (q, p) or None."""

    codes: Tensor
    scales: Tensor
    outliers: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """(q, p) float32 that the layer computes with."""
        size = self.codes.shape[1] // self.scales.shape[1]
        weight = self.codes.float() * self.scales.float().repeat_interleave(size, dim=1)
        return weight if self.outliers is None else weight + self.outliers


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """coded: by name of the weight. kv_scales: by name, (1,) float32."""

    quantization: Quantization
    coded: Mapping[str, CodedWeight]
    kv_scales: Mapping[str, Tensor] = field(default_factory=dict)

    def stored(self) -> dict[str, Tensor]:
        """What the file holds in the place of the weights."""
        found = dict(self.kv_scales)
        for name, coded in self.coded.items():
            found |= self._stored(name, coded)
        return found

    def _stored(self, name: str, coded: CodedWeight) -> dict[str, Tensor]:
        scales = {f"{name}_scale": coded.scales.contiguous()}
        if not self.quantization.packed:
            return scales | {name: coded.codes.contiguous()}
        shape = torch.tensor(coded.codes.shape)
        found = scales | {f"{name}_packed": packed(coded.codes), f"{name}_shape": shape}
        if coded.outliers is None:
            return found
        count = self.quantization.outliers_of(tuple(coded.outliers.shape))
        places = coded.outliers.abs().flatten().topk(count).indices.sort().values
        found[f"{name}_outliers"] = coded.outliers.flatten()[places].float()
        return found | {f"{name}_outlier_places": places.int()}


def restored(
    quantization: Quantization, shapes: Mapping[str, list[int]], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inverse of `stored`: all weights of `shapes` in float32, and row scales of int8 weights.

    tensors: all of the file, packed codes as integers, the rest in float32.
    """
    weights, row_scales = {}, {}
    for name, shape in shapes.items():
        if not is_coded(name):
            weights[name] = tensors[name]
            continue
        coded = _restored(quantization, name, shape, tensors)
        weights[name] = coded.weight
        if quantization.form == "int-quantized":
            row_scales[name] = coded.scales.flatten()
    return weights, row_scales


def _restored(
    quantization: Quantization, name: str, shape: list[int], tensors: Mapping[str, Tensor]
) -> CodedWeight:
    scales = tensors[f"{name}_scale"]
    if not quantization.packed:
        return CodedWeight(tensors[name], scales)
    codes = unpacked(tensors[f"{name}_packed"], shape[1])
    if not quantization.outlier_share:
        return CodedWeight(codes, scales)
    outliers = torch.zeros(shape)
    outliers.view(-1)[tensors[f"{name}_outlier_places"].long()] = tensors[f"{name}_outliers"]
    return CodedWeight(codes, scales, outliers)


def packed(codes: Tensor) -> Tensor:
    """(q, p) int8 of -8 to 7 to (q, p / 8) int32, the first code in the lowest bits."""
    rows, width = codes.shape
    padded = torch.nn.functional.pad(codes.int() + ZERO, (0, -width % PER_INT32))
    shifts = 4 * torch.arange(PER_INT32, dtype=torch.int32)
    return (padded.view(rows, -1, PER_INT32) << shifts).sum(2, dtype=torch.int32)


def unpacked(words: Tensor, width: int) -> Tensor:
    """Inverse of `packed`."""
    shifts = 4 * torch.arange(PER_INT32, dtype=torch.int32)
    codes = (words[..., None] >> shifts & 15) - ZERO
    return codes.flatten(1)[:, :width].to(torch.int8)


def kv_scale_names(layer: int) -> tuple[str, str]:
    """Of keys and values."""
    keys, values = (f"model.layers.{layer}.{name}" for name in KV_SCALES)
    return keys, values
