"""Garbage is collected when that stops nobody, or when it must be."""

from __future__ import annotations

import gc
import subprocess
import sys

from service.process.garbage_collection import (
    FORCED_PASS_SECONDS,
    IDLE_PASS_SECONDS,
    IDLE_REQUESTS,
    GarbageCollector,
)


def test_what_lives_at_the_start_is_exempt_from_garbage_collection() -> None:
    program = (
        "import gc\n"
        "from service.process.garbage_collection import GarbageCollector, spare_collector\n"
        "before = gc.get_threshold()\n"
        "spare_collector()\n"
        "print(len(gc.get_objects()) < 1_000 < gc.get_freeze_count())\n"
        "print(gc.get_threshold() == before)\n"
        "GarbageCollector().take_over()\n"
        "print(gc.get_threshold()[:2] == before[:2], gc.get_threshold()[2])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "True\nTrue\nTrue 1000000\n"
    assert gc.get_freeze_count() == 0  # this process still collects its own


def test_a_full_pass_waits_for_few_requests_but_not_for_ever() -> None:
    now = [0.0]
    collector = GarbageCollector(lambda: now[0])
    assert not collector.collect_if_due(0)
    now[0] = IDLE_PASS_SECONDS
    assert not collector.collect_if_due(IDLE_REQUESTS + 1)
    assert collector.collect_if_due(IDLE_REQUESTS)
    assert not collector.collect_if_due(0)
    now[0] += FORCED_PASS_SECONDS
    assert collector.collect_if_due(10**6)
