"""Second moments of a layer's inputs, gathered batch by batch. Knows no model and no method.

What pruning and quantization need of calibration data is H = X'ᵀX' and, when the layers before were
changed already, G = X'ᵀX: p x p numbers each, however many samples went in
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
    """hessian: (p, p) float64, X'ᵀX' of the inputs the layer will see. cross: (p, p), X'ᵀX with the
    dense model's inputs; the same matrix when nothing before the layer was changed.
    """

    hessian: Tensor
    cross: Tensor
    samples: int

    def damped(self, share: float) -> Moments:
        """Adds `share` of the mean diagonal to both diagonals, so that the inverse exists.

        Both get it: a ridge on H alone would shrink the weights of what is kept.
        """
        ridge = share * float(self.hessian.diagonal().mean())
        eye = torch.eye(len(self.hessian), dtype=self.hessian.dtype) * ridge
        return Moments(self.hessian + eye, self.cross + eye, self.samples)


class Gram:
    """Accumulates moments of inputs of width `features` in float64; memory is 2 p² numbers."""

    def __init__(self, features: int) -> None:
        self._hessian = torch.zeros(features, features, dtype=torch.float64)
        self._cross: Tensor | None = None
        self._samples = 0

    def add(self, inputs: Tensor, dense: Tensor | None = None) -> None:
        """inputs: (..., p) any float dtype. dense: the same tokens' inputs in the unchanged model.

        Raises CalibrationDataError for values that are not finite, a ValueError for other widths.
        """
        rows = self._rows(inputs)
        if dense is not None:
            self._add_cross(rows, self._rows(dense))
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
            self._cross = torch.zeros_like(self._hessian)
        self._cross += (rows.T @ dense).double()

    def _rows(self, inputs: Tensor) -> Tensor:
        features = len(self._hessian)
        if inputs.shape[-1] != features:
            raise ValueError(f"inputs of width {inputs.shape[-1]} do not fit {features} features")
        rows = inputs.detach().reshape(-1, features).float()
        if not torch.isfinite(rows).all():
            raise CalibrationDataError(
                "calibration inputs hold NaN or infinity; check the model and the texts"
            )
        return rows
