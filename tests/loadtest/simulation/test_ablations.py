"""One choice of the gate at a time moves throughput and fairness the way it should."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from loadtest.simulation.ablations import attribution, fig10
from loadtest.simulation.hardware import A10, LLAMA_3B, engine
from loadtest.simulation.papers import PAPERS
from loadtest.simulation.scenario import Scenario, play
from loadtest.simulation.shared import FOLLOWERS, Shelf, ShelfShape, readers
from loadtest.simulation.workloads import panel


def rows(scenarios: list[Scenario]) -> list[dict[str, Any]]:
    return [play(scenario).row for scenario in scenarios]


def test_the_platform_frees_the_opener_of_what_it_pays_for_all() -> None:
    shares = [row["first_share"] for row in rows(list(attribution(quick=False)))]
    first, split, platform = shares
    assert max(first, split) < 0.8 * platform
    assert platform == pytest.approx(1 / (1 + FOLLOWERS), rel=0.01)


def test_followers_hear_of_a_document_when_it_was_read_or_at_once_if_eager() -> None:
    patient, eager = (Shelf(ShelfShape(eager_share=share, recent=1)) for share in (0.0, 1.0))
    for shelf, heard in ((patient, False), (eager, True)):
        opening = shelf.open(Random(0))
        (asked,) = opening.start()
        (question,) = shelf.follow(Random(0)).start()
        assert (question.context == asked.context) == heard
        opening.after(asked)
        (question,) = shelf.follow(Random(0)).start()
        assert question.context == asked.context


def test_all_readers_are_single_tenants_and_equal() -> None:
    clients = readers(ShelfShape())
    assert len(clients) == 1 + FOLLOWERS
    assert len({client.weight for client in clients}) == 1
    assert len({account for client in clients for account in client.accounts}) == len(clients)


@pytest.mark.long
def test_a_larger_worker_quantum_keeps_tenants_at_their_warm_worker() -> None:
    swept = [scenario for scenario in fig10(quick=False) if "Q^w" in scenario.policy]
    small, large = (
        next(s for s in swept if s.settings.worker_quantum == worker_quantum)
        for worker_quantum in (2_000, 40_000)
    )
    low, high = rows([replace(s, warmup_s=20.0, until_s=60.0) for s in (small, large)])
    assert high["cached_share"] > low["cached_share"]
    assert high["throughput"] > 1.05 * low["throughput"]


def equals(policy: str, quantum: int) -> dict[str, Any]:
    """One GPU and three clients who behave alike."""
    settings = replace(PAPERS, policy=policy, quantum=quantum, overtakes=10**6)
    scenario = Scenario(
        suite="equals",
        workload="s0-tot",
        policy=policy,
        engine=engine(A10, LLAMA_3B, 32),
        clients=partial(panel, "s0-tot", 1.5),
        settings=settings,
        warmup_s=10.0,
        until_s=40.0,
    )
    return play(scenario).row


def test_a_large_quantum_is_lpm_and_a_small_one_takes_turns_like_vtc() -> None:
    lpm, vtc = equals("lpm", 1_000), equals("vtc", 1_000)
    large, small = equals("dlpm", 1_000_000), equals("dlpm", 1)
    assert large["cached_share"] == pytest.approx(lpm["cached_share"], abs=0.01)
    assert large["jain"] == pytest.approx(lpm["jain"], abs=0.01)  # ties go to larger groups: 0.005
    assert small["jain"] == pytest.approx(vtc["jain"], abs=0.001)
    assert small["jain"] > lpm["jain"] + 0.01
