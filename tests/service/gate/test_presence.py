"""Which workers live, and what becomes of the work of those that do not, on a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from service.gate.errors import GateUnavailableError, WorkerNameTakenError
from service.gate.gate import WorkerGate
from service.gate.moves import EXPIRED_PER_CLAIM
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job, chain, scored
from tests.service.gate.remote import Remote


@pytest.fixture
def clock(redis_client: redis.Redis, redis_url: str) -> Remote:
    return Remote(redis_client, redis_url, POOL, SETTINGS)


@pytest.fixture
def two_workers(open_worker: Callable[..., WorkerGate]) -> tuple[WorkerGate, WorkerGate]:
    gates = open_worker("dead"), open_worker("alive")
    for gate in gates:
        gate.join()
    return gates


def test_a_vanished_workers_jobs_are_served_by_one_that_lives(
    clock: Remote, api: Api, two_workers: tuple[WorkerGate, WorkerGate]
) -> None:
    dead, alive = two_workers
    dead.claim(1, 0, chain("ab"))
    api.submit(build_job("before"))
    assert api.explain("before").worker == "dead"
    clock.pass_time(SETTINGS.worker_silent_ms)
    alive.renew([])
    api.submit(build_job("after"))
    assert api.explain("after").worker == "alive"
    assert alive.wait_for_work()
    assert {job.job_id for job in alive.claim(1_000, 8).jobs} == {"before", "after"}


def test_a_worker_unheard_since_redis_came_back_does_not_look_alive(
    clock: Remote, api: Api, two_workers: tuple[WorkerGate, WorkerGate]
) -> None:
    _dead, alive = two_workers
    clock.step_clock(30_000)
    assert set(api.stats().workers.values()) == {SETTINGS.worker_idle_ms}
    clock.pass_time(1)
    alive.renew([])
    silence = api.stats().workers
    assert silence["alive"] < SETTINGS.worker_silent_ms < silence["dead"]


@pytest.mark.parametrize("speaks", [WorkerGate.join, lambda gate: gate.renew([])])
def test_the_worker_that_speaks_first_after_a_pause_looks_alive(
    clock: Remote,
    api: Api,
    two_workers: tuple[WorkerGate, WorkerGate],
    speaks: Callable[[WorkerGate], object],
) -> None:
    _dead, alive = two_workers
    clock.step_clock(30_000)
    speaks(alive)
    silence = api.stats().workers
    assert silence["alive"] < SETTINGS.worker_silent_ms < silence["dead"]


def test_a_worker_that_is_never_idle_piles_up_no_wakes_and_takes_its_last_along(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    for number in range(9):
        api.submit(build_job(f"job-{number}"))
        worker.claim(0, 1)
    assert redis_client.llen(f"{{{POOL}}}:wake:worker") <= 1
    worker.leave()
    api.submit(build_job("for nobody"))
    assert redis_client.keys("*wake*") == []


def test_a_claim_answers_a_bounded_number_of_overdue_jobs_and_the_next_goes_on(
    redis_client: redis.Redis, redis_url: str, api: Api, worker: WorkerGate
) -> None:
    clock = Remote(redis_client, redis_url, POOL, SETTINGS)
    for number in range(EXPIRED_PER_CLAIM + 9):
        clock.submit(build_job(f"late-{number}", deadline_ms=500))
    clock.submit(build_job("in time"))
    clock.pass_time(500)
    assert [worker.claim(1_000, 9).expired for _ in range(2)] == [EXPIRED_PER_CLAIM, 9]
    assert api.stats().leased_jobs == 1


def test_of_two_workers_of_one_name_the_first_is_told_so_and_the_second_serves(
    api: Api, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    for number in range(3):
        api.submit(build_job(f"job-{number}"))
    [held] = worker.claim(0, 1).jobs
    second = open_worker("worker")
    second.join()
    with pytest.raises(WorkerNameTakenError, match=r"'worker'.*stop one"):
        worker.exchange([scored(held)], 1_000, 8)
    claim = second.claim(1_000, 8)
    assert len(claim.jobs) == 3
    assert second.settle([scored(job) for job in claim.jobs]) == [True] * 3


def test_a_worker_that_a_wiped_redis_forgot_takes_its_name_again(
    redis_client: redis.Redis, worker: WorkerGate, open_worker: Callable[..., WorkerGate]
) -> None:
    redis_client.flushall()
    worker.claim(0, 1)
    with pytest.raises(WorkerNameTakenError):
        open_worker("worker").claim(0, 1)


def test_an_absent_redis_is_gate_unavailable(tmp_path: Path) -> None:
    api = Api(f"unix://{tmp_path}/none.sock", SETTINGS)
    with pytest.raises(GateUnavailableError) as outage:
        api.submit(build_job("job"))
    assert outage.value.retry_after_ms == 1_000
    api.close()
