"""What the tools know of an operation: operands to try it on, gradients it has. Times nothing.

The table stands in `inference_table` and `training_table`. An operation's function and cost are
found in its own module by name, and only when asked for: one broken module takes no other down.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.base.variant import Cost
from kernels.catalogue.shapes import ModelShape

Operands = dict[str, Any]
Function = Callable[..., Any]
BOTH = (torch.float32, torch.bfloat16)


class Draw:
    """Random operands of one dtype on one device, the same for the same seed."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        drawn = torch.empty(shape, device=self.device, dtype=self.dtype)
        return drawn.normal_(shift, scale, generator=self._generator)

    def weight(self, rows: int, columns: int) -> Tensor:
        """A linear layer's, so that outputs are about as large as inputs."""
        return self.normal(rows, columns, scale=columns**-0.5)

    def positive(self, *shape: int) -> Tensor:
        """For scales: from 0.5 to 1.5."""
        drawn = torch.empty(shape, device=self.device, dtype=self.dtype)
        return drawn.uniform_(0.5, 1.5, generator=self._generator)

    def below(self, high: int, *shape: int) -> Tensor:
        """Integers from 0 to high - 1."""
        return torch.randint(high, shape, generator=self._generator, device=self.device)

    def integers(self, values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)


Shaped = Callable[[Draw, ModelShape, int], Operands]
Priced = Callable[[ModuleType, Operands, bool], Cost]


@dataclass(frozen=True, slots=True)
class Operation:
    """One public function: `operands(draw, model, tokens)` are its keyword arguments.

    `reference` takes the same, floats of any width, and defaults to the module's own; `eager` is
    what one writes without the operation, where that is not the reference. `cost(module, operands,
    backward)` counts the backward pass only, and defaults to the module's `cost` of the operands.
    """

    name: str
    operands: Shaped
    variant: str = ""  # tells apart several entries of one function
    module_name: str = ""
    trained: tuple[str, ...] = ()  # operands that get gradients
    sizes: tuple[str, ...] = ("hidden",)  # fields of a ModelShape that it depends on
    tokens: tuple[int, ...] = (256, 2048, 8192, 32_768)
    lead: ModelShape | None = None  # the model to take first; default: the first of all
    compiles: bool = True  # whether torch.compile takes the baseline in seconds
    bound: float = 0.0  # of the error of fp32 results, where units sum more coarsely than fp32
    dtypes: tuple[torch.dtype, ...] = BOTH
    capability: tuple[int, int] = (8, 0)
    reference: Function | None = None
    eager: Function | None = None
    priced: Priced | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.variant}".strip()

    def module(self) -> ModuleType:
        return importlib.import_module(f"kernels.{self.module_name or self.name}")

    def function(self) -> Function:
        found: Function = getattr(self.module(), self.name)
        return found

    def truth(self) -> Function:
        """The plain torch formula, for floats of any width."""
        found: Function = self.reference or getattr(self.module(), f"{self.name}_reference")
        return found

    def baseline(self) -> Function:
        """What a benchmark calls eager, and compiles for another baseline."""
        return self.eager or self.truth()

    def cost(self, operands: Operands, backward: bool) -> Cost:
        """Of a forward pass, or of both passes."""
        price = self.priced or _own_cost
        forward = price(self.module(), operands, False)
        if not backward:
            return forward
        back = price(self.module(), operands, True)
        return Cost(forward.bytes + back.bytes, forward.flops + back.flops)


def _own_cost(module: ModuleType, operands: Operands, backward: bool) -> Cost:
    if backward:
        raise ValueError(f"{module.__name__} states no cost of its backward pass")
    known = inspect.signature(module.cost).parameters
    cost: Cost = module.cost(**{name: operands[name] for name in known if name in operands})
    return cost


def wide(x: Tensor) -> Tensor:
    """At least fp32, as losses and norms are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outputs_of(result: Any) -> list[Tensor]:
    """The tensors in what a function returned, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [tensor for value in result.values() for tensor in outputs_of(value)]
    if isinstance(result, list | tuple):
        return [tensor for value in result for tensor in outputs_of(value)]
    return []


def copied(operands: Operands, names: tuple[str, ...] | None = None) -> Operands:
    """Operands of the same values, of which those named (default: all tensors) are copies."""
    return {
        name: value.detach().clone()
        if isinstance(value, Tensor) and (names is None or name in names)
        else value
        for name, value in operands.items()
    }


def widened(operands: Operands, dtype: torch.dtype = torch.float64) -> Operands:
    """Copies whose floats are of `dtype`; integers, quantized values and options stay."""
    floats = (torch.float32, torch.bfloat16, torch.float16)
    return {
        name: value.detach().to(dtype)
        if isinstance(value, Tensor) and value.dtype in floats
        else value
        for name, value in operands.items()
    }


def run(function: Function, operands: Operands) -> list[Tensor]:
    """The outputs alone."""
    with torch.no_grad():
        return outputs_of(function(**operands))


def run_with_gradients(
    function: Function, operands: Operands, trained: tuple[str, ...], upstream: list[Tensor]
) -> list[Tensor]:
    """Outputs and the gradients of `trained` for the given gradients of the float outputs."""
    leaves = [operands[name].requires_grad_() for name in trained]
    outputs = outputs_of(function(**operands))
    reached = [output for output in outputs if output.requires_grad]
    given = [grad.to(output.dtype) for output, grad in zip(reached, upstream, strict=True)]
    gradients = torch.autograd.grad(reached, leaves, given)
    return [*(output.detach() for output in outputs), *gradients]


def upstream_of(outputs: list[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients, not all one, for the float outputs; the same whatever computed them."""
    grads = []
    for output in outputs:
        if output.is_floating_point():
            draw = Draw(output.device, output.dtype, seed)
            grads.append(draw.normal(*output.shape, shift=0.5))
    return grads
