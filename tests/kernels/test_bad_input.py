"""Every operation refuses operands of a wrong dtype, rank or device by name. Computes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kernels.catalogue.operation import Draw, Operands, Operation
from kernels.catalogue.shapes import TINY
from kernels.catalogue.table import OPERATIONS

CPU = torch.device("cpu")
TOKENS = 4


def operands_of(operation: Operation) -> Operands:
    return operation.operands(Draw(CPU, operation.dtypes[0]), TINY, TOKENS)


def cases() -> Iterator[tuple[Operation, str, str]]:
    """Each operation with each tensor it takes and each way to spoil it."""
    for operation in OPERATIONS:
        names = [name for name, x in operands_of(operation).items() if isinstance(x, Tensor)]
        for name, way in itertools.product(names, SPOILED):
            if way != "device" or len(names) > 1:  # one alone may be anywhere
                yield operation, name, way


SPOILED: dict[str, Callable[[Tensor], tuple[Tensor, str]]] = {
    "dtype": lambda x: (x.to(torch.complex64), "complex64"),
    "rank": lambda x: (x.flatten()[0], "()"),
    "device": lambda x: (x.to("meta"), "meta"),
}


@pytest.mark.parametrize(
    ("operation", "name", "way"),
    [pytest.param(*case, id=f"{case[0].label} {' '.join(case[1:])}") for case in cases()],
)
def test_an_operand_it_cannot_take_is_named(operation: Operation, name: str, way: str) -> None:
    operands = operands_of(operation)
    operands[name], got = SPOILED[way](operands[name])
    with pytest.raises((TypeError, ValueError)) as refused:
        operation.function()(**operands)
    assert name in str(refused.value)
    assert got in str(refused.value)
