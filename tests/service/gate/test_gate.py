"""The API's face of the gate on a real Redis: verdicts, replies, policies, explanations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

import pytest
import redis

from models.errors import FairslateError
from service.gate import policy
from service.gate.errors import (
    DeadlineExceededError,
    LevelConflictError,
    PoolFullError,
    TenantThrottledError,
)
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Explanation, LevelStanding, Outcome, Reply
from service.gate.moves import EXPIRED_PER_CLAIM
from service.gate.settings import POLICIES
from service.gate.store import LISTENS_MS
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job, chain, scored
from tests.service.gate.remote import Remote


def test_a_job_walks_from_submit_to_its_reply(api: Api, worker: WorkerGate) -> None:
    api.submit(build_job("job", payload=b"\0pay\xffload"))
    assert worker.wait_for_work()
    [claimed] = worker.claim(1_000, 10).jobs
    assert (claimed.payload, claimed.reply_to) == (b"\0pay\xffload", "api")
    assert (claimed.charged, claimed.cached_tokens_believed) == (42, 0)
    assert worker.settle([scored(claimed, b"\0res\xffult")]) == [True]
    assert api.replies() == [Reply("job", Outcome.SCORED, b"\0res\xffult")]
    assert api.replies() == []
    assert (worker.stats().queued_jobs, worker.stats().leased_jobs) == (0, 0)


def test_a_failed_job_brings_its_error_back(api: Api, worker: WorkerGate) -> None:
    api.submit(build_job("job"))
    [claimed] = worker.claim(1_000, 10).jobs
    worker.settle([replace(scored(claimed, b"cause"), outcome=Outcome.FAILED)])
    assert api.replies() == [Reply("job", Outcome.FAILED, b"cause")]


@pytest.mark.parametrize(
    ("change", "error", "message", "status"),
    [
        ({"max_pool_jobs": 1}, PoolFullError, "queue is full", HTTPStatus.SERVICE_UNAVAILABLE),
        ({"max_tenant_jobs": 1}, TenantThrottledError, "limit of 1 jobs or", 429),
        ({"max_tenant_tokens": 60}, TenantThrottledError, "or 60 tokens queued", 429),
        ({"max_tenant_in_flight": 1}, TenantThrottledError, "1 jobs in flight", 429),
    ],
)
def test_a_refusal_says_what_is_full_and_when_to_come_back(
    open_api: Callable[..., Api],
    change: dict[str, int],
    error: type[FairslateError],
    message: str,
    status: int,
) -> None:
    api = open_api(retry_after_ms=700, **change)
    api.submit(build_job("first"))
    with pytest.raises(error, match=message) as refusal:
        api.submit(build_job("second"))
    assert (refusal.value.retry_after_ms, refusal.value.status) == (700, status)
    assert api.stats().queued_jobs == 1


def test_a_passed_deadline_is_refused_at_submit(api: Api) -> None:
    with pytest.raises(DeadlineExceededError) as refusal:
        api.submit(build_job("late", deadline_ms=0))
    assert refusal.value.param == "deadline_ms"
    assert api.stats().queued_jobs == 0


def test_concurrent_submits_each_hear_their_own_verdict(redis_url: str) -> None:
    async def submit_all() -> list[BaseException | None]:
        gate = AsyncGate(redis_url, POOL, replace(SETTINGS, max_tenant_jobs=3))
        jobs = [build_job(f"{name}-{at}", name) for at in range(5) for name in ("a", "b")]
        jobs.append(build_job("late", "c", deadline_ms=0))
        try:
            return await asyncio.gather(*map(gate.submit, jobs), return_exceptions=True)
        finally:
            await gate.close()

    answers = [type(answer) for answer in asyncio.run(submit_all())]
    assert answers == [type(None)] * 6 + [TenantThrottledError] * 4 + [DeadlineExceededError]


def test_a_cap_holds_to_the_job_however_many_replicas_submit_at_once(redis_url: str) -> None:
    async def submit_all() -> list[BaseException | None]:
        settings = replace(SETTINGS, max_tenant_jobs=137)
        gates = [AsyncGate(redis_url, POOL, settings) for _ in range(4)]
        jobs = [build_job(f"job-{number}", "a") for number in range(1_000)]
        calls = [gates[at % len(gates)].submit(job) for at, job in enumerate(jobs)]
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await asyncio.gather(*(gate.close() for gate in gates))

    answers = Counter(type(answer) for answer in asyncio.run(submit_all()))
    assert answers == {type(None): 137, TenantThrottledError: 863}


def test_an_overdue_job_is_answered_and_never_claimed(
    redis_client: redis.Redis, redis_url: str, api: Api, worker: WorkerGate
) -> None:
    api.submit(build_job("late", deadline_ms=1_000))
    api.submit(build_job("in time"))
    Remote(redis_client, redis_url, POOL, SETTINGS).pass_time(1_000)
    claim = worker.claim(1_000, 10)
    assert ([job.job_id for job in claim.jobs], claim.expired) == (["in time"], 1)
    assert api.replies() == [Reply("late", Outcome.DEADLINE, b"")]


def test_a_resubmitted_job_runs_once(api: Api, worker: WorkerGate) -> None:
    for _ in range(2):
        api.submit(build_job("job"))
    assert len(worker.claim(1_000, 10).jobs) == 1


def test_a_cancelled_job_leaves_the_queue_at_once(api: Api, worker: WorkerGate) -> None:
    api.submit(build_job("job"))
    assert api.cancel("job")
    assert not api.cancel("job")
    assert worker.claim(1_000, 10).jobs == ()


def test_all_replies_that_are_there_come_at_once_and_to_their_own_process(
    open_api: Callable[..., Api], worker: WorkerGate
) -> None:
    api, other = open_api(), open_api()
    other.name = "other"
    for number in range(20):
        api.submit(build_job(f"job-{number}"))
    api.submit(build_job("others", reply_to="other"))
    worker.settle([scored(claimed) for claimed in worker.claim(10_000, 30).jobs])
    assert {reply.job_id for reply in api.replies()} == {f"job-{at}" for at in range(20)}
    assert other.replies() == [Reply("others", Outcome.SCORED, b"result")]


def test_a_policy_switched_at_run_time_orders_what_waits_in_the_whole_tree(
    api: Api, worker: WorkerGate
) -> None:
    worker.claim(1_000, 0, chain("ab"))
    for number in range(3):
        api.submit(build_job(f"hot-{number}", f"acme/user-{number}", deadline_ms=50_000 + number))
    api.submit(build_job("due", "solo/user", "xy", deadline_ms=40_000))
    api.configure("fcfs")
    assert api.stats().policy == "fcfs"
    order = [job.job_id for job in worker.claim(10_000, 3).jobs]
    assert order == ["due", "hot-0", "hot-1"]
    for name in POLICIES:
        api.configure(name)
        assert api.stats().policy == name


def test_an_unknown_policy_changes_nothing(api: Api) -> None:
    with pytest.raises(ValueError, match="must be one of dlpm"):
        api.configure("random")
    assert api.stats().policy == "dlpm"


def test_a_job_is_explained_while_it_waits_while_it_is_leased_and_when_it_is_gone(
    api: Api, worker: WorkerGate
) -> None:
    worker.claim(1_000, 0, chain("a"))
    api.submit(build_job("rival", "acme:3/alice", deadline_ms=20_000))
    api.submit(build_job("job", "acme:3/bob:2", deadline_ms=50_000))
    why = api.explain("job")
    assert (why.state, why.worker, why.due_before, why.matched_blocks) == ("queued", "worker", 1, 1)
    assert 40_000 < why.deadline_in_ms == 50_000 - why.queue_ms
    assert why.levels == (
        LevelStanding("acme", 0, 3, 1, 0, 0),
        LevelStanding("acme/bob", 0, 2, 1, 1, 1),
    )
    assert why.queued_cost == 2 * (42 + 42) + 2
    assert why.bound == policy.wait_bound(why.levels, 1, 100, 100, SETTINGS.overtakes, 42)
    worker.claim(1_000, 1)
    assert api.explain("rival").state == "leased"
    assert api.explain("rival").worker == "worker"
    assert api.explain("unknown") == Explanation("unknown")


def test_a_snapshot_shows_the_nodes_that_are_asked_for_and_known(
    api: Api, worker: WorkerGate
) -> None:
    for number in range(4):
        api.submit(build_job(f"job-{number}", f"acme/tenant-{number}"))
    assert set(worker.stats(["acme", "acme/tenant-2", "nobody"]).nodes) == {"acme", "acme/tenant-2"}
    assert api.stats().nodes == {}
    assert list(api.stats().workers) == ["worker"]


def test_a_node_vanishes_by_itself_once_nothing_of_it_waits_or_is_leased(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    keys = [f"{{{POOL}}}:node:{name}" for name in ("acme", "acme/ada")]

    def lifetimes() -> set[bool]:
        return {0 < redis_client.pttl(key) <= SETTINGS.tenant_idle_ms for key in keys}

    api.submit(build_job("job", "acme/ada"))
    assert lifetimes() == {False}
    [claimed] = worker.claim(1_000, 1).jobs
    assert lifetimes() == {False}
    worker.settle([scored(claimed)])
    assert lifetimes() == {True}
    api.submit(build_job("again", "acme/ada"))
    assert lifetimes() == {False}
    api.cancel("again")
    assert lifetimes() == {True}
    assert redis_client.pttl(f"{{{POOL}}}:node:") == -1


def test_an_emptied_pool_leaves_nothing_behind_but_its_tree(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    for number in range(9):
        api.submit(build_job(f"job-{number}", f"tenant-{number % 3}"))
    worker.settle([scored(job) for job in worker.claim(10_000, 8).jobs])
    [leased] = worker.claim(10_000, 8).jobs
    api.cancel(leased.job_id)
    worker.leave()
    api.replies()
    kinds = {key.split(b":")[1] for key in redis_client.scan_iter()}
    assert kinds <= {b"node", b"settings", b"wake", b"listens", b"reply"}


def test_a_warm_job_is_seen_when_its_sibling_leaves_the_front_to_it(
    api: Api, worker: WorkerGate
) -> None:
    """Bob is in debt, so his warm job shows at acme's level only once Alice waits no more."""
    api.submit(build_job("known", "solo/carol"))  # so that solo takes part in the refill
    api.cancel("known")
    api.submit(build_job("spent", "acme:100/bob", "", candidate_tokens=300))
    worker.claim(1_000, 1, chain("a"))
    api.submit(build_job("cold", "acme:100/alice", "z", deadline_ms=9_000))
    api.submit(build_job("warm", "acme:100/bob", "a", deadline_ms=9_000))
    api.submit(build_job("due", "solo/carol", "y", deadline_ms=5_000))
    api.cancel("cold")
    assert [job.job_id for job in worker.claim(1_000, 1).jobs] == ["warm"]


def test_another_depth_is_refused_while_jobs_stand_and_says_when_to_come_back(api: Api) -> None:
    api.submit(build_job("first", "ada/u1", tenant_level=0))
    with pytest.raises(LevelConflictError, match=r"'ada'.*retry") as refusal:
        api.submit(build_job("second", "ada"))
    assert refusal.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert refusal.value.retry_after_ms == SETTINGS.retry_after_ms
    assert api.cancel("first")


def test_a_tenants_depth_changes_both_ways_while_it_is_idle(api: Api, worker: WorkerGate) -> None:
    for number, path in enumerate(("ada/u1", "ada", "ada/u1", "ada/u2", "ada")):
        api.submit(build_job(f"job-{number}", path, tenant_level=0))
        [claimed] = worker.claim(1_000, 9).jobs
        assert claimed.job_id == f"job-{number}"
        assert worker.settle([scored(claimed)]) == [True]
    assert api.stats("ada").nodes["ada"].service == 5 * claimed.charged


def test_jobs_of_an_api_process_that_is_gone_are_neither_served_nor_charged(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    assert api.replies() == []
    assert redis_client.pttl(f"{{{POOL}}}:listens:api") <= LISTENS_MS
    api.submit(build_job("served"))
    [served] = worker.claim(1_000, 9).jobs
    for number in range(EXPIRED_PER_CLAIM + 1):
        api.submit(build_job(f"job-{number}"))
    redis_client.delete(f"{{{POOL}}}:listens:api")  # as it does by itself when nobody looks
    assert [worker.claim(1_000, 9).expired for _ in range(3)] == [EXPIRED_PER_CLAIM, 1, 0]
    assert worker.settle([scored(served)]) == [True]
    assert api.stats("tenant").nodes["tenant"].service == served.charged
    assert Counter(reply.outcome for reply in api.replies()) == {
        Outcome.WORKER_LOST: EXPIRED_PER_CLAIM + 1,
        Outcome.SCORED: 1,
    }
