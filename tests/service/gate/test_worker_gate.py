"""The worker's face of the gate on a real Redis: leases, wakes, cache events sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from service.gate.errors import GateUnavailableError
from service.gate.gate import EVENTS_AT_ONCE, WorkerGate
from service.gate.job import Outcome, Reply
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job, chain, scored
from tests.service.gate.redis_servers import limited
from tests.service.gate.remote import Remote


def believed(api: Api, worker: WorkerGate, context: str = "abcd") -> int:
    """Blocks of a new job's context that the pool believes the worker holds."""
    api.submit(build_job("probe", context=context))
    [claimed] = worker.claim(1_000, 1).jobs
    worker.settle([scored(claimed)])
    return claimed.cached_tokens_believed // 16


def test_a_job_settles_once_and_only_at_its_current_epoch(api: Api, worker: WorkerGate) -> None:
    api.submit(build_job("job"))
    [zombie] = worker.claim(1_000, 10).jobs
    assert worker.join() == 1
    [current] = worker.claim(1_000, 10).jobs
    assert worker.renew([zombie, current]) == [False, True]
    assert worker.settle([scored(zombie), scored(current), scored(current)]) == [False, True, False]
    assert len(api.replies()) == 1


def test_settle_refunds_what_was_not_used_and_never_charges_more(
    api: Api, worker: WorkerGate
) -> None:
    api.submit(build_job("less", "a"))
    api.submit(build_job("more", "b", "xy", output_tokens=5))
    less, more = worker.claim(1_000, 10).jobs
    rows = [replace(scored(less), extend_tokens=10), replace(scored(more), output_tokens=99)]
    worker.settle(rows)
    stats = api.stats("a", "b")
    assert {name: node.service for name, node in stats.nodes.items()} == {"a": 10, "b": 52}
    assert (stats.service, stats.uncharged) == (62, 2 * 99)


def test_the_gate_believes_the_cache_events_it_is_told(api: Api, worker: WorkerGate) -> None:
    worker.claim(1_000, 0, chain("abcd"), ["abcd____"])
    assert believed(api, worker) == 3
    worker.settle([], ["abcd____"])
    assert believed(api, worker) == 4
    worker.settle([], [], ["abcd____", "abc_____"])
    assert believed(api, worker) == 2


@pytest.mark.parametrize(("call", "arguments"), [("claim", (1_000, 0)), ("settle", ([],))])
def test_cache_events_of_a_failed_call_are_sent_by_the_next(
    redis_client: redis.Redis, api: Api, worker: WorkerGate, call: str, arguments: Any
) -> None:
    worker.claim(1_000, 0, ["x_______"])
    with limited(redis_client, "min-replicas-to-write"), pytest.raises(GateUnavailableError):
        getattr(worker, call)(*arguments, chain("abc"), ["x_______"])
    worker.settle([], evicted=["abc_____"])
    assert believed(api, worker) == 2
    assert believed(api, worker, "x") == 0


def test_more_cache_events_than_a_call_takes_are_told_by_the_next_ones(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    many = [f"{number:08x}" for number in range(2 * EVENTS_AT_ONCE)]
    worker.claim(1_000, 0, [*many, *chain("ab")])
    assert redis_client.scard(f"{{{POOL}}}:held:worker") == EVENTS_AT_ONCE
    worker.settle([])
    assert redis_client.scard(f"{{{POOL}}}:held:worker") == 2 * EVENTS_AT_ONCE
    assert believed(api, worker) == 2


def test_of_very_many_who_wait_for_a_block_the_others_are_looked_at_by_the_next_calls(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    tenants = 300  # more than two calls look at
    for number in range(tenants):
        api.submit(build_job(f"job-{number}", f"tenant-{number}"))

    def hot() -> int:
        return len(redis_client.keys(f"{{{POOL}}}:hot:worker:tenant-*:1"))

    worker.claim(0, 0, chain("ab"))
    assert 0 < hot() < tenants // 2
    worker.claim(0, 0)
    worker.claim(0, 0)
    assert hot() == tenants


def test_a_context_of_more_blocks_than_lua_takes_apart_is_served(
    api: Api, worker: WorkerGate
) -> None:
    blocks = tuple(f"{number:08x}" for number in range(20_000))
    for name in ("first", "second"):
        job = build_job(name, candidate_tokens=0)
        api.submit(replace(job, context_hashes=blocks, context_tokens=16 * len(blocks)))
    first, second = worker.claim(10**6, 2).jobs
    assert (first.cached_tokens_believed, second.cached_tokens_believed) == (0, 320_000)
    assert worker.settle([scored(first), scored(second)]) == [True, True]


def test_a_wiped_redis_hears_of_the_whole_cache_again(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    assert worker.claim(1_000, 0, chain("abcd")).known
    worker.settle([], ["x_______"], ["abcd____"])
    redis_client.flushall()
    assert not worker.claim(1_000, 0).known
    assert worker.claim(1_000, 0).known
    assert believed(api, worker) == 3
    assert believed(api, worker, "x") == 1


def test_a_wiped_redis_hears_of_the_cache_though_the_answer_that_asked_for_it_was_lost(
    redis_client: redis.Redis, redis_url: str, api: Api, worker: WorkerGate
) -> None:
    worker.claim(1_000, 0, chain("abcd"))
    redis_client.flushall()
    lost = Remote(redis_client, redis_url, POOL, SETTINGS).claim("worker", 1_000, 0)
    assert not lost.known  # but `worker` never hears of it
    with limited(redis_client, "min-replicas-to-write"), pytest.raises(GateUnavailableError):
        worker.claim(1_000, 0)
    assert believed(api, worker) == 4


def test_a_worker_that_joins_anew_has_an_empty_cache(api: Api, worker: WorkerGate) -> None:
    worker.claim(1_000, 0, chain("abcd"))
    worker.join()
    assert believed(api, worker) == 0


def test_jobs_in_a_lost_answer_are_handed_out_again_and_those_that_arrived_are_kept(
    redis_client: redis.Redis, redis_url: str, api: Api, worker: WorkerGate
) -> None:
    for name in ("arrived", "lost"):
        api.submit(build_job(name))
    [arrived] = worker.claim(0, 1).jobs
    assert worker.claim(0, 0).jobs == ()
    assert worker.renew([arrived]) == [True]
    worker.settle([scored(arrived)])
    unheard = Remote(redis_client, redis_url, POOL, SETTINGS).claim("worker", 0, 1)
    [lost] = unheard.jobs  # `worker` never hears of it
    [again] = worker.claim(0, 1).jobs
    assert (again.job_id, lost.job_id) == ("lost", "lost")
    assert worker.settle([scored(lost), scored(again)]) == [False, True]


def test_a_strict_claim_takes_no_job_above_its_budget(api: Api, worker: WorkerGate) -> None:
    api.submit(build_job("job"))
    assert worker.claim(41, 1, strict=True).jobs == ()
    assert len(worker.claim(42, 1, strict=True).jobs) == 1


def test_work_left_behind_wakes_the_worker_again(api: Api, worker: WorkerGate) -> None:
    for name in ("first", "second"):
        api.submit(build_job(name))
    for _ in range(2):
        assert worker.wait_for_work()
        worker.claim(0, 1)
    assert not worker.wait_for_work(timeout_s=0.01)


def test_work_for_a_busy_worker_wakes_an_idle_one(
    api: Api, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    api.submit(build_job("first"))
    worker.claim(0, 1, chain("ab"))
    idle = open_worker("idle")
    idle.join()
    for number in range(3):
        api.submit(build_job(f"job-{number}"))
        assert api.explain(f"job-{number}").worker == "worker"
    assert idle.wait_for_work()
    assert len(idle.claim(1_000, 10).jobs) == 3


def test_an_expired_lease_is_reaped_and_the_job_delivered_again(
    api: Api, open_worker: Callable[..., WorkerGate]
) -> None:
    worker = open_worker(settings=replace(SETTINGS, lease_ms=0))
    worker.join()
    api.submit(build_job("job"))
    worker.claim(1_000, 10)
    assert worker.reap().requeued == 1
    worker.claim(1_000, 10)
    assert worker.reap().lost == 1
    assert api.replies() == [Reply("job", Outcome.WORKER_LOST, b"")]


def test_a_renewed_lease_lasts(
    redis_client: redis.Redis, redis_url: str, api: Api, worker: WorkerGate
) -> None:
    clock = Remote(redis_client, redis_url, POOL, SETTINGS)
    for name in ("renewed", "expired"):
        api.submit(build_job(name))
    renewed, _expired = worker.claim(1_000, 10).jobs
    clock.pass_time(SETTINGS.lease_ms // 2)
    assert worker.renew([renewed]) == [True]
    clock.pass_time(SETTINGS.lease_ms // 2)
    assert worker.reap().requeued == 1
    assert worker.renew([renewed]) == [True]


def test_a_drained_worker_settles_what_it_holds_and_its_queue_moves(
    api: Api, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    for name in ("leased", "queued"):
        api.submit(build_job(name))
    [leased] = worker.claim(0, 1).jobs
    other = open_worker("other")
    other.join()
    worker.drain()
    api.submit(build_job("later"))
    other.reap()
    assert [api.explain(name).worker for name in ("queued", "later")] == ["other", "other"]
    assert list(api.stats().workers) == ["other"]
    assert worker.settle([scored(leased)]) == [True]


def test_a_worker_that_leaves_gives_its_jobs_back(
    api: Api, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    api.submit(build_job("job"))
    worker.claim(1_000, 1)
    assert worker.leave() == 1
    assert worker.stats().workers == {}
    assert len(open_worker("other").claim(1_000, 1).jobs) == 1


def test_one_worker_may_report_another_as_dead(
    api: Api, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    api.submit(build_job("job"))
    [claimed] = worker.claim(1_000, 1).jobs
    witness = open_worker("witness")
    assert witness.forget("worker") == 1
    assert worker.settle([scored(claimed)]) == [False]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "{a}"])
def test_a_worker_name_that_could_break_a_key_is_refused(redis_url: str, name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        WorkerGate(redis_url, POOL, SETTINGS, name)


def test_an_exchange_settles_and_claims_also_when_redis_forgot_the_scripts(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    for name in ("first", "second", "third"):
        api.submit(build_job(name))
    [first] = worker.exchange([], 10_000, 1, chain("ab")).jobs
    redis_client.script_flush()
    [second] = worker.exchange([scored(first)], 10_000, 1).jobs
    [third] = worker.exchange([scored(second)], 10_000, 1).jobs
    assert [job.cached_tokens_believed for job in (first, second, third)] == [32, 32, 32]
    assert worker.exchange([scored(third)], 10_000, 1).jobs == ()
    assert worker.settle([scored(job) for job in (first, second, third)]) == [False] * 3
    assert {reply.job_id for reply in api.replies()} == {"first", "second", "third"}
