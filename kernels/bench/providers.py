"""The ways to compute one operation that a benchmark compares. Knows no operation and no clock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.bench.liger_table import liger_functions
from kernels.catalogue.operation import (
    Function,
    Operands,
    Operation,
    copied,
    outputs_of,
    run,
    run_with_gradients,
    upstream_of,
    widened,
)

MOST_SHAPES = 256  # that torch.compile may take one function at
PROVIDERS = ("eager", "torch.compile", "liger", "ours")


@dataclass(frozen=True, slots=True)
class Task:
    """One operation on given operands, with or without its backward pass."""

    operation: Operation
    operands: Operands
    backward: bool

    def functions(self, provider: str) -> dict[str, Function]:
        """The provider's functions of the operands alone, by what each is called in a row."""
        if provider == "eager":
            return {provider: self.operation.baseline()}
        if provider == "torch.compile":
            if not self.operation.compiles:
                return {}
            return {provider: compiled(self.operation.baseline())}
        if provider == "liger":
            return liger_functions(self.operation)
        return {provider: partial(self.operation.function(), backend=self._backend())}

    def _backend(self) -> str:
        """On a CPU the plain torch path is timed: Triton would only be interpreted there."""
        tensors = outputs_of(self.operands)
        return "triton" if any(tensor.is_cuda for tensor in tensors) else "torch"

    def results(self, function: Function, operands: Operands | None = None) -> list[Tensor]:
        """Outputs, and gradients in the backward mode, of a call that spoils only copies."""
        operands = copied(self.operands) if operands is None else operands
        if not self.backward:
            return run(function, operands)
        upstream = _copies(self.upstream())
        return run_with_gradients(function, operands, self.operation.trained, upstream)

    def truth(self) -> list[Tensor]:
        """The reference's results in fp32, from the same operands."""
        return self.results(self.operation.truth(), widened(self.operands, torch.float32))

    def upstream(self) -> list[Tensor]:
        """What every provider's outputs receive: random gradients, a loss 1 as from backward()."""
        with torch.no_grad():
            outputs = outputs_of(self.operation.truth()(**copied(self.operands)))
        floats = [output for output in outputs if output.is_floating_point()]
        return [
            torch.ones_like(output) if output.ndim == 0 else gradient
            for output, gradient in zip(floats, upstream_of(floats), strict=True)
        ]

    def compile(self, function: Function) -> None:
        """Calls it once, sparing memory: the operands themselves may be overwritten."""
        if not self.backward:
            run(function, self.operands)
            return
        leaves = [self.operands[name].requires_grad_() for name in self.operation.trained]
        reached = [out for out in outputs_of(function(**self.operands)) if out.requires_grad]
        torch.autograd.grad(reached, leaves, [torch.ones_like(out) for out in reached])

    def call(self, function: Function) -> Callable[[], Any]:
        """What is timed: it owns whatever operands the function may overwrite."""
        operands = copied(self.operands)
        if not self.backward:
            return partial(run, function, operands)
        leaves = [operands[name].requires_grad_() for name in self.operation.trained]
        upstream = _copies(self.upstream())

        def forward_and_backward() -> object:
            reached = [out for out in outputs_of(function(**operands)) if out.requires_grad]
            given = [grad.to(out.dtype) for out, grad in zip(reached, upstream, strict=True)]
            return torch.autograd.grad(reached, leaves, given)

        return forward_and_backward


@functools.cache
def compiled(function: Function) -> Function:
    """One for each function, so that what it compiled at a shape serves again."""
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES
    return torch.compile(function, dynamic=False)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
