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

__all__ = ["BackendUnavailableError", "choose_backend", "interpreting", "jit", "tl", "triton"]

Backend = Literal["triton", "torch"]
Function = TypeVar("Function", bound=Callable[..., Any])


class BackendUnavailableError(RuntimeError):
    """The caller asked by name for a backend that cannot run here."""


def jit(kernel: Function) -> Any:
    """`triton.jit` where Triton is installed; elsewhere the function, which nobody will launch."""
    return kernel if triton is None else triton.jit(kernel)


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python on the CPU, as TRITON_INTERPRET=1 asks."""
    return triton is not None and bool(triton.knobs.runtime.interpret)


def choose_backend(backend: str, example: Tensor) -> Backend:
    """Resolves "auto", "triton" or "torch" for operands like `example`.

    "auto" takes Triton only for CUDA operands. Raises ValueError for another name and
    BackendUnavailableError when "triton" is asked for and cannot run on the operands' device.
    """
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend is {backend!r}; pass 'auto', 'triton' or 'torch'")
    if backend == "triton":
        _require_triton(example)
        return "triton"
    if backend == "auto" and triton is not None and example.is_cuda:
        return "triton"
    return "torch"


def _require_triton(example: Tensor) -> None:
    if triton is None:
        raise BackendUnavailableError("Triton is not installed; pass backend='torch' or install it")
    if not (example.is_cuda or interpreting()):
        raise BackendUnavailableError(
            f"operands are on {example.device}, where Triton runs only interpreted; "
            "pass backend='torch' or set TRITON_INTERPRET=1"
        )
