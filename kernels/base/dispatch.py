"""Chooses who runs an operation, Triton or plain torch. Knows nothing of any operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:  # a CPU installation has no Triton and needs none
    triton = tl = None

__all__ = [
    "BackendUnavailableError",
    "Operator",
    "choose_backend",
    "interpreting",
    "jit",
    "tl",
    "triton",
]

Backend = Literal["triton", "torch"]
Function = TypeVar("Function", bound=Callable[..., Any])
Operands = ParamSpec("Operands")
Result = TypeVar("Result")


class BackendUnavailableError(RuntimeError):
    """The caller asked by name for a backend that cannot run here."""


def jit(kernel: Function) -> Any:
    """`triton.jit` where Triton is installed; elsewhere the function, which nobody will launch."""
    return kernel if triton is None else triton.jit(kernel)


class Operator(Generic[Operands, Result]):
    """A function that launches kernels, and its twin in torch.library named "fairslate::...".

    `torch.compile` must not look inside the function and sees the twin, with `fake` for shapes.
    Eager calls take the function: the dispatcher costs tens of microseconds, a launch only a few.
    """

    def __init__(
        self,
        name: str,
        function: Callable[Operands, Result],
        fake: Callable[Operands, Result],
        mutates: tuple[str, ...] = (),
    ) -> None:
        self.function = function
        self.twin = torch.library.custom_op(name, function, mutates_args=mutates)
        self.twin.register_fake(fake)

    def __call__(self, *operands: Operands.args, **options: Operands.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return self.twin(*operands, **options)  # type: ignore[no-any-return]
        return self.function(*operands, **options)


# Read once, as `jit` does when it meets a kernel; torch.compile cannot follow Triton's own switch.
_INTERPRETING = triton is not None and bool(triton.knobs.runtime.interpret)


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python on the CPU, as TRITON_INTERPRET=1 asks."""
    return _INTERPRETING


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
