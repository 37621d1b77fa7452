"""Planted bugs of distillation between linear layers, and its numbers at a model's size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor

from kernels import linear_distillation as module
from kernels.linear_distillation import linear_distillation
from kernels.losses.divergence_terms import MIXTURES
from tests.kernels.divergence_truth import distillation
from tests.kernels.planted import load_broken_copy
from tests.kernels.test_linear_distillation import KINDS, check, gradients
from tests.kernels.truth import assert_accurate, draw

# Each is a plausible slip; the checks must catch every one of them.
PLANTED_BUGS = {
    "teacher's first tokens for all": (
        "teacher.logits(span, buffer)",
        "teacher.logits(slice(0, len(logits)), buffer)",
    ),
    "the student its own teacher": ("(logits, teacher_logits, named", "(logits, logits, named"),
    "targets of the first chunk": ("targets[span]", "targets[: len(logits)]"),
    "gradient left out": ("named, weights, mix, backend", "named, None, mix, backend"),
}


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_planted_bugs_are_caught(bug: str, tmp_path: Path) -> None:
    broken = load_broken_copy(module, tmp_path, *PLANTED_BUGS[bug])
    with pytest.raises(AssertionError):
        check("forward_kl", "mean", "torch", broken.linear_distillation)


# RMS of the error over RMS of the truth; the worst measured are 2.6e-7 and 2.7e-3 on a CPU. A GPU
# sums products in another order, so that one logit in a thousand is rounded the other way.
LOSS_TOLERANCE, TOLERANCE = 1e-5, 5.4e-3


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_eager_at_the_size_of_a_model(kind: str) -> None:
    hidden = (draw(300, 256) * 2).cuda().bfloat16().requires_grad_()
    weight = (draw(128_256, 256) * 0.06).cuda().bfloat16().requires_grad_()
    teacher_hidden = draw(300, 512).cuda().bfloat16()
    teacher_weight = (draw(128_256, 512) * 0.04).cuda().bfloat16()
    loss = linear_distillation(
        hidden, weight, teacher_hidden, teacher_weight, kind=kind, chunk_tokens=128
    )
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logits = narrowed(F.linear(teacher_hidden.double(), teacher_weight.double()))
    student_logits = narrowed(F.linear(*exact))
    expected = distillation(kind, MIXTURES[kind] or 0.0, student_logits, logits).mean()
    assert_accurate("loss", loss.detach(), expected.detach(), LOSS_TOLERANCE)
    actual, wanted = gradients(loss, [hidden, weight]), gradients(expected, exact)
    for one, other in zip(actual, wanted, strict=True):
        assert_accurate("gradient", one, other, TOLERANCE)


def narrowed(logits: Tensor) -> Tensor:
    """As bf16 holds them, so that both sides see the same signs; with the slope of the exact."""
    return logits + (logits.bfloat16().double() - logits).detach()
