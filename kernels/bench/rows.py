"""All rows that a benchmark takes, in their order. Times nothing."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.bench import gemm_rivals
from kernels.bench.plan import Row, plan
from kernels.bench.special import SPECIAL, Special
from kernels.catalogue.table import named


def planned_rows(names: Sequence[str] | None = None) -> list[Row | Special]:
    """All rows of the operations named (default: of all), what matters most first."""
    planned = plan(named(names))
    first = sum(row.importance == 0 for row in planned)
    special, late = (
        [row for row in chosen if names is None or row.name.split()[0] in names]
        for chosen in ([*SPECIAL, *gemm_rivals.FIRST], gemm_rivals.LATER)
    )
    return [*planned[:first], *special, *planned[first:], *late]
