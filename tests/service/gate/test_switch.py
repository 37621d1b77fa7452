"""Switches of the policy that meet or are cut off lose nobody who waits, and the last one wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import redis

from service.gate import gate
from service.gate.gate import AsyncGate
from service.gate.job import Job
from service.gate.pool import Pool
from service.gate.settings import POLICIES, GateSettings
from tests.service.gate.audit import audit
from tests.service.gate.client import POOL
from tests.service.gate.jobs import TREES, build_job, chain
from tests.service.gate.remote import Remote

SETTINGS = GateSettings(quantum=100, quantum_parts=4, lease_ms=600_000)
TREE = (*TREES[2], "batch:1/rare:3/zoe:1")
CROWD = "batch:1/acme:2"
FEW, MANY = 24, 120  # leaves of their own above FEW, and more than claims rank by themselves
PAGE = 5
ALL = 10**9
PAIRS = [(one, other) for one in POLICIES for other in POLICIES if "vtc" in (one, other)]
PAIRS += [("dlpm", "fcfs"), ("fcfs", "dlpm"), ("hrrn", "dlpm")]


class Waiting:
    """Jobs that wait in Redis and in the in-memory pool: on warm and on cold contexts, of tenants
    in debt and of others, in the workers' queues."""

    def __init__(
        self, client: redis.Redis, url: str, policy: str, jobs: int, workers: Sequence[str]
    ) -> None:
        client.flushall()
        self.remote, self.pool = Remote(client, url, POOL, SETTINGS), Pool(SETTINGS)
        self.workers = workers
        for worker in workers:
            self.both("join", worker)
        self.submit([waiting(f"spent-{number}", number % 3) for number in range(6)])
        for worker in workers:
            self.both("claim", worker, ALL, ALL, inserted=chain("ab"))
        self.both("configure", policy)
        self.submit([waiting(f"job-{number}", number) for number in range(jobs)])

    def both(self, verb: str, *arguments: object, **events: object) -> None:
        answer = getattr(self.remote, verb)(*arguments, **events)
        assert answer == getattr(self.pool, verb)(*arguments, self.remote.time, **events)

    def submit(self, jobs: list[Job]) -> None:
        for job, verdict in zip(jobs, self.remote.submit_together(jobs), strict=True):
            assert verdict == self.pool.submit(job, self.remote.time)
            assert verdict.answer == "queued"

    def claim_all(self) -> None:
        """One call of each worker takes all, in the order of the in-memory pool."""
        for worker in self.workers:
            self.both("claim", worker, ALL, ALL)
        assert all(entry.epoch for entry in self.pool.entries.values())

    def claim_anyhow(self) -> set[str]:
        """The same in any order."""
        claims = [self.remote.claim(worker, ALL, ALL) for worker in self.workers]
        return {job.job_id for claim in claims for job in claim.jobs}

    def begin(self, policy: str, pages: int) -> bool:
        """A switch that is cut off behind some pages; whether any are left."""
        left = self.remote.rank(policy, 0)
        for _ in range(pages):
            left = self.remote.rank("", PAGE)
        self.pool.configure(policy, self.remote.time)
        return left > 0


def waiting(name: str, number: int) -> Job:
    """Every leaf has some, more of them on one context than on the one whose job is due first."""
    context = ("xy", "pq", "pq", "ab", "")[number // len(TREE) % 5]
    deadline_ms = 60_000 + 1_000 * (number * 7 % 11) - 20_000 * (context == "xy")
    path = TREE[number % len(TREE)] if number < FEW else f"{CROWD}/user-{number}"
    return build_job(name, path, context, deadline_ms=deadline_ms)


Open = Callable[..., Waiting]


@pytest.fixture
def opened(redis_client: redis.Redis, redis_url: str) -> Open:
    return lambda policy, jobs, *workers: Waiting(redis_client, redis_url, policy, jobs, workers)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_switches_that_meet_anywhere_the_last_to_begin_wins_wholly(
    redis_client: redis.Redis, opened: Open, first: str, second: str
) -> None:
    met_after = 0
    going_on = True
    while going_on:
        waits = opened(second, FEW, "one", "other")
        going_on = waits.begin(first, met_after)
        waits.begin(second, 0)
        while waits.remote.rank("", PAGE):  # either of them, for they do the same
            pass
        waits.claim_all()
        audit(redis_client, POOL)
        met_after += 1
    assert met_after > FEW / PAGE


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_switch_cut_off_anywhere_is_ended_by_the_next_claim(
    opened: Open, before: str, after: str
) -> None:
    cut_after = 0
    going_on = True
    while going_on:
        waits = opened(before, FEW, "one")
        going_on = waits.begin(after, cut_after)
        waits.claim_all()
        cut_after += 1


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_what_a_switch_has_not_ranked_yet_is_claimed_all_the_same(
    redis_client: redis.Redis, opened: Open, before: str, after: str
) -> None:
    for pages in (0, 2, 8):
        waits = opened(before, MANY, "one")
        assert waits.begin(after, pages)
        assert waits.claim_anyhow() == {f"job-{number}" for number in range(MANY)}
        assert waits.remote.rank("", 0) > 0  # so it was without their ranks
        audit(redis_client, POOL)


def test_a_heartbeat_ends_a_switch_that_was_cut_off(opened: Open) -> None:
    waits = opened("dlpm", MANY, "one", "other")
    waits.begin("vtc", 0)
    waits.both("reap")
    assert waits.remote.rank("", 0) == 0
    waits.claim_all()


def test_what_comes_and_goes_during_a_switch_stands_by_the_new_policy(opened: Open) -> None:
    waits = opened("dlpm", FEW, "one", "other")
    waits.begin("vtc", 1)
    waits.both("cancel", "job-3")
    waits.both("cancel", "job-11")
    waits.submit([waiting("late", 3)])
    while waits.remote.rank("", 1):
        pass
    waits.claim_all()


def test_two_operators_at_once_leave_one_policy_and_everybody_claimable(
    monkeypatch: pytest.MonkeyPatch, opened: Open, redis_url: str
) -> None:
    monkeypatch.setattr(gate, "RANKED_AT_ONCE", 1)
    waits = opened("dlpm", FEW, "one", "other")

    async def switch() -> str:
        gates = [AsyncGate(redis_url, POOL, SETTINGS) for _ in range(2)]
        await asyncio.gather(gates[0].configure("vtc"), gates[1].configure("dlpm"))
        policy = (await gates[0].stats()).policy
        for one in gates:
            await one.close()
        return policy

    waits.pool.configure(asyncio.run(switch()), waits.remote.time)
    assert waits.remote.rank("", 0) == 0
    waits.claim_all()
