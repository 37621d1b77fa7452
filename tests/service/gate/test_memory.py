"""A simulated day with a hundred thousand tenants: what the gate keeps of them does not grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from service.gate import wire
from service.gate.job import Settlement
from service.gate.store import Store
from tests.service.gate.jobs import build_job
from tests.service.gate.overload import NO_CAPS
from tests.service.gate.remote import Remote

HOUR_MS = 3_600_000
TICKS_AN_HOUR = 12
SETTINGS = replace(NO_CAPS, quantum=100, quantum_parts=1, tenant_idle_ms=HOUR_MS)


def live(remote: Remote, store: Store, tick: int, tenants: int) -> None:
    """New tenants send one job each, all are served, time passes."""
    names = [f"tenant-{tick}-{number}" for number in range(tenants)]
    jobs = [build_job(name, f"org-{tick % 7}/{name}", "ab", reply_to="none") for name in names]
    claim = ("claim", wire.claim_arguments("worker", 10**6, 100))
    for start in range(0, tenants, 50):
        submits = [("submit", wire.submit_arguments(job)) for job in jobs[start : start + 50]]
        claimed = wire.read_claim(store.call_all([*submits, claim])[-1]).jobs
        assert len(claimed) == 50
        rows = [Settlement(job.job_id, job.epoch, job.charged // 2, b"") for job in claimed]
        store.call_all([("settle", wire.settle_arguments("worker", rows))])
    store.delete_replies("none")
    remote.pass_time(HOUR_MS // TICKS_AN_HOUR)
    remote.age_nodes(HOUR_MS // TICKS_AN_HOUR)
    remote.reap()


@pytest.mark.parametrize(
    ("hours", "tenants"),
    [
        (4, 50),
        pytest.param(24, 350, marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
    ],
)
def test_memory_is_flat_however_many_tenants_come_and_go(
    redis_client: redis.Redis, redis_url: str, hours: int, tenants: int
) -> None:
    remote = Remote(redis_client, redis_url, "pool", SETTINGS)
    store = Store(redis_url, "pool", SETTINGS)
    remote.join("worker")
    remote.submit(build_job("first", "org-0/first"))
    remote.claim("worker", 1, 1)
    remote.settle("worker", [])
    keys = []
    for hour in range(hours):
        for tick in range(TICKS_AN_HOUR):
            live(remote, store, hour * TICKS_AN_HOUR + tick, tenants)
        keys.append(redis_client.dbsize())
    assert max(keys[2:]) <= 1.1 * keys[1] < 2.5 * TICKS_AN_HOUR * tenants
