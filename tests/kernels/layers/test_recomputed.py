"""Tensors computed again instead of kept: the same gradients, less memory. Knows no layer."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.layers.recomputed import recomputed


class Count:
    """Squares, and how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.square()


def operands() -> tuple[Tensor, list[nn.Linear]]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 4, requires_grad=True), [nn.Linear(4, 5), nn.Linear(4, 5)]


def gradients(x: Tensor, layers: list[nn.Linear]) -> list[Tensor]:
    found = (x.grad, *(layer.weight.grad for layer in layers))
    return [g.clone() for g in found if g is not None]


def run(square: Count, again: bool) -> tuple[list[Tensor], bool]:
    """Gradients through two readers of a square, and whether it lived until the backward pass."""
    x, layers = operands()
    inner = square(x)
    made = partial(square, x.detach())
    with recomputed(inner, made) if again else torch.enable_grad():
        out = layers[0](inner) * layers[1](inner)
    alive = weakref.ref(inner.untyped_storage())
    del inner
    gc.collect()
    lived = alive() is not None
    out.sum().backward()
    return gradients(x, layers), lived


def test_gradients_are_the_same_and_it_is_made_once_for_all_readers() -> None:
    square = Count()
    expected, lived = run(Count(), again=False)
    actual, lived_again = run(square, again=True)
    assert len(actual) == 3
    assert all(map(torch.equal, actual, expected))
    assert square.calls == 2
    assert lived
    assert not lived_again


def test_a_second_backward_pass_makes_it_anew() -> None:
    x, layers = operands()
    square = Count()
    inner = square(x)
    with recomputed(inner, partial(square, x.detach())):
        out = layers[0](inner).sum()
    for _ in range(2):
        out.backward(retain_graph=True)
    assert square.calls == 3
    twice = gradients(x, layers[:1])
    x.grad = layers[0].weight.grad = None
    layers[0](x.square()).sum().backward()
    for actual, expected in zip(twice, gradients(x, layers[:1]), strict=True):
        assert torch.equal(actual, 2 * expected)


def test_parts_of_it_and_other_tensors_are_kept() -> None:
    x, _ = operands()
    square = Count()
    inner = square(x)
    with recomputed(inner, partial(square, x.detach())):
        out = readers(inner, x)
    out.backward()  # type: ignore[no-untyped-call]
    actual = gradients(x, [])
    x.grad = None
    readers(x.square(), x).backward()  # type: ignore[no-untyped-call]
    assert all(map(torch.equal, actual, gradients(x, [])))
    assert square.calls == 1


def readers(inner: Tensor, x: Tensor) -> Tensor:
    """They save a row of it, its transpose, and x."""
    parts = (inner[0] * inner[1], inner.mT * inner.mT.detach(), x.sin())
    return torch.stack([part.sum() for part in parts]).sum()


@pytest.mark.parametrize("wanted", [True, False])
def test_nothing_is_made_where_nobody_trains(wanted: bool) -> None:
    x, layers = operands()
    square = Count()
    with torch.set_grad_enabled(wanted):
        inner = square(x.detach())
        with recomputed(inner, partial(square, x.detach())):
            layers[0](inner).sum()
    assert square.calls == 1


def test_checkpointing_decides_for_itself() -> None:
    x, layers = operands()
    square = Count()

    def body(x: Tensor) -> Tensor:
        inner = square(x)
        with recomputed(inner, partial(square, x.detach())):
            answer: Tensor = layers[0].forward(inner)
            return answer

    checkpoint(body, x, use_reentrant=False).sum().backward()
    assert square.calls == 2, "once in each forward pass, and by no recipe"
