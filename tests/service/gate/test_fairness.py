"""The bound on the gap between backlogged tenants, with jobs in flight."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from service.gate import pool
from service.gate.job import Claimed, Job, Settlement
from service.gate.pool import PoolState
from service.gate.settings import GateSettings

QUANTUM = 200
LARGEST_CHARGE = 3 * 16 + 300
MAX_JOBS = 4
STEPS = 1_500


@pytest.mark.parametrize("weights", [{"f": 1, "g": 1}, {"f": 1, "g": 3}, {"f": 2, "g": 100}])
@pytest.mark.parametrize("seed", range(2))
def test_backlogged_tenants_never_drift_apart_by_more_than_the_bound(
    make_job: Callable[..., Job], weights: dict[str, int], seed: int
) -> None:
    """Net service per weight over every window, with late and partial refunds in flight."""
    random, state = Random(seed), PoolState(GateSettings(quantum=QUANTUM))
    in_flight: list[Claimed] = []
    most_in_flight = dict.fromkeys(weights, 0)
    drifts = [0.0]
    for step in range(STEPS):
        state = _keep_backlogged(state, make_job, random, weights, step)
        state, claim = pool.claim(state, "w", random.choice([0, 900]), MAX_JOBS, [], [], step)
        in_flight += claim.jobs
        for tenant in weights:
            flying = sum(entry.charged for entry in state.leased if entry.job.tenant == tenant)
            most_in_flight[tenant] = max(most_in_flight[tenant], flying)
        while len(in_flight) > random.randrange(12):
            job = in_flight.pop(random.randrange(len(in_flight)))
            actual = random.choice([job.charged, job.charged // 2, 0])
            settlement = Settlement(job.job_id, job.epoch, actual, b"")
            state, _taken = pool.settle(state, [settlement])
        drifts.append(state.service["f"] / weights["f"] - state.service["g"] / weights["g"])
    bound = 2 * QUANTUM + sum(
        (LARGEST_CHARGE + most_in_flight[tenant]) / weight for tenant, weight in weights.items()
    )
    assert max(drifts) - min(drifts) <= bound
    assert min(state.service.values()) > 3 * bound


def _keep_backlogged(
    state: PoolState,
    make_job: Callable[..., Job],
    random: Random,
    weights: dict[str, int],
    step: int,
) -> PoolState:
    for tenant, weight in weights.items():
        waiting = sum(entry.job.tenant == tenant for entry in state.queued)
        for number in range(waiting, MAX_JOBS + 1):
            job = make_job(
                f"{tenant}-{step}-{number}",
                tenant,
                random.choice(["a", "ab", "xyz"]),
                weight=weight,
                candidate_tokens=random.randrange(1, 301),
            )
            state, verdict = pool.submit(state, job, step)
            assert verdict == "queued"
    return state
