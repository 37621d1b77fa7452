"""The two facades on a real Redis: waiting, replies, outages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest
import redis

from models.errors import FairslateError
from service.gate.errors import (
    DeadlineExceededError,
    GateUnavailableError,
    PoolFullError,
    TenantThrottledError,
)
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Claimed, GateStats, Job, Outcome, Reply, Settlement
from service.gate.settings import GateSettings

SETTINGS = GateSettings(quantum=100)
Answer = TypeVar("Answer")


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerGate]:
    gate = WorkerGate(redis_url, "pool", SETTINGS, "worker")
    yield gate
    gate.close()


class Api:
    """Runs the API side's coroutines one by one, each on a loop of its own."""

    def __init__(self, url: str, settings: GateSettings) -> None:
        self.url, self.settings = url, settings

    def run(self, verb: Callable[[AsyncGate], Awaitable[Answer]]) -> Answer:
        async def run() -> Answer:
            gate = AsyncGate(self.url, "pool", self.settings)
            try:
                await gate.ping()
                return await verb(gate)
            finally:
                await gate.close()

        return asyncio.run(run())

    def submit(self, *jobs: Job) -> None:
        async def submit_all(gate: AsyncGate) -> None:
            for job in jobs:
                await gate.submit(job)

        self.run(submit_all)

    def cancel(self, job_id: str) -> bool:
        return self.run(lambda gate: gate.cancel(job_id))

    def replies(self) -> list[Reply]:
        return self.run(lambda gate: gate.next_replies("api"))

    def stats(self) -> GateStats:
        return self.run(lambda gate: gate.stats())


@pytest.fixture
def api(redis_url: str) -> Api:
    return Api(redis_url, SETTINGS)


def scored(job: Claimed, result: bytes = b"result") -> Settlement:
    return Settlement(job.job_id, job.epoch, job.charged, result)


def test_a_job_walks_from_submit_to_its_reply(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job", payload=b"\0pay\xffload"))
    assert worker.wait_for_work()
    [claimed] = worker.claim(1_000, 10).jobs
    assert (claimed.payload, claimed.reply_to) == (b"\0pay\xffload", "api")
    assert (claimed.charged, claimed.cached_tokens_believed) == (42, 0)
    assert worker.settle([scored(claimed, b"\0res\xffult")]) == [True]
    assert api.replies() == [Reply("job", Outcome.SCORED, b"\0res\xffult")]
    assert (api.stats().queued_jobs, api.stats().leased_jobs) == (0, 0)


def test_a_failed_job_brings_its_error_back(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job"))
    [claimed] = worker.claim(1_000, 10).jobs
    worker.settle([replace(scored(claimed, b"cause"), outcome=Outcome.FAILED)])
    assert api.replies() == [Reply("job", Outcome.FAILED, b"cause")]


def test_a_job_settles_once_and_only_at_its_current_epoch(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job"))
    [zombie] = worker.claim(1_000, 10).jobs
    assert worker.join() == 1
    [current] = worker.claim(1_000, 10).jobs
    assert worker.renew([zombie, current]) == [False, True]
    assert worker.settle([scored(zombie), scored(current), scored(current)]) == [False, True, False]
    assert len(api.replies()) == 1


def test_settle_refunds_what_the_engine_found_cached_and_never_charges_more(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("warm", "a"), make_job("cold", "b", "xy"))
    claimed = worker.claim(1_000, 10).jobs
    warm, cold = (
        replace(scored(job), extend_tokens=tokens)
        for job, tokens in zip(claimed, (10, 99), strict=True)
    )
    worker.settle([warm, cold])
    tenants = api.stats().tenants
    assert (tenants["a"].deficit, tenants["a"].service) == (90, 10)
    assert (tenants["b"].deficit, tenants["b"].service) == (58, 42)


def test_the_gate_believes_the_cache_events_it_is_told(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    first, second = make_job("first", context="abc"), make_job("second", context="abcd")
    api.submit(first)
    worker.claim(1_000, 10)
    api.submit(second)
    [claimed] = worker.claim(1_000, 10, first.context_hashes, ["abc_____"]).jobs
    assert claimed.cached_tokens_believed == 2 * 16


def test_cache_events_of_a_failed_claim_are_sent_by_the_next(
    redis_client: redis.Redis, api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    job = make_job("job", context="abc")
    api.submit(job)
    redis_client.acl_setuser("default", commands=["-evalsha"])
    try:
        with pytest.raises(GateUnavailableError):
            worker.claim(1_000, 10, job.context_hashes)
    finally:
        redis_client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])
    [claimed] = worker.claim(1_000, 10, evicted=["abc_____"]).jobs
    assert claimed.cached_tokens_believed == 2 * 16


def test_a_tenant_over_its_cap_is_refused_and_others_are_served(
    redis_url: str, make_job: Callable[..., Job]
) -> None:
    api = Api(redis_url, replace(SETTINGS, max_tenant_jobs=1))
    api.submit(make_job("first", "a"))
    with pytest.raises(TenantThrottledError, match="1 jobs") as refusal:
        api.submit(make_job("second", "a"))
    assert refusal.value.retry_after_ms == 1_000
    api.submit(make_job("third", "b"))
    assert api.stats().queued_jobs == 2


def test_a_full_pool_refuses_everybody(redis_url: str, make_job: Callable[..., Job]) -> None:
    api = Api(redis_url, replace(SETTINGS, max_pool_tokens=60))
    api.submit(make_job("first", "a"))
    with pytest.raises(PoolFullError) as refusal:
        api.submit(make_job("second", "b"))
    assert refusal.value.retry_after_ms == 1_000


def test_a_passed_deadline_is_refused_at_submit(api: Api, make_job: Callable[..., Job]) -> None:
    with pytest.raises(DeadlineExceededError) as refusal:
        api.submit(make_job("late", deadline_ms=0))
    assert refusal.value.param == "deadline_ms"
    assert api.stats().queued_jobs == 0


def test_overdue_jobs_are_answered_and_never_claimed_however_many(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(*(make_job(f"late-{index}", deadline_ms=1) for index in range(600)))
    api.submit(make_job("in-time"))
    claim = worker.claim(100_000, 1_000)
    assert [job.job_id for job in claim.jobs] == ["in-time"]
    assert claim.expired == 600
    outcomes = [reply.outcome for _ in range(3) for reply in api.replies()]
    assert outcomes == [Outcome.DEADLINE] * 600


def test_a_resubmitted_job_runs_once(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job"), make_job("job"))
    assert len(worker.claim(1_000, 10).jobs) == 1


def test_a_cancelled_job_leaves_the_queue_at_once(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job"))
    assert api.cancel("job")
    assert not api.cancel("job")
    assert worker.claim(1_000, 10).jobs == ()
    assert api.stats().queued_tokens == 0


def test_work_left_behind_wakes_the_next_worker(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("first"), make_job("second"))
    assert worker.wait_for_work()
    worker.claim(1_000, 1)
    assert worker.wait_for_work()
    worker.claim(1_000, 1)
    assert not worker.wait_for_work(timeout_s=0.01)


def test_a_claim_that_empties_the_queue_wakes_nobody(
    api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(make_job("job"))
    worker.claim(1_000, 1)
    assert not worker.wait_for_work(timeout_s=0.01)


def test_an_expired_lease_is_reaped_and_the_job_delivered_again(
    redis_url: str, make_job: Callable[..., Job]
) -> None:
    settings = replace(SETTINGS, lease_ms=0)
    api, worker = Api(redis_url, settings), WorkerGate(redis_url, "pool", settings, "worker")
    api.submit(make_job("job"))
    worker.claim(1_000, 10)
    assert worker.reap().requeued == 1
    worker.claim(1_000, 10)
    assert worker.reap().lost == 1
    assert api.replies() == [Reply("job", Outcome.WORKER_LOST, b"")]
    worker.close()


def test_stats_show_workers_and_forgotten_ones_are_gone(api: Api, worker: WorkerGate) -> None:
    worker.join()
    assert list(api.stats().workers) == ["worker"]
    worker.forget("worker")
    assert not api.stats().workers


def test_only_a_tenant_without_debt_is_forgotten(
    redis_client: redis.Redis, redis_url: str, make_job: Callable[..., Job]
) -> None:
    settings = replace(SETTINGS, tenant_idle_ms=1)
    api, worker = Api(redis_url, settings), WorkerGate(redis_url, "pool", settings, "worker")
    api.submit(make_job("small", "thrifty"), make_job("large", "debtor", candidate_tokens=500))
    worker.settle([scored(job) for job in worker.claim(10_000, 10).jobs])
    _wait_one_tick(redis_client)
    worker.reap()
    assert list(api.stats().tenants) == ["debtor"]
    assert redis_client.keys("*tenant:*") == [b"{pool}:tenant:debtor"]
    worker.close()


def test_an_emptied_pool_leaves_nothing_behind_but_its_counters(
    redis_client: redis.Redis, api: Api, worker: WorkerGate, make_job: Callable[..., Job]
) -> None:
    api.submit(*(make_job(f"job-{index}", f"t-{index % 3}") for index in range(9)))
    worker.settle([scored(job) for job in worker.claim(10_000, 8).jobs])
    api.cancel(worker.claim(10_000, 8).jobs[0].job_id)
    worker.leave()
    api.replies()
    kinds = {key.split(b":")[1] for key in redis_client.scan_iter()}
    assert kinds <= {b"meta", b"tenant", b"tenants", b"wake"}


@pytest.mark.parametrize("error", [PoolFullError, TenantThrottledError, DeadlineExceededError])
def test_every_refusal_is_a_fairslate_error(error: type[FairslateError]) -> None:
    assert issubclass(error, FairslateError)
    assert error.code != FairslateError.code


def _wait_one_tick(client: redis.Redis) -> None:
    start = client.time()
    while client.time()[0] * 1e6 + client.time()[1] < start[0] * 1e6 + start[1] + 2_000:
        pass
