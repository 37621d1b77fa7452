"""Planted bugs of cross-entropy, its memory, and what only a GPU can show."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels import cross_entropy as module
from kernels.cross_entropy import cross_entropy
from kernels.losses import cross_entropy_rows as rows_module
from kernels.losses.cross_entropy_rows import Terms
from tests.kernels.planted import each_caught
from tests.kernels.test_cross_entropy import (
    TERMS,
    TOLERANCE,
    TOLERANCES,
    case,
    check_training,
    mean_of,
    trained,
    truth,
)
from tests.kernels.truth import (
    RMSE_LIMITS,
    assert_accurate,
    assert_guard_untouched,
    guarded,
    rmse_ratio,
    surrounded,
)


def check_rows(found: ModuleType) -> None:
    """The kernel beside guarded memory, with weights of its own for each row."""
    for terms in (TERMS[0], TERMS[-1]):
        logits, targets = case(3, 4100, terms.ignore_index)
        exact = logits.double().requires_grad_()
        expected = truth(exact, targets, terms)
        weights = torch.tensor([0.5, 1.5, 2.5])
        (slope,) = torch.autograd.grad((expected * weights).sum(), exact)
        buffer, place = guarded(3, 4100)
        losses = found.cross_entropy_rows(
            place.copy_(logits), targets, weights, terms, backend="triton"
        )
        assert_accurate("losses", losses, expected.detach(), TOLERANCE)
        assert_accurate("gradient", place.clone(), slope, TOLERANCES[torch.float32])
        assert_guard_untouched(buffer, place)
        losses, lse = torch.empty(3), torch.empty(3)
        wall = surrounded(logits)
        found.launch_cross_entropy(losses, lse, None, wall, targets, None, terms)
        assert_accurate("losses", losses, expected.detach(), TOLERANCE)
        gradient = torch.empty(3, 4100)
        found.launch_cross_entropy(None, lse, gradient, wall, targets, weights, terms)
        assert_accurate("gradient", gradient, slope, TOLERANCES[torch.float32])


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "ignored rows counted": ("kept = target != ignore_index", "kept = target == target"),
    "capped columns beyond the vocabulary summed": (
        'x = tl.where(inside, x, float("-inf"))',
        "x = tl.where(inside, x, 0.0)",
    ),
    "only the last block summed": ("x, highest, total)", "x, highest * 0.0 + LOWEST, total)"),
    "a column too many written": ("0.0), inside)", "0.0), columns <= vocabulary_size)"),
    "a column too many read": ("logits + columns, inside, ", "logits + columns, columns < 4101, "),
    "smoothing left out of the true class": ("weight * (1.0 - label_smoothing)", "weight"),
    "uniform part forgotten": ("tl.exp(x - lse) - uniform", "tl.exp(x - lse)"),
    "slope of the cap forgotten": ("gradient *= slope", "gradient *= 1.0"),
    "z-loss without its gradient": ("(1.0 + 2.0 * z_loss * lse)", "(1.0 + 0.0 * z_loss * lse)"),
    "row weight step ignored": ("row * weights_step", "0 * weights_step"),
    "target's logit uncapped": ("picked, _ = _softcapped", "_, _ = _softcapped"),
    "stride of logits for the gradient's": ("row * gradient_row_stride", "row * vocabulary_size"),
}

test_planted_bugs_are_caught = each_caught(rows_module, PLANTED_BUGS, check_rows)


@pytest.mark.long
@pytest.mark.parametrize("vocabulary", [128_256, 151_936, 151_937])
def test_vocabularies_of_users(vocabulary: int) -> None:
    check_training(module, 2, vocabulary, torch.bfloat16, TERMS[0], True, "triton")


@pytest.mark.gpu
def test_offsets_pass_two_to_the_31() -> None:
    vocabulary = 151_936
    rows = 2**31 // vocabulary + 3
    logits = torch.zeros(rows, vocabulary, dtype=torch.bfloat16, device="cuda")
    logits[-1, 7] = 8.0
    targets = torch.full((rows,), 7, device="cuda")
    losses = cross_entropy(logits, targets, reduction="none")
    expected = truth(logits[-2:].cpu(), targets[-2:].cpu(), Terms())
    assert rmse_ratio(losses[-2:].cpu(), expected) <= TOLERANCE
    cross_entropy(logits.requires_grad_() * 1, targets, inplace=True).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    slope = logits.grad[-1].float().sum().item()
    assert abs(slope) <= RMSE_LIMITS[torch.bfloat16] / rows


@pytest.mark.gpu
@pytest.mark.parametrize("inplace", [False, True])
def test_a_graph_replays_loss_and_gradient(inplace: bool) -> None:
    logits, targets = (x.cuda() for x in case(64, 4096))
    held = torch.empty_like(logits, requires_grad=True)

    def step() -> tuple[Tensor, Tensor]:
        loss = cross_entropy(held * 1, targets, inplace=inplace)
        return loss.detach(), trained(loss, held)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = step()
    with torch.no_grad():
        held.copy_(logits)
    graph.replay()
    exact = logits.cpu().double().requires_grad_()
    expected = mean_of(truth(exact, targets.cpu(), Terms()), targets.cpu(), Terms())
    assert_accurate("loss", loss.cpu(), expected.detach(), TOLERANCE)
    assert_accurate("gradient", gradient.cpu(), trained(expected, exact), TOLERANCE)
