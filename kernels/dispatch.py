"""Chooses who runs an operation, Triton or plain torch. Knows nothing of any operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:  # a CPU installation has no Triton and needs none
    triton = tl = None

__all__ = ["BackendUnavailableError", "choose_backend", "jit", "tl", "triton"]

Backend = Literal["triton", "torch"]
Function = TypeVar("Function", bound=Callable[..., None])


class BackendUnavailableError(RuntimeError):
    """The caller asked by name for a backend that cannot run here."""


def jit(kernel: Function) -> Any:
    """`triton.jit` where Triton is installed; elsewhere the function, which nobody will launch."""
    return kernel if triton is None else triton.jit(kernel)


def choose_backend(backend: str, example: Tensor) -> Backend:
    """Resolves "auto", "triton" or "torch" for operands like `example`.

    "auto" takes Triton only for CUDA operands. Raises ValueError for another name and
    BackendUnavailableError when "triton" is asked for and Triton is not installed.
    """
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend is {backend!r}; pass 'auto', 'triton' or 'torch'")
    if backend == "triton" and triton is None:
        raise BackendUnavailableError("Triton is not installed; pass backend='torch' or install it")
    if backend == "auto":
        return "triton" if triton is not None and example.is_cuda else "torch"
    return "triton" if backend == "triton" else "torch"
