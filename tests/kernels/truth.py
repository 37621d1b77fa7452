"""How tests of kernels judge a result and guard memory around it. Knows nothing of any kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("torch", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The limits no kernel may pass: RMS of the error over RMS of the truth. Tests state tighter ones.
RMSE_LIMITS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
SENTINEL = -7.0  # exact in every dtype
# Values around a guarded tensor along its first axis and the others. A block of rows that ran on
# past the last one stays inside, where it is seen and does no harm.
MARGINS = (41, 3)


def rmse_ratio(actual: Tensor, expected: Tensor) -> float:
    """RMS of the error over RMS of the truth; 0 for no elements, NaN wherever either has one."""
    if expected.numel() == 0:
        return 0.0
    error = (actual.double() - expected.double()).square().mean().sqrt()
    return float(error / expected.double().square().mean().sqrt().clamp_min(1e-300))


def max_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute error; 0 for no elements."""
    if expected.numel() == 0:
        return 0.0
    return float((actual.double() - expected.double()).abs().max())


def one_ulp(expected: Tensor, dtype: torch.dtype) -> float:
    """Spacing of `dtype` at the largest value: what the interpreter loses where it truncates."""
    if expected.numel() == 0:
        return 0.0
    largest = float(expected.double().abs().max())
    return torch.finfo(dtype).eps * largest


def assert_accurate(
    name: str, actual: Tensor, expected: Tensor, tolerance: float, eager: Tensor | None = None
) -> None:
    """`actual` is near the fp64 truth, and no worse than twice the same-dtype `eager` result."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    ratio = rmse_ratio(actual, expected)
    assert ratio <= tolerance, f"{name}: RMSE ratio {ratio:.3g} > {tolerance:.3g}"
    if eager is None:
        return
    worst, allowed = max_error(actual, expected), 2 * max_error(eager, expected)
    allowed += one_ulp(expected, actual.dtype)
    assert worst <= allowed, f"{name}: max error {worst:.3g} > {allowed:.3g}"


def assert_same(ours: Tensor, expected: Tensor, backend: str) -> None:
    """The same bits from Triton; torch's own differ in the last with strides and alignment."""
    rounding = 1e-6 if backend == "torch" and ours.dtype == torch.float32 else 0.0
    torch.testing.assert_close(ours, expected, rtol=rounding, atol=rounding)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal values, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed * 7919 + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def assert_identical(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Dtypes, shapes and values, bit for bit; fp8 has no comparison of its own."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert torch.equal(ours.float(), theirs.float())


def guarded(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(buffer of sentinels, view inside it of this shape): rows apart, values contiguous."""
    return _framed(shape, SENTINEL, dtype)


def assert_guard_untouched(buffer: Tensor, view: Tensor) -> None:
    """Nothing outside `view`, made by `guarded`, was written. Overwrites `view`."""
    view.fill_(SENTINEL)
    assert (buffer.double() == SENTINEL).all(), "written outside the output"


def surrounded(operand: Tensor, filler: float = torch.inf) -> Tensor:
    """The same values amid `filler`, which spoils every sum it enters: catches stray reads."""
    return _framed(operand.shape, filler, operand.dtype)[1].copy_(operand)


def _framed(shape: Sequence[int], filler: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    margins = [MARGINS[axis > 0] for axis in range(len(shape))]
    sizes = [size + margin for size, margin in zip(shape, margins, strict=True)]
    buffer = torch.full(sizes, filler).to(dtype)
    return buffer, buffer[tuple(slice(1, 1 + size) for size in shape)]


def spread(operand: Tensor) -> Tensor:
    """The same values with stride 2 along the last axis."""
    return operand.repeat_interleave(2, dim=-1)[..., ::2]


def gradients_of(
    function: Callable[..., Any], leaves: Sequence[Tensor], upstream: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of `function(*leaves)`, of one output or several, and the same a second time."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)
    again = torch.autograd.grad(outputs, leaves, upstream)
    assert all(torch.equal(*pair) for pair in zip(gradients, again, strict=True))
    return list(gradients)
