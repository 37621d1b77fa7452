"""Ranking losses of ragged groups against all pairs in fp64. Knows nothing of slates."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import ranking_loss as module
from kernels.losses.ranking_kernel import ranking_operator, scaling_operator
from kernels.losses.ranking_terms import KINDS, ranking_loss_reference
from kernels.ranking_loss import ranking_loss
from tests.kernels.truth import BACKENDS, assert_accurate, draw, spread, surrounded

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
LENGTHS = [7, 1, 0, 33, 2, 20]  # one item, none, a pair, more than a block of rows
LONGEST = 40  # a bound, as callers have one
# RMS of the error over RMS of the truth; the worst measured is 2.4e-7.
TOLERANCE = 4.8e-7


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)))


def case(kind: str, lengths: list[int] = LENGTHS) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, some tied, targets (grades where pairs count) and offsets."""
    scores = draw(sum(lengths)).mul(2)
    targets = draw(sum(lengths), seed=1)
    if kind in ("ranknet", "lambdaloss"):
        targets = targets.abs().mul(2).floor()
    if len(scores) > 11:
        scores[9] = scores[10]
    return scores, targets, bounds(lengths)


def truth_of_group(s: Tensor, t: Tensor, kind: str, temperature: float, mu: float) -> Tensor:
    """Pair by pair in Python, apart from the reference."""
    n, loss, pairs = len(s), s.new_zeros(()), 0
    if kind == "listnet" and n:
        return F.cross_entropy(s[None] / temperature, (t[None] / temperature).softmax(-1))
    order = sorted(range(n), key=lambda i: (-s[i].item(), i))
    rank = {item: place + 1 for place, item in enumerate(order)}
    gains = [2.0 ** float(x) - 1 for x in t]
    ideal = sum(g / math.log2(p + 2) for p, g in enumerate(sorted(gains, reverse=True)))
    for i in range(n):
        for j in range(n):
            if kind == "margin_mse" and i < j:
                loss = loss + ((s[i] - s[j]) - (t[i] - t[j])) ** 2
                pairs += 1
            elif kind != "margin_mse" and t[i] > t[j]:
                pair = F.softplus(-(s[i] - s[j]) / temperature)
                pairs += 1
                if kind == "lambdaloss":
                    apart = abs(rank[i] - rank[j])
                    swap = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
                    shift = 1 / math.log2(1 + apart) - 1 / math.log2(2 + apart)
                    weight = abs(gains[i] - gains[j]) / ideal * (swap + mu * shift)
                    pair = pair * weight / math.log(2)
                loss = loss + pair
    return loss if kind == "lambdaloss" else loss / max(1, pairs)


def truth(
    scores: Tensor, targets: Tensor, offsets: Tensor, kind: str, temperature: float, mu: float
) -> tuple[Tensor, Tensor]:
    """Losses (G,) in fp64 and the scores they are differentiable in."""
    s = scores.detach().double().requires_grad_()
    groups = [
        truth_of_group(s[a:b], targets[a:b].double(), kind, temperature, mu)
        for a, b in pairwise(offsets.tolist())
    ]
    return torch.stack(groups), s


def check(found: ModuleType, kind: str, temperature: float, mu: float, backend: str) -> None:
    scores, targets, offsets = case(kind)
    factors = draw(len(LENGTHS), seed=2)
    expected, exact = truth(scores, targets, offsets, kind, temperature, mu)
    leaf = scores.clone().requires_grad_()
    losses = found.ranking_loss(
        leaf,
        targets,
        offsets,
        max_length=LONGEST,
        kind=kind,
        temperature=temperature,
        mu=mu,
        reduction="none",
        backend=backend,
    )
    assert_accurate("losses", losses.detach(), expected.detach(), TOLERANCE)
    (slope,) = torch.autograd.grad((expected * factors).sum(), exact)
    first, second = (
        torch.autograd.grad((losses * factors).sum(), leaf, retain_graph=True)[0] for _ in range(2)
    )
    assert_accurate("gradient", first, slope, TOLERANCE)
    assert torch.equal(first, second)


SETTINGS = [
    (kind, temperature, mu)
    for kind in KINDS
    for temperature, mu in ((1.0, 10.0), (0.5, 0.0))
    if kind != "margin_mse" or temperature == 1.0
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "temperature", "mu"), SETTINGS)
def test_agrees_with_all_pairs_in_fp64(
    kind: str, temperature: float, mu: float, backend: str
) -> None:
    check(module, kind, temperature, mu, backend)


@pytest.mark.parametrize("kind", KINDS)
def test_reference_passes_gradcheck(kind: str) -> None:
    scores, targets, offsets = case(kind, [4, 0, 5])

    def losses(s: Tensor) -> Tensor:
        return ranking_loss_reference(s, targets.double(), offsets, kind, 1.0, 2.0)

    assert torch.autograd.gradcheck(losses, scores.double().requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_are_over_groups(kind: str, backend: str) -> None:
    scores, targets, offsets = case(kind)
    each, total, mean = (
        ranking_loss(
            scores,
            targets,
            offsets.int(),
            max_length=LONGEST,
            kind=kind,
            reduction=reduction,
            backend=backend,
        )
        for reduction in ("none", "sum", "mean")
    )
    assert_accurate("sum", total, each.sum(), 1e-7)
    assert_accurate("mean", mean, each.mean(), 2e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]], ids=str)
def test_no_items_lose_nothing(lengths: list[int], backend: str) -> None:
    scores = torch.empty(0, requires_grad=True)
    for kind in KINDS:
        loss = ranking_loss(
            scores, torch.empty(0), bounds(lengths), max_length=4, kind=kind, backend=backend
        )
        assert loss.item() == 0.0
        assert torch.autograd.grad(loss, scores)[0].shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["ranknet", "lambdaloss"])
def test_groups_without_pairs_lose_nothing(kind: str, backend: str) -> None:
    scores = draw(5).requires_grad_()
    loss = ranking_loss(
        scores, torch.ones(5), bounds([3, 2]), max_length=8, kind=kind, backend=backend
    )
    assert loss.item() == 0.0
    assert (torch.autograd.grad(loss, scores)[0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_scores_compute_in_float32(dtype: torch.dtype, backend: str) -> None:
    for kind in KINDS:
        scores, targets, offsets = case(kind)
        scores, targets = scores.to(dtype), targets.to(dtype)
        expected, exact = truth(scores, targets, offsets, kind, 1.0, 10.0)
        leaf = scores.requires_grad_()
        loss = ranking_loss(leaf, targets, offsets, max_length=LONGEST, kind=kind, backend=backend)
        assert loss.dtype == torch.float32
        assert_accurate("loss", loss.detach(), expected.detach().mean(), TOLERANCE)
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert gradient.dtype == dtype
        (slope,) = torch.autograd.grad(expected.mean(), exact)
        assert_accurate("gradient", gradient, slope, 3e-3)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(KINDS), order=st.permutations(range(4)), backend=st.sampled_from(BACKENDS)
)
def test_a_group_loses_the_same_in_any_company(kind: str, order: list[int], backend: str) -> None:
    lengths = [3, 5, 1, 6]
    scores, targets, offsets = case(kind, lengths)
    pieces = [slice(a, b) for a, b in pairwise(offsets.tolist())]
    moved = [torch.cat([x[pieces[i]] for i in order]) for x in (scores, targets)]
    options: dict[str, Any] = {"kind": kind, "reduction": "none", "backend": backend}
    together = ranking_loss(scores, targets, offsets, max_length=8, **options)
    apart = ranking_loss(
        moved[0], moved[1], bounds([lengths[i] for i in order]), max_length=8, **options
    )
    assert torch.equal(apart, together[order])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_only_differences_of_scores_count(seed: int, shift: float) -> None:
    scores, offsets = draw(9, seed=seed), bounds([9])
    targets = draw(9, seed=seed + 1).abs().mul(2).floor()
    for kind in KINDS:
        options: dict[str, Any] = {"max_length": 16, "kind": kind, "backend": "triton"}
        one, other = (
            ranking_loss(s, targets, offsets, **options) for s in (scores, scores + shift)
        )
        assert_accurate("loss", other, one, 1e-5)


def test_a_group_beyond_the_bound_shows_as_nan() -> None:
    losses = ranking_loss(
        draw(8), draw(8), bounds([3, 5]), max_length=4, reduction="none", backend="triton"
    )
    assert losses.isnan().tolist() == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_around_the_items_is_not_read(kind: str, backend: str) -> None:
    scores, targets, offsets = case(kind)
    options: dict[str, Any] = {"max_length": LONGEST, "kind": kind, "backend": backend}
    expected = ranking_loss(scores, targets, offsets, **options)
    assert torch.equal(
        ranking_loss(surrounded(scores), surrounded(targets), offsets, **options), expected
    )
    assert torch.equal(ranking_loss(spread(scores), spread(targets), offsets, **options), expected)


def test_operator_passes_opcheck_and_compiles_whole() -> None:
    scores, targets, offsets = case("ranknet")
    operands = (scores, targets, offsets, "ranknet", 1.0, 10.0, LONGEST)
    for wanted in (True, False):
        torch.library.opcheck(ranking_operator.twin, (*operands, wanted))
    factors = draw(len(LENGTHS))
    torch.library.opcheck(scaling_operator.twin, (scores, factors, offsets, torch.bfloat16))

    def loss(s: Tensor) -> Tensor:
        return ranking_loss(
            s, targets, offsets, max_length=LONGEST, kind="ranknet", backend="triton"
        )

    leaf = scores.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(leaf), loss(leaf))
    slopes = [torch.autograd.grad(f(leaf), leaf)[0] for f in (compiled, loss)]
    assert torch.equal(slopes[0], slopes[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scores": torch.ones(2, 2)}, ValueError, r"scores has shape \(2, 2\)"),
        ({"targets": torch.ones(3)}, ValueError, r"targets has shape \(3,\); it must be \(4,\)"),
        ({"targets": torch.ones(4).int()}, TypeError, "targets is int32"),
        ({"offsets": torch.ones(3)}, TypeError, "offsets is float32; pass int32 or int64"),
        ({"offsets": torch.ones(0).int()}, ValueError, "offsets is empty"),
        ({"max_length": 1025}, ValueError, "max_length is 1025; pass 1 to 1024"),
        ({"kind": "listmle"}, ValueError, "kind is 'listmle'; pass one of listnet"),
        ({"temperature": 0.0}, ValueError, r"temperature is 0.0 for listnet"),
        ({"kind": "margin_mse", "temperature": 2.0}, ValueError, "1 for margin_mse"),
        ({"mu": -1.0}, ValueError, "mu is -1.0; pass 0 or more"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {
        "scores": torch.ones(4),
        "targets": torch.ones(4),
        "offsets": torch.tensor([0, 4]),
        "max_length": 4,
    }
    with pytest.raises(error, match=message):
        ranking_loss(**operands | changes)
