"""Planted bugs of distillation on kept outcomes, its memory, and what only a GPU can show."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from kernels.losses import sparse_rows as rows_module
from kernels.losses.sparse_mix import Kept, Mix, sparse_reference
from kernels.sparse_distillation import with_rest
from tests.kernels.planted import each_caught
from tests.kernels.test_sparse_distillation import (
    OPTIONS,
    TEMPERATURES,
    TOKENS,
    TOLERANCES,
    kept,
    mixture_of,
    targets_among,
    truth,
)
from tests.kernels.truth import assert_accurate, assert_guard_untouched, draw, guarded

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def check_rows(found: ModuleType) -> None:
    """The kernel beside guarded memory, two blocks wide, with weights of its own for each row."""
    logits = draw(TOKENS, 4200).mul(2)
    outcomes, scores = kept(4200)
    targets = targets_among(outcomes)
    weights = draw(TOKENS, seed=3).abs()
    for kind in ("forward_kl", "skew_reverse_kl"):
        exact = logits.double().requires_grad_()
        expected = truth(exact, outcomes, scores, targets, kind)
        (slope,) = torch.autograd.grad((expected * weights).sum(), exact)
        mix = Mix(kind, mixture_of(kind), OPTIONS["soft_weight"], OPTIONS["hard_weight"], -100)
        whole = Kept(with_rest(outcomes, scores, None, 4200), outcomes)
        buffer, place = guarded(TOKENS, 4200)
        place.copy_(logits)
        losses = found.sparse_rows(
            place, whole, TEMPERATURES, targets, weights, mix, backend="triton"
        )
        assert_accurate("losses", losses, expected.detach(), TOLERANCES[torch.float32])
        assert_accurate("gradient", place.clone(), slope, TOLERANCES[torch.float32])
        assert_guard_untouched(buffer, place)


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "rest off": ("is_rest, rest, picked)", "is_rest, rest + 0.01, picked)"),
    "kept outcomes not taken out": ("tl.float32), there)\n", "tl.float32), there & (slots < 0))\n"),
    "absent outcomes taken for column 0": ("there = (outcome >= 0)", "there = (outcome >= -1)"),
    "kept gradients not put": ("tl.store(student + outcome, gradient, there)", "gradient *= 1.0"),
    "second temperature forgotten": ("temperature = temperature_1", "temperature = temperature_0"),
    "temperatures not averaged": ("slopes *= soft_weight / TEMPERATURES", "slopes *= soft_weight"),
    "scores one short a row": ("row * (kept_count + 1) + slots", "row * kept_count + slots"),
    "hard target among the kept forgotten": ("tl.where(outcome == target, 1.0, 0.0)", "0.0"),
    "hard target among the rest forgotten": ("tl.where(columns == target, 1.0, 0.0)", "0.0"),
    "gradient written too far": ("gradient, columns < student_size)", "gradient, columns < 4203)"),
}

test_planted_bugs_are_caught = each_caught(rows_module, PLANTED_BUGS, check_rows)


@pytest.mark.gpu
def test_agrees_with_the_reference_at_the_size_of_a_model() -> None:
    logits = draw(32, 151_936).mul(2).cuda()
    scores, outcomes = draw(32, 151_936, seed=1).cuda().log_softmax(-1).topk(64)
    whole = Kept(with_rest(outcomes, scores, None, 151_936), outcomes)
    targets = outcomes[:, 3].contiguous()
    mix = Mix("forward_kl", 0.0, 0.9, 0.1, -100)
    exact = logits.double().requires_grad_()
    expected = sparse_reference(exact, whole, TEMPERATURES, targets, mix)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    ones = torch.ones(32, device="cuda")
    losses = rows_module.sparse_rows(logits, whole, TEMPERATURES, targets, ones, mix, "triton")
    assert_accurate("losses", losses, expected.detach(), 2e-6)
    assert_accurate("gradient", logits, slope, 2e-6)
