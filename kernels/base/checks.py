"""Refuses operands a kernel must never see, by name. Knows nothing of any operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "FLOATS",
    "UnsupportedDeviceError",
    "check_capability",
    "check_dtype",
    "check_output",
    "check_same_device",
    "check_same_dtype",
    "check_shape",
    "rows_contiguous",
    "wants_gradient",
]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class UnsupportedDeviceError(RuntimeError):
    """The GPU is too old for what was asked of it."""


def check_shape(name: str, operand: Tensor, expected: Sequence[int | str]) -> None:
    """`expected` has an int for a fixed size and a word for a free one: ("rows", 1024)."""
    actual = tuple(operand.shape)
    fits = len(actual) == len(expected) and all(
        isinstance(want, str) or have == want for have, want in zip(actual, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise ValueError(f"{name} has shape {actual}; it must be ({wanted})")


def check_dtype(name: str, operand: Tensor, allowed: Sequence[torch.dtype] = FLOATS) -> None:
    """Raises TypeError unless `operand` has one of the dtypes `allowed`."""
    if operand.dtype not in allowed:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} is {str(operand.dtype).removeprefix('torch.')}; pass {wanted}")


def check_same_dtype(**operands: Tensor) -> None:
    """Raises TypeError unless all operands have the dtype of the first."""
    (first, model), *others = operands.items()
    for name, operand in others:
        if operand.dtype != model.dtype:
            raise TypeError(f"{name} is {operand.dtype}; it must be {model.dtype}, as {first} is")


def check_same_device(**operands: Tensor) -> None:
    """Raises ValueError unless all operands are where the first is."""
    (first, model), *others = operands.items()
    for name, operand in others:
        if operand.device != model.device:
            raise ValueError(f"{name} is on {operand.device}, but {first} is on {model.device}")


def check_output(name: str, out: Tensor, like: Tensor, shape: Sequence[int]) -> None:
    """`out` must be what the kernel would allocate: `like`'s dtype and device, this shape."""
    check_shape(name, out, shape)
    check_dtype(name, out, (like.dtype,))
    check_same_device(**{"the operand": like, name: out})
    if out.shape[-1] > 1 and out.stride(-1) != 1:
        raise ValueError(f"{name} has strides {out.stride()}; its last axis must be contiguous")


def check_capability(what: str, device: torch.device, needed: tuple[int, int]) -> None:
    """Raises UnsupportedDeviceError for a CUDA device below compute capability `needed`."""
    if device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < needed:
        raise UnsupportedDeviceError(
            f"{what} needs compute capability {needed[0]}.{needed[1]}; "
            f"{device} has {found[0]}.{found[1]}"
        )


def rows_contiguous(operand: Tensor) -> Tensor:
    """`operand` itself when its last axis is contiguous, as kernels read it; else a copy."""
    if operand.ndim == 0 or operand.shape[-1] <= 1 or operand.stride(-1) == 1:
        return operand
    return operand.contiguous()


def wants_gradient(*operands: Tensor) -> bool:
    """Whether autograd would record an operation on `operands`."""
    return torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
