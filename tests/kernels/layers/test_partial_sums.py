"""Sums over programs, in a fixed order. Knows nothing of what is summed."""

from __future__ import annotations

from types import ModuleType

import torch

from kernels.layers import partial_sums
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    assert_accurate,
    assert_guard_untouched,
    draw,
    guarded,
    surrounded,
)


def test_no_more_programs_than_rows_or_processors_can_use() -> None:
    cpu = torch.device("cpu")
    assert [partial_sums.partial_count(cpu, rows) for rows in (0, 1, 5, 500)] == [1, 1, 5, 6]


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "only the last block": ("sums += tl.load", "sums = tl.load"),
    "columns unmasked": ("in_row = columns < hidden_size", "in_row = columns < 1 << 30"),
    "programs unmasked": ("(program < programs)[:, None]", "(program < 1 << 30)[:, None]"),
}


def check(module: ModuleType) -> None:
    partials, expected = surrounded(draw(70, 41)), draw(70, 41).double().sum(0)
    # The guarded launch comes first: a stray write elsewhere would harm the interpreter itself.
    guard, view = guarded(41)
    sizes = {"BLOCK_PROGRAMS": 64, "BLOCK_COLUMNS": 32}
    module._sum_partials_kernel[(2,)](view, partials, partials.stride(0), 70, 41, **sizes)
    assert_accurate("sums", view.clone(), expected, 2e-7)
    assert_guard_untouched(guard, view)
    assert_accurate("sums", module.sum_partials(partials, torch.float32), expected, 2e-7)


test_planted_bugs_are_caught = each_caught(partial_sums, PLANTED_BUGS, check)
