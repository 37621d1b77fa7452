"""Which CPUs an engine process takes."""

from __future__ import annotations

import os

import pytest

from models.engines.cpu_threads import claim_cpus


@pytest.mark.parametrize(
    ("worker", "threads", "mine"),
    [(0, 2, (1, 4)), (1, 2, (5, 9)), (2, 2, ()), (0, 4, (1, 4, 5, 9)), (0, 5, ()), (3, 1, (9,))],
)
def test_workers_share_no_cpu(
    worker: int, threads: int, mine: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[tuple[int, tuple[int, ...]]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {9, 4, 1, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: bound.append((pid, tuple(cpus))))
    assert claim_cpus(worker, threads) == mine
    assert bound == ([(0, mine)] if mine else [])
