"""OSSCAR finds what an exhaustive search finds, and its downdates are exact."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from compress.layers.gram import CalibrationDataError, Gram
from compress.pruning.osscar import Problem, Removal, kicked, prune, refit, search, swap_changes


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(seed: int, rows: int, features: int, mixing: float = 0.5) -> Tensor:
    random = generator(seed)
    mix = torch.eye(features) + mixing * torch.randn(features, features, generator=random)
    return torch.randn(rows, features, generator=random) @ mix


def problem(seed: int, features: int = 12, outputs: int = 8, group_size: int = 1) -> Problem:
    gram = Gram(features)
    gram.add(correlated(seed, 256, features))
    weight = torch.randn(outputs, features, generator=generator(1_000 + seed))
    return Problem.of(gram.moments(), weight, group_size)


def whole(given: Problem) -> float:
    """The objective with everything kept: errors are counted from here."""
    return refit(given, range(given.groups)).objective


def best_of_all(given: Problem, keep: int) -> float:
    return min(refit(given, kept).objective for kept in combinations(range(given.groups), keep))


@pytest.mark.parametrize("group_size", [1, 3])
def test_greedy_and_swaps_come_near_the_exhaustive_optimum(group_size: int) -> None:
    found, greedy, exact = [], [], []
    for seed in range(12):
        given = problem(seed, 8 * group_size, group_size=group_size)
        found.append(prune(given, 4).objective - whole(given))
        greedy.append(prune(given, 4, swap=0).objective - whole(given))
        exact.append(best_of_all(given, 4) - whole(given))
    assert sum(f <= e * (1 + 1e-9) for f, e in zip(found, exact, strict=True)) >= 11
    assert all(f <= g * (1 + 1e-9) for f, g in zip(found, greedy, strict=True))
    assert sum(found) < 0.999 * sum(greedy)


@pytest.mark.parametrize("group_size", [1, 4])
def test_a_hundred_downdates_keep_the_inverse_and_foretell_the_objective(group_size: int) -> None:
    given = problem(3, 160, 16, group_size)
    removal = Removal(given, range(given.groups))
    start = whole(given)
    added = removal.drop(100 // group_size)
    kept = given.rows(removal.alive)
    fresh = torch.linalg.inv(given.hessian[kept][:, kept])
    assert float((removal.inverse - fresh).norm() / fresh.norm()) <= 1e-12
    exact = refit(given, removal.alive)
    assert torch.allclose(removal.weights, exact.weights, rtol=1e-9, atol=1e-11)
    assert start + added == pytest.approx(exact.objective, rel=1e-12)


@pytest.mark.parametrize("group_size", [1, 2])
def test_every_pairs_change_is_what_exchanging_it_does(group_size: int) -> None:
    given = problem(5, 7 * group_size, group_size=group_size)
    start, absent = refit(given, [0, 2, 3, 6]), [1, 4, 5]
    changes = swap_changes(given, start, absent)
    for row, leaving in enumerate(start.kept):
        for column, coming in enumerate(absent):
            kept = [coming if group == leaving else group for group in start.kept]
            change = refit(given, kept).objective - start.objective
            assert float(changes[row, column]) == pytest.approx(change, rel=1e-8)


def test_search_never_ends_worse_than_it_started() -> None:
    for seed in range(6):
        given = problem(seed, 24)
        start = refit(given, range(12))
        for swap in (1, 2, 8):
            found = search(given, start, swap)
            assert found.objective <= start.objective
            assert len(found.kept) == 12
            assert kicked(given, found).objective <= found.objective


def test_weights_are_the_least_squares_ones_of_the_kept_inputs() -> None:
    inputs, weight = correlated(1, 300, 6).double(), torch.randn(4, 6, generator=generator(2))
    gram = Gram(6)
    gram.add(inputs)
    given = Problem.of(gram.moments(), weight, 1, ridge=0)
    solution = prune(given, 3)
    wanted = inputs @ weight.T.double()
    exact = torch.linalg.lstsq(inputs[:, list(solution.kept)], wanted).solution
    assert torch.allclose(solution.weights, exact, atol=2e-6)  # inputs go through float32: 6e-7


def test_dense_targets_make_up_for_what_came_before() -> None:
    dense = correlated(4, 400, 8).double()
    changed = dense + 0.3 * correlated(9, 400, 8)
    weight = torch.randn(5, 8, generator=generator(6)).double()
    errors = []
    for target in (dense, None):
        gram = Gram(8)
        gram.add(changed, target)
        solution = prune(Problem.of(gram.moments(), weight, 1, ridge=1e-6), 5)
        output = changed[:, list(solution.kept)] @ solution.weights
        errors.append(float((output - dense @ weight.T).square().sum()))
    assert errors[0] < 0.9 * errors[1]


def test_the_outputs_of_a_wider_layer_may_be_aimed_at() -> None:
    dense = correlated(4, 400, 8).double()
    wide, weight = torch.randn(5, 8, generator=generator(6)), torch.zeros(5, 6)
    gram = Gram(6)
    gram.add(dense[:, :6], dense)
    solution = prune(Problem.of(gram.moments(), weight, 1, 0, wide), 4)
    wanted = dense @ wide.T.double()
    exact = torch.linalg.lstsq(dense[:, list(solution.kept)], wanted).solution
    assert torch.allclose(solution.weights, exact, atol=2e-6)


def test_a_ridge_draws_to_the_weights_and_not_to_zero() -> None:
    gram = Gram(6)
    gram.add(correlated(1, 300, 6))
    weight = torch.randn(4, 6, generator=generator(2))
    heavy = Problem.of(gram.moments(), weight, 1, ridge=1e9)
    assert torch.allclose(refit(heavy, range(6)).weights, weight.T.double(), atol=1e-6)


def test_dead_inputs_go_first() -> None:
    inputs = correlated(7, 200, 6)
    inputs[:, [1, 4]] = 0
    gram = Gram(6)
    gram.add(inputs)
    assert prune(Problem.of(gram.moments(), torch.ones(3, 6), 1), 4).kept == (0, 2, 3, 5)


def test_a_singular_gram_matrix_is_named() -> None:
    gram = Gram(4)
    gram.add(torch.ones(10, 4))
    with pytest.raises(CalibrationDataError, match="ridge"):
        prune(Problem.of(gram.moments(), torch.ones(2, 4), 1, ridge=0), 2)


@pytest.mark.parametrize("keep", [0, 13])
def test_a_number_to_keep_out_of_range_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match="1 to 12"):
        prune(problem(0), keep)
