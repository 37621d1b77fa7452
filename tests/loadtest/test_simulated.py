"""The README's simulated figures are ratios within one run's panels."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.simulated import (
    attribution_rows,
    deadline_rows,
    fig1_rows,
    fig7_rows,
    fig10_rows,
    overload_rows,
)


def row(workload: str, policy: str, throughput: int, **cells: Any) -> dict[str, Any]:
    usual = {"workers": 1, "quantum": None, "jain": 0.9}
    return {"workload": workload, "policy": policy, "throughput": throughput} | usual | cells


def test_fig1_compares_dlpm_at_the_published_quantum_with_both_baselines() -> None:
    kept = [
        row("s1-tot", "lpm", 1_000, jain=0.4),
        row("s1-tot", "vtc", 700),
        row("s1-tot", "dlpm", 950, quantum=1000, jain=0.99),
        row("s1-tot", "dlpm", 10, quantum=2000),
        row("s1-chat", "lpm", 1),
    ]
    figures = [figure for _, figure, _ in fig1_rows(kept)]
    assert figures == ["0.950", "1.36x", "0.990 / 0.400"]


def test_fig7_takes_the_geometric_mean_over_panels_and_the_better_unfair_router() -> None:
    kept = [
        row("qa", "d2lpm", 200, jain=1.0),
        row("qa", "vtc", 100),
        row("qa", "preble", 400),
        row("qa", "rr+lpm", 100),
        row("qa", "d2lpm", 800, workers=2, jain=0.9),
        row("qa", "vtc", 100, workers=2),
        row("qa", "preble", 300, workers=2),
        row("qa", "rr+lpm", 400, workers=2),
    ]
    figures = [figure for _, figure, _ in fig7_rows(kept)]
    assert figures == ["4.00x", "1.00x", "0.950 (0.900)"]


def test_a_missing_baseline_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        fig1_rows([row("s1-tot", "lpm", 1)])


def test_overload_states_the_gap_beside_its_bound() -> None:
    kept = [
        row("overload", "dlpm", 1, gap_max=768, gap_bound=1_538),
        row("overload", "fcfs", 1, gap_max=146_688, gap_bound=None),
    ]
    ((_, figure, _),) = overload_rows(kept)
    assert figure == "768 of at most 1,538 (146,688)"


def test_fig10_states_throughput_relative_to_the_smallest_quantum() -> None:
    kept = [
        row("s1-tot", "d2lpm Q^w=2000", 100, jain=0.9),
        row("s1-tot", "d2lpm Q^w=40000", 130, jain=0.8),
        row("s1-tot", "vtc", 50),
        row("s0-tot", "d2lpm Q^w=2000", 7),
    ]
    ((what, figure, where),) = fig10_rows(kept)
    assert what.endswith("Q^w 2,000 to 40,000, relative")
    assert figure == "1.00 / 1.30"
    assert where.endswith("0.900, 0.800")


def test_attribution_states_the_openers_share_of_each_choice() -> None:
    kept = [
        row("readers", "dlpm first", 1, first_share=0.25, jain=0.9),
        row("readers", "dlpm platform", 1, first_share=0.3333, jain=1.0),
    ]
    ((_, figure, where),) = attribution_rows(kept)
    assert figure == "first 25.0 %, platform 33.3 %"
    assert where.endswith("0.900 / 1.000")


def test_missed_deadlines_stand_beside_the_gap_and_what_they_are_untold() -> None:
    clients = ["t (bad): sessions, deadlines: 5 ms, then 9 ms; Bursts(x; y)"]
    conditions = {"clients": clients, "quantum_parts": 32}
    cells = {"conditions": conditions, "gap_max": 1_400, "gap_bound": 1_900}
    kept = [
        row("aggressor", "dlpm", 1, deadline_misses_good=0.9),
        row("deadlines", "dlpm", 1, quantum=4_096, deadline_misses_good=0.004, **cells),
        row("deadlines", "fcfs", 1, deadline_misses_good=0.5, **cells),
        row("deadlines", "fcfs untold", 1, deadline_misses_good=0.25, **cells),
        row("deadlines", "dlpm untold", 1, deadline_misses_good=0.013, **cells),
    ]
    ((_, figure, where),) = deadline_rows(kept)
    assert figure == "dlpm 0.4 % (1.3 %), fcfs 50.0 % (25.0 %)"
    assert "5 ms, then 9 ms for the pages" in where
    assert where.endswith("1,400 of at most 1,900 (Q 4,096 in 32)")
