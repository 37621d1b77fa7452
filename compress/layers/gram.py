"""Second moments of a layer's inputs, gathered batch by batch. Knows no model and no method.

What pruning and quantization need of calibration data is H = X'ᵀX' and, when the layers before were
changed already, G = X'ᵀX: p x p and p x q numbers, however many samples went in
(arXiv 2403.12983, section 3; arXiv 2309.01885, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import FairslateError


class CalibrationDataError(FairslateError):
    """Calibration inputs from which no sound second moments can be taken."""

    code = "calibration_data_invalid"


@dataclass(frozen=True, slots=True)
class Moments:
    """hessian: (p, p) float64, X'ᵀX' of the inputs the layer will see. cross: (p, q), X'ᵀX with the
    dense model's inputs; the same matrix when nothing before the layer was changed.
    """

    hessian: Tensor
    cross: Tensor
    samples: int

    def ridge(self, share: float) -> float:
        """`share` of the mean diagonal: added to H's own it sees to it that an inverse exists."""
        return share * float(self.hessian.diagonal().mean())


class Gram:
    """Accumulates moments of inputs of width `features` in float64; memory is p² + p q numbers."""

    def __init__(self, features: int) -> None:
        self._hessian = torch.zeros(features, features, dtype=torch.float64)
        self._cross: Tensor | None = None
        self._samples = 0

    def add(self, inputs: Tensor, dense: Tensor | None = None) -> None:
        """inputs: (..., p) any float dtype. dense: (..., q), the same tokens' in the dense model.

        Raises CalibrationDataError for values that are not finite, a ValueError for other widths.
        """
        rows = _rows(inputs, len(self._hessian))
        if dense is not None:
            self._add_cross(rows, _rows(dense, dense.shape[-1]))
        elif self._cross is not None:
            raise ValueError("dense inputs came before; give them with every batch")
        self._hessian += (rows.T @ rows).double()
        self._samples += len(rows)

    def moments(self, least_samples: int = 1) -> Moments:
        """Raises CalibrationDataError below `least_samples` rows."""
        if self._samples < max(1, least_samples):
            raise CalibrationDataError(
                f"{self._samples} calibration rows are fewer than {least_samples}; give more text"
            )
        hessian = (self._hessian + self._hessian.T) / 2  # float32 products are not quite symmetric
        cross = hessian if self._cross is None else self._cross.clone()
        return Moments(hessian, cross, self._samples)

    def _add_cross(self, rows: Tensor, dense: Tensor) -> None:
        if len(dense) != len(rows):
            raise ValueError(f"{len(dense)} dense rows do not belong to {len(rows)} rows")
        if self._cross is None:
            if self._samples:
                raise ValueError("earlier batches came without dense inputs; give them with all")
            self._cross = self._hessian.new_zeros(rows.shape[-1], dense.shape[-1])
        self._cross += (rows.T @ dense).double()


def _rows(inputs: Tensor, features: int) -> Tensor:
    if inputs.shape[-1] != features:
        raise ValueError(f"inputs of width {inputs.shape[-1]} do not fit {features} features")
    rows = inputs.detach().reshape(-1, features).float()
    if not torch.isfinite(rows).all():
        raise CalibrationDataError(
            "calibration inputs hold NaN or infinity; check the model and the texts"
        )
    return rows
