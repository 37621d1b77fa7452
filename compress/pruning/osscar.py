"""OSSCAR: which groups of a layer's inputs to keep, and the weights that make up for the rest.

Minimises 1/2 |X B0 - X' B|² over B with K non-zero groups of k rows (arXiv 2403.12983): expanded,
1/2 tr(BᵀHB) - tr(BᵀG) with H = X'ᵀX' and G = X'ᵀX B0. Greedy removal with exact downdates, then a
search that swaps. Knows no model: which rows form a group is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.layers.gram import CalibrationDataError, Moments

ROUNDS = 20  # of the search, the authors' default
FLUSH = 64  # removed rows after which pending downdates are applied to the inverse
KICKS = 4  # groups that a kick of the search moves at most
MOST_KICKED = 64  # groups of a problem that is small enough to be kicked
LEAST_GAIN = 1e-12  # of the objective: below it a swap is rounding, and the search could circle


@dataclass(frozen=True, slots=True)
class Problem:
    """hessian: (p, p), target: (p, c), float64: H and G above; rows j k to j k + k are group j."""

    hessian: Tensor
    target: Tensor
    group_size: int = 1

    @classmethod
    def of(
        cls,
        moments: Moments,
        weight: Tensor,
        group_size: int,
        ridge: float = 0.01,
        dense_weight: Tensor | None = None,
    ) -> Problem:
        """For a linear layer's weight (c, p), as torch has it; `ridge` is of the mean diagonal.

        It draws to `weight` and not to zero, which would shrink what is kept. dense_weight: (c, q)
        of the model whose outputs are aimed at; without it, `weight` itself.
        """
        damping = moments.ridge(ridge)
        eye = torch.eye(len(moments.hessian), dtype=torch.float64)
        aim = weight if dense_weight is None else dense_weight
        target = moments.cross @ aim.T.double() + damping * weight.T.double()
        return cls(moments.hessian + damping * eye, target, group_size)

    @property
    def groups(self) -> int:
        return len(self.hessian) // self.group_size

    def rows(self, groups: Sequence[int]) -> Tensor:
        """Row indices of the groups, in their order."""
        first = torch.tensor(groups, dtype=torch.int64)[:, None] * self.group_size
        return (first + torch.arange(self.group_size)).flatten()


@dataclass(frozen=True, slots=True)
class Solution:
    """kept: groups in order. weights: (kept rows, c), exact for them. objective: their value."""

    kept: tuple[int, ...]
    weights: Tensor
    objective: float


def prune(problem: Problem, keep: int, swap: int = 1) -> Solution:
    """The best `keep` groups found; `swap` groups at most change places at once (0: greedy only).

    Heads and other small problems are searched on from beyond their local optimum. Deterministic.
    Raises ValueError for a `keep` outside 1 to the number of groups, and
    CalibrationDataError where the Gram matrix has no inverse.
    """
    if not 1 <= keep <= problem.groups:
        raise ValueError(f"keep must be 1 to {problem.groups}, got {keep}")
    removal = Removal(problem, range(problem.groups))
    removal.drop(problem.groups - keep)
    found = search(problem, refit(problem, removal.alive), swap)
    return kicked(problem, found) if swap and problem.groups <= MOST_KICKED else found


def refit(problem: Problem, kept: Sequence[int]) -> Solution:
    """The exact weights of given groups: B_S = H_SS⁻¹ G_S, of value -1/2 tr(G_Sᵀ B_S)."""
    rows = problem.rows(sorted(kept))
    target = problem.target[rows]
    weights = torch.cholesky_solve(target, _cholesky(problem.hessian[rows][:, rows]))
    return Solution(tuple(sorted(kept)), weights, -0.5 * float((target * weights).sum()))


def search(problem: Problem, start: Solution, swap: int, rounds: int = ROUNDS) -> Solution:
    """Lets kept groups change places with absent ones as long as that lowers the objective.

    All pairs are weighed exactly; the `swap` best that share no group go at once, half as many
    after a round without success. It ends where no single swap helps. Never worse than its start.
    """
    best, count = start, min(swap, len(start.kept), problem.groups - len(start.kept))
    for _ in range(rounds if count else 0):
        found = _swapped(problem, best, count)
        if found.objective < best.objective - LEAST_GAIN * abs(best.objective):
            best = found
        elif count == 1:
            break
        else:
            count = max(1, count // 2)
    return best


def _swapped(problem: Problem, start: Solution, count: int) -> Solution:
    """The `count` most promising pairs exchanged, those that share no group with a better one."""
    absent = sorted(set(range(problem.groups)) - set(start.kept))
    changes = swap_changes(problem, start, absent)
    least, places = changes.flatten().topk(min(changes.numel(), 4 * count**2), largest=False)
    out: dict[int, int] = {}
    for change, place in zip(least.tolist(), places.tolist(), strict=True):
        leaving, coming = start.kept[place // len(absent)], absent[place % len(absent)]
        if change < 0 and len(out) < count and leaving not in out and coming not in out.values():
            out[leaving] = coming
    return refit(problem, [out.get(group, group) for group in start.kept])


def kicked(problem: Problem, start: Solution) -> Solution:
    """Searches again from supports near a local optimum: some groups greedily out and others in, in
    either order, until none of these leads anywhere better.
    """
    best, most = start, min(KICKS, len(start.kept) - 1, problem.groups - len(start.kept))
    while True:
        supports = [
            move(problem, back(problem, best.kept, count), count)
            for count in range(1, most + 1)
            for back, move in ((without, joined), (joined, without))
        ]
        tried = [search(problem, refit(problem, kept), 1) for kept in supports]
        found = min(tried, key=lambda solution: solution.objective, default=best)
        if found.objective >= best.objective - LEAST_GAIN * abs(best.objective):
            return best
        best = found


def without(problem: Problem, kept: Sequence[int], count: int) -> list[int]:
    """The groups less the `count` cheapest, one after the other."""
    removal = Removal(problem, kept)
    removal.drop(count)
    return removal.alive


def joined(problem: Problem, kept: Sequence[int], count: int) -> list[int]:
    """The groups and the `count` that help most, one after the other."""
    grown = sorted(kept)
    for _ in range(count):
        absent = [group for group in range(problem.groups) if group not in grown]
        reached = [refit(problem, [*grown, group]).objective for group in absent]
        grown = sorted([*grown, absent[reached.index(min(reached))]])
    return grown


def swap_changes(problem: Problem, start: Solution, absent: Sequence[int]) -> Tensor:
    """(kept, absent): by how much the objective changes when kept group i makes room for absent j.

    Dropping i costs 1/2 tr(B_iᵀ M_ii⁻¹ B_i). With V = M H_Sj, adding j afterwards gains
    1/2 tr(g'ᵀ C'⁻¹ g') for C' = H_jj - H_jS V + V_iᵀ M_ii⁻¹ V_i and g' = G_j - H_jS B + V_iᵀ M_ii⁻¹
    B_i. Of g' only products with itself are needed, so nothing of pairs x c is kept.
    """
    size, inside, outside = problem.group_size, problem.rows(start.kept), problem.rows(absent)
    inverse = torch.cholesky_inverse(_cholesky(problem.hessian[inside][:, inside]))
    across = problem.hessian[inside][:, outside]
    through = inverse @ across  # V
    left = problem.target[outside] - across.T @ start.weights  # g
    own = problem.hessian[outside][:, outside] - across.T @ through
    whitened = _blocks(inverse, size).inverse()  # M_ii⁻¹, (s, k, k)
    pairs = _tiles(through, size)
    lifted = whitened[:, None] @ pairs  # M_ii⁻¹ V_ij, (s, a, k, k)
    grown = _blocks(own, size) + pairs.mT @ lifted
    kept, new = _grouped(start.weights, size), _grouped(left, size)
    mixed = lifted.mT @ _tiles(start.weights @ left.T, size)
    products = new @ new.mT + mixed + mixed.mT + lifted.mT @ (kept @ kept.mT)[:, None] @ lifted
    gains: Tensor = torch.linalg.solve(grown, products).diagonal(dim1=-2, dim2=-1).sum(-1)
    costs: Tensor = (whitened * (kept @ kept.mT)).sum((1, 2))
    return 0.5 * (costs[:, None] - gains)


def _grouped(rows: Tensor, size: int) -> Tensor:
    """(groups, k, c)."""
    return rows.reshape(-1, size, rows.shape[1])


def _tiles(matrix: Tensor, size: int) -> Tensor:
    """(groups, groups, k, k)."""
    rows, columns = matrix.shape
    return matrix.reshape(rows // size, size, columns // size, size).transpose(1, 2)


def _blocks(matrix: Tensor, size: int) -> Tensor:
    """The diagonal blocks, (groups, k, k)."""
    return _tiles(matrix, size).diagonal(dim1=0, dim2=1).permute(2, 0, 1)


class Removal:
    """Greedy removal: the inverse M = H_SS⁻¹ and B = M G, kept exact as groups leave.

    Dropping j costs 1/2 tr(B_jᵀ M_jj⁻¹ B_j); then B -= M_:j M_jj⁻¹ B_j and M -= M_:j M_jj⁻¹ M_j:.
    Changes of M wait in U, M = M0 - U Uᵀ, and are applied many at a time: a rank-1 update of the
    whole inverse would read and write all of it for every neuron.
    """

    def __init__(self, problem: Problem, groups: Sequence[int]) -> None:
        self._size = problem.group_size
        self._names = torch.tensor(list(groups))
        rows = problem.rows(list(groups))
        self._inverse = torch.cholesky_inverse(_cholesky(problem.hessian[rows][:, rows]))
        self._weights = self._inverse @ problem.target[rows]
        self._own = _blocks(self._inverse, self._size).clone()  # M_jj of every group, (g, k, k)
        self._gone = torch.zeros(len(self._names), dtype=torch.bool)
        self._pending = self._inverse.new_empty(len(rows), 0)

    @property
    def alive(self) -> list[int]:
        """Groups that are left, in order."""
        return [int(name) for name in self._names[~self._gone]]

    @property
    def inverse(self) -> Tensor:
        """M of what is left, in its order."""
        self._flush()
        left = self._rows_left()
        return self._inverse[left][:, left]

    @property
    def weights(self) -> Tensor:
        """B of what is left, in its order."""
        return self._weights[self._rows_left()]

    def costs(self) -> Tensor:
        """(groups,) what dropping each would add to the objective; infinite for those gone."""
        if self._size == 1:
            costs = self._weights.square().sum(1) / (2 * self._own[:, 0, 0])
        else:
            weights = _grouped(self._weights, self._size)
            factors = torch.linalg.cholesky(self._own)
            whitened = torch.linalg.solve_triangular(factors, weights, upper=False)
            costs = 0.5 * whitened.square().sum((1, 2))
        return costs.masked_fill(self._gone, torch.inf)

    def drop(self, count: int) -> float:
        """Removes the cheapest group `count` times; returns what that added to the objective."""
        added = 0.0
        for _ in range(count):
            costs = self.costs()
            place = int(costs.argmin())
            added += float(costs[place])
            self._remove(place)
        return added

    def _remove(self, place: int) -> None:
        rows = slice(place * self._size, (place + 1) * self._size)
        factor = torch.linalg.cholesky(self._own[place])
        column = self._inverse[:, rows] - self._pending @ self._pending[rows].T
        scaled = torch.linalg.solve_triangular(factor, column.T, upper=False).T  # M_:j L⁻ᵀ
        own = torch.linalg.solve_triangular(factor, self._weights[rows], upper=False)  # L⁻¹ B_j
        self._weights.addmm_(scaled, own, alpha=-1)
        self._weights[rows] = 0
        blocks = _grouped(scaled, self._size)
        self._own -= blocks @ blocks.mT
        self._gone[place] = True
        self._own[place] = torch.eye(self._size, dtype=self._own.dtype)  # keeps factors defined
        self._pending = torch.cat((self._pending, scaled), dim=1)
        if self._pending.shape[1] >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._inverse.addmm_(self._pending, self._pending.T, alpha=-1)
        self._pending = self._pending[:, :0]

    def _rows_left(self) -> Tensor:
        return (~self._gone).repeat_interleave(self._size)


def _cholesky(matrix: Tensor) -> Tensor:
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise CalibrationDataError(
            "the Gram matrix of the calibration inputs is singular; give more text or a larger "
            "ridge than 0"
        )
    return factor
