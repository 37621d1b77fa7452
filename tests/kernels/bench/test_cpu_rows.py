"""What a CPU is asked: its rivals compute the same. Times nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from kernels.bench import cpu_rows, special
from kernels.bench.rivals import Rivals
from kernels.catalogue.shapes import TINY
from kernels.catalogue.table import OPERATIONS

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"MODEL": TINY, "TOKENS": 5, "ITEMS": 3, "LENGTH": 7}
    for name, value in changes.items():
        monkeypatch.setattr(cpu_rows, name, value)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("rivals", "bound"),
    [
        (partial(cpu_rows._attention, 4), 1e-2),
        (partial(cpu_rows._product, 32, 64, 24), 3e-2),
        (partial(special._norm_pair, torch.int8, tokens=4), 1e-6),
    ],
    ids=["attention", "product", "norm and quantization"],
)
def test_rivals_compute_the_same(rivals: partial[Rivals], bound: float) -> None:
    found = rivals(CPU)
    assert found.notes == {}
    assert len(found.errors) >= 2
    assert max(found.errors.values()) <= bound, found.errors


@pytest.mark.usefixtures("small")
def test_every_operation_runs_in_each_of_its_dtypes() -> None:
    asked = [row for row in cpu_rows.CPU_ROWS if row.mode == cpu_rows.IN_EACH_DTYPE]
    assert [row.name for row in asked] == [operation.label for operation in OPERATIONS]
    for row, operation in zip(asked, OPERATIONS, strict=True):
        calls = row.rivals(CPU).calls
        assert list(calls) == [cpu_rows.WIDTHS[dtype] for dtype in operation.dtypes]
        calls["bf16"]()
