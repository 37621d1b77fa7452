"""Planted bugs of the chunked cross-entropy, and its numbers at a model's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kernels.linear_cross_entropy import (
    linear_cross_entropy,
)
from kernels.losses import chunked_loss, token_chunks
from kernels.losses.token_chunks import Head
from tests.kernels.planted import load_broken_copy
from tests.kernels.test_linear_cross_entropy import (
    MODEL_TOLERANCES,
    UPSTREAM,
    case,
    check,
    gradients,
)
from tests.kernels.truth import assert_accurate, draw

CHUNK_BUGS = {
    "only the last chunk's weight gradient": ("beta = 0 if first else 1", "beta = 0"),
    "only the last chunk's bias gradient": (
        "self.bias.copy_(columns) if first",
        "self.bias.copy_(columns) if True",
    ),
    "hidden gradient of the first rows": (
        "out=self.hidden[span])",
        "out=self.hidden[: span.stop - span.start])",
    ),
    "last token forgotten": (
        "for start in range(0, count, size)",
        "for start in range(0, 6, size)",
    ),
    "weights of the first rows": ("row_weights[span] if", "row_weights[: len(logits)] if"),
}


@pytest.mark.parametrize("bug", CHUNK_BUGS)
def test_planted_bugs_of_chunks_are_caught(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_broken_copy(token_chunks, tmp_path, *CHUNK_BUGS[bug])
    monkeypatch.setattr("kernels.linear_cross_entropy.run_in_chunks", broken.run_in_chunks)
    with pytest.raises(AssertionError):
        check_chunks()


def check_chunks() -> None:
    operands, targets = case(7, 24, 123)
    hidden, weight, bias = operands
    factors = draw(7).abs()
    losses = linear_cross_entropy(
        hidden, weight, targets, bias=bias, reduction="none", chunk_tokens=3
    )
    exact = F.cross_entropy(F.linear(*operands), targets, reduction="none")
    actual, expected = gradients(losses * factors, operands), gradients(exact * factors, operands)
    for found, wanted in zip(actual, expected, strict=True):
        assert_accurate("gradient", found, wanted, 5e-7)
    assert_accurate("losses", losses.detach(), exact.detach(), 5e-7)


LOSS_BUGS = {
    "upstream forgotten": ("gradient.mul_(upstream)", "gradient"),
    "gradients of a sum": ("row_weight.expand(", "torch.ones_like(row_weight).expand("),
    "mean not applied to the loss": ("return losses.sum() * row_weight", "return losses.sum()"),
}


@pytest.mark.parametrize("bug", LOSS_BUGS)
def test_planted_bugs_of_the_loss_are_caught(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_broken_copy(chunked_loss, tmp_path, *LOSS_BUGS[bug])
    monkeypatch.setattr("kernels.linear_cross_entropy.chunked_loss", broken.chunked_loss)
    with pytest.raises(AssertionError):
        check_loss(linear_cross_entropy)


def check_loss(function: Any) -> None:
    check(function, (7, 24, 123, 3), torch.float32, "mean", "torch")
    (hidden, weight, _), targets = case(7, 24, 123)
    consumed = torch.autograd.grad(function(hidden, weight, targets) * UPSTREAM, weight)[0]
    exact = F.cross_entropy(F.linear(hidden, weight), targets) * UPSTREAM
    assert_accurate("gradient", consumed, torch.autograd.grad(exact, weight)[0], 5e-7)


def test_the_loss_passes_its_own_checks() -> None:
    check_chunks()
    check_loss(linear_cross_entropy)


def test_a_head_names_its_operands() -> None:
    with pytest.raises(ValueError, match=r"teacher_weight has shape \(9, 3\)"):
        Head(torch.ones(2, 4), torch.ones(9, 3), None).check("teacher_")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_agrees_with_eager_at_the_size_of_a_model(reduction: str, dtype: torch.dtype) -> None:
    hidden = (draw(512, 1024) * 2).to("cuda", dtype).requires_grad_()
    weight = (draw(151_936, 1024) * 0.03).to("cuda", dtype).requires_grad_()
    targets = torch.arange(512, device="cuda") * 101
    targets[1::3] = -100
    loss = linear_cross_entropy(hidden, weight, targets, reduction=reduction, chunk_tokens=200)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = F.cross_entropy(F.linear(*exact), targets, reduction=reduction)
    assert_accurate("loss", loss.detach(), expected.detach(), MODEL_TOLERANCES[dtype])
    actual, wanted = gradients(loss, [hidden, weight]), gradients(expected, exact)
    for found, truth_of in zip(actual, wanted, strict=True):
        assert_accurate("gradient", found, truth_of, MODEL_TOLERANCES[dtype])
