"""The Lua verbs against the pure pool over random histories, on every Redis at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import redis

from service.gate import pool, wire
from service.gate.job import Claimed, Job, Outcome, Settlement, TenantStats
from service.gate.pool import PoolState
from service.gate.settings import GateSettings
from service.gate.store import Store

EVENTS = 3_000
WORKERS = ("worker-0", "worker-1")
SETTINGS = GateSettings(
    quantum=100,
    overtakes=4,
    lease_ms=6,
    max_pool_jobs=40,
    max_pool_tokens=6_000,
    max_tenant_jobs=15,
)


class Cache:
    """A worker's blocks; like the engine it holds prefixes only and drops leaves first."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def insert(self, chain: tuple[str, ...]) -> list[str]:
        fresh = [block for block in chain if block not in self.held]
        self.held |= set(fresh)
        return fresh

    def evict(self, random: Random) -> list[str]:
        paths = {block.rstrip("_") for block in self.held}
        leaves = [path for path in paths if not any(path == other[:-1] for other in paths)]
        gone = [path.ljust(8, "_") for path in sorted(leaves) if random.random() < 0.3]
        self.held -= set(gone)
        return gone


class Twins:
    """Redis and the pure pool side by side; every verb must answer the same on both."""

    def __init__(self, client: redis.Redis, url: str, seed: int) -> None:
        self.client, self.random = client, Random(seed)
        self.pool = f"pool-{seed}"
        self.store = Store(url, self.pool, SETTINGS)
        self.state = PoolState(SETTINGS)
        self.jobs: dict[str, Job] = {}
        self.leased: dict[str, list[Claimed]] = {worker: [] for worker in WORKERS}
        self.caches = {worker: Cache() for worker in WORKERS}

    def call(self, verb: str, arguments: list[wire.Argument]) -> Any:
        return self.store.call(verb, arguments)

    def submit(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        now, verdict = self.call("submit", wire.submit_arguments(job))
        self.state, expected = pool.submit(self.state, job, now)
        assert verdict.decode() == expected

    def claim(self) -> None:
        worker = self.random.choice(WORKERS)
        cache = self.caches[worker]
        evicted = cache.evict(self.random)
        inserted = [
            block
            for job in self.leased[worker]
            for block in cache.insert(self.jobs[job.job_id].context_hashes)
        ]
        gone = [block for block in evicted if block not in inserted]
        budget, most = self.random.choice([0, 50, 400, 5_000]), self.random.randrange(9)
        arguments = wire.claim_arguments(worker, budget, most, inserted, gone)
        claimed = wire.read_claim(self.call("claim", arguments))
        self.state, expected = pool.claim(
            self.state, worker, budget, most, inserted, gone, claimed.now_ms
        )
        assert claimed == expected
        self.leased[worker] += claimed.jobs

    def settle(self) -> None:
        jobs = self.leased[self.random.choice(WORKERS)]
        batch = [jobs.pop() for _ in range(self.random.randrange(len(jobs) + 1))]
        settlements = [self.settlement(job) for job in batch]
        _now, *taken = self.call("settle", wire.settle_arguments(settlements))
        self.state, expected = pool.settle(self.state, settlements)
        assert [bool(flag) for flag in taken] == expected

    def settlement(self, job: Claimed) -> Settlement:
        actual = self.random.choice([0, job.charged, job.charged // 2, job.charged + 50])
        epoch = job.epoch + self.random.choice([0, 0, 0, 0, 1])
        outcome = self.random.choice([Outcome.SCORED, Outcome.FAILED])
        return Settlement(job.job_id, epoch, actual, b"\0result", outcome)

    def renew(self) -> None:
        worker = self.random.choice(WORKERS)
        jobs = self.leased[worker]
        now, *kept = self.call("renew", wire.renew_arguments(worker, jobs))
        self.state, expected = pool.renew(self.state, jobs, now)
        assert [bool(flag) for flag in kept] == expected

    def cancel(self) -> None:
        job_id = self.random.choice([*self.jobs, "unknown"])
        _now, removed = self.call("cancel", [job_id])
        self.state, expected = pool.cancel(self.state, job_id)
        assert bool(removed) == expected

    def crash(self) -> None:
        worker = self.random.choice(WORKERS)
        self.caches[worker] = Cache()
        _now, requeued = self.call("leave", [worker])
        self.state, expected = pool.leave(self.state, worker)
        assert requeued == expected

    def reap(self) -> None:
        reaped = wire.read_reaped(self.call("reap", []))
        self.state, expected = pool.reap(self.state, reaped.now_ms)
        assert reaped == expected

    def pause(self) -> None:
        """Makes it look as if nobody had reaped for 5 s, or the clock had stepped back by 5 s."""
        if self.state.heartbeat is not None:
            shift = self.random.choice([-5_000, 5_000])
            self.client.hincrby(f"{{{self.pool}}}:meta", "heartbeat", shift)
            self.state = replace(self.state, heartbeat=self.state.heartbeat + shift)

    def pass_time(self) -> None:
        start = self.clock()
        while self.clock() < start + 7:
            pass

    def clock(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds * 1_000 + microseconds // 1_000)

    def compare(self) -> None:
        stats = wire.read_stats(self.call("stats", [1_000]))
        assert stats.tenants == {name: self.standing(name) for name in self.state.balances}
        assert stats.queued_jobs == len(self.state.queued)
        assert stats.leased_jobs == len(self.state.leased)
        raw = self.client.lrange(self.store.reply_key("api"), 0, -1)
        assert tuple(wire.read_reply(one) for one in raw) == self.state.replies
        self.client.delete(self.store.reply_key("api"))
        self.state = replace(self.state, replies=())

    def standing(self, tenant: str) -> TenantStats:
        queued = [entry.job for entry in self.state.queued if entry.job.tenant == tenant]
        return TenantStats(
            deficit=self.state.balances[tenant].deficit,
            weight=self.state.balances[tenant].weight,
            queued_jobs=len(queued),
            queued_tokens=sum(job.context_tokens + job.candidate_tokens for job in queued),
            leased_jobs=sum(entry.job.tenant == tenant for entry in self.state.leased),
            service=self.state.service[tenant],
        )


@pytest.mark.parametrize("seed", range(2))
def test_lua_and_the_pure_pool_agree_on_every_verb(
    redis_client: redis.Redis,
    redis_url: str,
    random_job: Callable[[Random, str], Job],
    seed: int,
) -> None:
    twins = Twins(redis_client, redis_url, seed)
    others = {
        twins.claim: 10,
        twins.settle: 10,
        twins.renew: 3,
        twins.cancel: 3,
        twins.crash: 1,
        twins.reap: 3,
        twins.pause: 0.3,
    }
    for number in range(EVENTS):
        if twins.random.random() < 0.45:
            job = random_job(twins.random, f"job-{twins.random.randrange(number + 1)}")
            twins.submit(replace(job, weight=twins.random.choice([job.weight, job.weight, 5])))
        else:
            twins.random.choices([*others], weights=[*others.values()])[0]()
        if number % 50 == 0:
            twins.pass_time()
            twins.compare()
    assert sum(twins.state.service.values()) > 20 * SETTINGS.quantum
