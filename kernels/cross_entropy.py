"""Cross-entropy of logits with integer targets, trained through. Knows nothing of its kernel.

The formula is that of `cross_entropy_rows`. The losses cost one pass over the logits, the gradient
two (a read and a write) in the backward pass, whatever the upstream gradient. Plainly the logits
stay as they are; in place the gradient overwrites them, so that nothing else of their size exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_same_device, check_shape, rows_contiguous
from kernels.base.dispatch import Operator, choose_backend
from kernels.base.variant import Cost
from kernels.losses.cross_entropy_rows import (
    Terms,
    cross_entropy_reference,
    cross_entropy_rows,
    launch_cross_entropy,
)
from kernels.losses.reduction import check_reduction, reduced


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    inplace: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none", of logits (N, V) and targets (N,) int64.

    Rows whose target is `ignore_index` give loss and gradient 0 and do not count in the mean, which
    is 0 when none is left. label_smoothing is torch's; z_loss adds z_loss * lse^2; softcap bounds
    the logits first. With `inplace` the backward pass puts the gradient where the logits were: pass
    logits nobody reads again, and call backward once. Raises ValueError or TypeError naming the
    operand, BackendUnavailableError as `choose_backend` does. A target outside [0, V) raises
    IndexError or RuntimeError in torch; Triton's loss for it is NaN.
    """
    check_logits(logits, targets)
    check_reduction(reduction)
    terms = checked_terms(ignore_index, label_smoothing, z_loss, softcap)
    chosen = choose_backend(backend, logits)
    if inplace:
        _check_rows(logits)
        losses = _CrossEntropyInPlace.apply(logits, targets.contiguous(), chosen, *terms)  # type: ignore[no-untyped-call]
    elif chosen == "torch":
        losses = cross_entropy_reference(logits, targets, terms)
    else:
        losses = _CrossEntropy.apply(rows_contiguous(logits), targets.contiguous(), *terms)  # type: ignore[no-untyped-call]
    return reduced(losses, targets, ignore_index, reduction)


def check_logits(logits: Tensor, targets: Tensor) -> None:
    """Raises ValueError or TypeError unless logits are (N, V) floats and targets (N,) int64."""
    check_shape("logits", logits, ("rows", "vocabulary"))
    check_dtype("logits", logits, FLOATS)
    check_targets(targets, logits)
    if logits.shape[1] == 0:
        raise ValueError("logits have no columns; there must be one per token of the vocabulary")


def check_targets(targets: Tensor, rows: Tensor) -> None:
    """Raises ValueError or TypeError unless `targets` are (N,) int64 beside `rows` (N, ...)."""
    check_shape("targets", targets, (rows.shape[0],))
    check_dtype("targets", targets, (torch.int64,))
    check_same_device(logits=rows, targets=targets)


def checked_terms(
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float | None
) -> Terms:
    """The terms of the loss; raises ValueError for one out of its range."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}; pass 0 to 1")
    if z_loss < 0.0:
        raise ValueError(f"z_loss is {z_loss}; pass 0 or more")
    if softcap is not None and softcap <= 0.0:
        raise ValueError(f"softcap is {softcap}; pass more than 0, or None")
    return Terms(ignore_index, label_smoothing, z_loss, softcap)


def _losses(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Losses and log-sum-exps, both (N,) float32."""
    losses, lse = _empty_losses(logits)
    terms = Terms(ignore_index, label_smoothing, z_loss, softcap)
    launch_cross_entropy(losses, lse, None, logits, targets, None, terms)
    return losses, lse


def _empty_losses(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    losses = logits.new_empty(logits.shape[:1], dtype=torch.float32)
    return losses, torch.empty_like(losses)


def _gradient(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    upstream: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
) -> Tensor:
    gradient = _empty_gradient(logits)
    terms = Terms(ignore_index, label_smoothing, z_loss, softcap)
    launch_cross_entropy(None, lse, gradient, logits, targets, upstream, terms)
    return gradient


def _empty_gradient(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


losses_operator = Operator("fairslate::cross_entropy_losses", _losses, _empty_losses)
gradient_operator = Operator("fairslate::cross_entropy_gradient", _gradient, _empty_gradient)


class _CrossEntropy(torch.autograd.Function):
    """Losses of rows; the backward pass reads the logits again and takes any upstream gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, *terms: Any) -> Tensor:
        losses, lse = losses_operator(logits, targets, *terms)
        ctx.save_for_backward(logits, targets, lse)
        ctx.terms = terms
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, lse = ctx.saved_tensors
        gradient = gradient_operator(logits, targets, lse, upstream.float(), *ctx.terms)
        return (gradient, *[None] * 5)


class _CrossEntropyInPlace(torch.autograd.Function):
    """Losses of rows; the backward pass overwrites the logits, which nobody else may need."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, backend: str, *terms: Any) -> Tensor:
        if backend == "torch":
            losses = cross_entropy_rows(logits, targets, None, Terms(*terms), backend)
            lse = None
        else:
            losses, lse = losses_operator(logits, targets, *terms)
        ctx.kept, ctx.backend, ctx.terms = (logits.detach(), targets, lse), backend, Terms(*terms)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("backward ran again through cross_entropy(inplace=True)")
        (logits, targets, lse), ctx.kept = ctx.kept, None
        if ctx.backend == "torch":
            cross_entropy_rows(logits, targets, upstream, ctx.terms, ctx.backend)
        else:
            weights = upstream.float()
            launch_cross_entropy(None, lse, logits, logits, targets, weights, ctx.terms)
        return (logits, *[None] * 6)


def _check_rows(logits: Tensor) -> None:
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError(f"logits have strides {logits.stride()}; inplace needs contiguous rows")


def cost(logits: Tensor, *, gradient: bool = True) -> Cost:
    """One read of the logits for the losses, one more and a write for the gradient."""
    return Cost(logits.nbytes * (3 if gradient else 1), logits.numel() * (7 if gradient else 4))
