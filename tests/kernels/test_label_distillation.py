"""label_distillation against torch on the labels' columns in fp64. Knows no meaning of labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.label_distillation import label_distillation
from kernels.losses.divergence_terms import MIXTURES
from tests.kernels.divergence_truth import distillation
from tests.kernels.truth import BACKENDS, assert_accurate, draw

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
LABELS = torch.tensor([7, 2, 30])
# RMS of the error over RMS of the truth; the worst measured are 1.5e-7 and, in bf16, 2.2e-3.
TOLERANCE, NARROW = 3e-7, 4.3e-3


def case(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor, Tensor]:
    """Student's operands, teacher's scores of the labels, targets; a third are ignored."""
    operands = draw(6, 16), draw(41, 16) * 0.3, draw(41)
    targets = torch.tensor([0, -100, 2, 1, -100, 0])
    return [x.to(dtype).requires_grad_() for x in operands], draw(6, 3, seed=1).mul(2), targets


def truth(operands: list[Tensor], scores: Tensor, targets: Tensor, kind: str) -> Tensor:
    columns = F.linear(operands[0], operands[1][LABELS], operands[2][LABELS])
    mixture = MIXTURES[kind] or 0.0
    losses = [
        distillation(kind, mixture, columns, scores, targets, t, 0.9, 0.2) for t in (1.0, 2.5)
    ]
    return torch.stack(losses).mean(0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", list(MIXTURES))
def test_agrees_with_torch_on_the_labels(kind: str, dtype: torch.dtype, backend: str) -> None:
    operands, scores, targets = case(dtype)
    exact = [x.detach().double().requires_grad_() for x in operands]
    expected = truth(exact, scores, targets, kind).sum() / 4
    options: dict[str, Any] = {"temperatures": (1.0, 2.5), "soft_weight": 0.9, "hard_weight": 0.2}
    loss = label_distillation(
        operands[0],
        operands[1],
        LABELS,
        scores,
        targets,
        student_bias=operands[2],
        kind=kind,
        backend=backend,
        **options,
    )
    assert loss.dtype == torch.float32
    assert_accurate("loss", loss.detach(), expected.detach(), TOLERANCE)
    limit = TOLERANCE if dtype == torch.float32 else NARROW
    for one, wanted in zip(
        torch.autograd.grad(loss, operands), torch.autograd.grad(expected, exact), strict=True
    ):
        assert one.dtype == dtype
        assert_accurate("gradient", one, wanted, limit)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_labels_are_a_binary_cross_entropy_with_soft_targets(backend: str) -> None:
    (hidden, weight, _), scores, _ = case()
    two, teacher = LABELS[:2], scores[:, :2].softmax(-1)
    loss = label_distillation(hidden, weight, two, scores[:, :2], backend=backend)
    gap = (hidden @ (weight[two[0]] - weight[two[1]])).double()
    p = teacher[:, 0].double()
    entropy = F.binary_cross_entropy(p, p)
    expected = F.binary_cross_entropy_with_logits(gap, p) - entropy
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    slopes = [torch.autograd.grad(x, hidden, retain_graph=True)[0] for x in (loss, expected)]
    assert_accurate("gradient", slopes[0], slopes[1], TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_labels_rows_learn(backend: str) -> None:
    (hidden, weight, _), scores, _ = case()
    loss = label_distillation(hidden, weight, LABELS, scores, reduction="none", backend=backend)
    assert loss.shape == (6,)
    (gradient,) = torch.autograd.grad(loss.sum(), weight)
    learned = gradient.abs().sum(1) > 0
    assert learned.nonzero().flatten().tolist() == sorted(LABELS.tolist())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"label_ids": torch.ones(2)}, TypeError, "label_ids is float32"),
        ({"label_ids": torch.ones(0).int()}, ValueError, "label_ids has 0 labels; pass 1 to 128"),
        ({"teacher_scores": torch.ones(3, 3)}, ValueError, r"teacher_scores has shape \(3, 3\)"),
        ({"student_weight": torch.ones(9, 5)}, ValueError, r"student_weight has shape \(9, 5\)"),
        ({"temperatures": (1.0,) * 5}, ValueError, "temperatures are 5; pass 1 to 4"),
        ({"hard_weight": 1.0}, ValueError, "without targets"),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {
        "student_hidden": torch.ones(3, 4),
        "student_weight": torch.ones(9, 4),
        "label_ids": torch.tensor([1, 2]),
        "teacher_scores": torch.ones(3, 2),
    }
    with pytest.raises(error, match=message):
        label_distillation(**operands | changes)
