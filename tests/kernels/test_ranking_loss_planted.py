"""Planted bugs of the ranking losses, and what only a GPU can show."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from kernels import ranking_loss as public
from kernels.losses import ranking_kernel as module
from kernels.losses.ranking_terms import KINDS, ranking_loss_reference
from kernels.ranking_loss import ranking_loss
from tests.kernels.planted import each_caught
from tests.kernels.test_ranking_loss import SETTINGS, case, check
from tests.kernels.truth import assert_accurate

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "temperature of listnet's gradient": ("(q / q_sum - p) / temperature", "(q / q_sum - p)"),
    "margin_mse over n": ("others = tl.maximum(count - 1, 1)", "others = tl.maximum(count, 1)"),
    "margins not centred": ("s - t - mean", "s - t"),
    "ties broken by neither": ("(a == b) & (a_slot < b_slot)", "(a == b) & (a_slot < 0)"),
    "the worse item not pushed down": ("tl.where(t_i < t[None, :], -1.0, 0.0)", "0.0"),
    "ranks from zero": ("rank_i = 1.0 + tl.sum", "rank_i = 0.0 + tl.sum"),
    "discount not squared off": ("mu * shift)", "shift)"),
    "ideal by scores": ("_comes_before(t_i, i, t[", "_comes_before(t_i, i, s["),
    "one factor for all groups": ("group * upstream_step", "0 * upstream_step"),
    "only the first block scaled": ("range(start, stop, BLOCK)", "range(start, start + 1, BLOCK)"),
    "gradients not scaled as losses": ("slopes * (scale / temperature)", "slopes / temperature"),
    "items beyond the group paired": ("tl.where(both & (sign", "tl.where((i < count) & (sign"),
}


def check_all(found: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "SCALED", 4)  # less than the longest group has
        patch.setattr(public, "ranking_operator", found.ranking_operator)
        patch.setattr(public, "scaling_operator", found.scaling_operator)
        for kind, temperature, mu in SETTINGS:
            check(public, kind, temperature, mu, "triton")


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, check_all)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference_on_the_device(kind: str) -> None:
    lengths = [1024, 100, 0, 16, 1, 333] * 4
    scores, targets, offsets = (x.cuda() for x in case(kind, lengths))
    leaf, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    loss = ranking_loss(leaf, targets, offsets, max_length=1024, kind=kind)
    expected = ranking_loss_reference(exact, targets.double(), offsets, kind).mean()
    assert_accurate("loss", loss.detach(), expected.detach(), 1e-6)
    slopes = torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(expected, exact)[0]
    assert_accurate("gradient", slopes[0], slopes[1], 2e-6)
