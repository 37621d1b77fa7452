"""QuantEase: coordinate descent on the layer's output error, with every weight on its grid.

Minimises |W X - Ŵ X|²: with Σ = X Xᵀ the best value of one weight, all others fixed, is
round_grid(Ŵ_ij + [(W - Ŵ) Σ]_ij / Σ_jj), for all channels i at once (arXiv 2309.01885, section 3).
No inverse is needed and the error never rises. Outlier-aware (section 4): Ŵ + Ô with few non-zero Ô
in full precision, found by projected gradient steps between the sweeps. Knows no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.quantization.gptq import BLOCK, damped
from compress.quantization.grid import Grid

SWEEPS = 5
POWER_STEPS = 50  # towards the largest eigenvalue
EIGENVALUE_MARGIN = 1.05  # power iteration comes from below; a step too long could raise the error


@dataclass(frozen=True, slots=True)
class Quantized:
    """values: (q, p) on the grid. outliers: (q, p), zero but for few. errors: the objective at the
    start and after each sweep, tr((W - Ŵ - Ô) Σ (W - Ŵ - Ô)ᵀ)."""

    values: Tensor
    outliers: Tensor
    errors: tuple[float, ...]

    @property
    def weight(self) -> Tensor:
        """What the layer computes with."""
        return self.values + self.outliers


def quantease(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    start: Tensor,
    sweeps: int = SWEEPS,
    outliers: int = 0,
) -> Quantized:
    """Sweeps from `start`, (q, p) on the grid; GPTQ's answer is the start to take.

    outliers: how many weights of the layer may keep full precision besides. hessian: (p, p) without
    damping.
    """
    sigma = damped(hessian).to(weight.dtype)
    values, extra = start.clone(), torch.zeros_like(weight)
    residual = (weight - values) @ sigma  # (W - Ŵ - Ô) Σ, kept up to date
    step = 1 / largest_eigenvalue(sigma) if outliers else 0.0
    errors = [_objective(weight - values - extra, residual)]
    for _ in range(sweeps):
        _sweep(values, residual, sigma, grid)
        if outliers:
            kept = _largest(extra + step * residual, outliers)
            residual -= (kept - extra) @ sigma
            extra = kept
        errors.append(_objective(weight - values - extra, residual))
    return Quantized(values, extra, tuple(errors))


def _sweep(values: Tensor, residual: Tensor, sigma: Tensor, grid: Grid) -> None:
    """One pass over all inputs, in blocks: within one, only its own residuals are kept exact."""
    diagonal = sigma.diagonal()
    for begin in range(0, values.shape[1], BLOCK):
        block = slice(begin, min(begin + BLOCK, values.shape[1]))
        before, own = values[:, block].clone(), residual[:, block].clone()
        for place in range(own.shape[1]):
            index = begin + place
            best = values[:, index] + own[:, place] / diagonal[index]
            found = grid.rounded_column(best, index)
            own -= torch.outer(found - values[:, index], sigma[index, block])
            values[:, index] = found
        residual -= (values[:, block] - before) @ sigma[block]


def _largest(weight: Tensor, count: int) -> Tensor:
    """All but the `count` largest by magnitude set to zero."""
    places = weight.abs().flatten().topk(min(count, weight.numel())).indices
    kept = torch.zeros_like(weight).flatten()
    kept[places] = weight.flatten()[places]
    return kept.view_as(weight)


def _objective(difference: Tensor, residual: Tensor) -> float:
    return float((difference.double() * residual.double()).sum())


def largest_eigenvalue(sigma: Tensor) -> float:
    """By power iteration, with a margin above what it has reached."""
    vector = torch.ones(len(sigma), dtype=sigma.dtype) / len(sigma) ** 0.5
    for _ in range(POWER_STEPS):
        product = sigma @ vector
        vector = product / product.norm()
    return EIGENVALUE_MARGIN * float((sigma @ vector).norm())


def layer_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """Relative squared output error |(W - Ŵ) X|² / |W X|², without damping.

    Of a layer that gives nothing: 0 where it still gives nothing, infinity where it no longer does.
    """
    error, whole = (
        float(((part @ hessian) * part).sum())
        for part in ((weight - quantized).double(), weight.double())
    )
    if whole == 0:
        return 0.0 if error == 0 else math.inf
    return error / whole
