"""No verb looks at the whole queue: the commands that a script runs do not grow with the pool."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis

from service.gate import wire
from service.gate.job import Claimed, Settlement
from service.gate.settings import POLICIES, GateSettings
from service.gate.store import Store
from tests.service.gate.jobs import build_job, chain
from tests.service.gate.overload import NO_CAPS

BATCH = 8
ROUNDS = 5
POPULAR = ("abc", "abd", "ae", "b")
MOST = {"claim": 2_600, "settle": 1_800}  # commands, where contexts are popular
SMALL, LARGE = (200, 20), (2_000, 200)  # jobs and tenants that wait


class Counting:
    """Counts the commands that the scripts of each verb run, the most of any call."""

    def __init__(self, client: redis.Redis, url: str, pool: str, settings: GateSettings) -> None:
        self.client, self.store = client, Store(url, pool, settings)
        self.most: Counter[str] = Counter()
        self.popular = False

    def call(self, verb: str, arguments: list[wire.Argument]) -> Any:
        """One verb."""
        self.client.config_resetstat()
        answer = self.store.call(verb, arguments)
        stats = self.client.info("commandstats")
        scripts = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_config|resetstat", "cmdstat_config")
        run = sum(row["calls"] for name, row in stats.items() if name not in scripts)
        self.most[verb] = max(self.most[verb], run)
        return answer


def serve(counting: Counting, jobs: int, tenants: int) -> Counter[str]:
    """A few rounds of all verbs beside `jobs` waiting ones; returns the most commands by verb."""
    counting.store.call("join", ["worker"])
    for number in range(jobs):
        submit(counting, counting.store.call, f"waiting-{number}", number % tenants)
    counting.store.call("claim", wire.claim_arguments("worker", 10**6, 2 * BATCH))
    for number in range(ROUNDS):
        for place in range(BATCH):
            submit(counting, counting.call, f"new-{number}-{place}", place)
        arguments = wire.claim_arguments("worker", 10**6, BATCH)
        claimed = wire.read_claim(counting.call("claim", arguments)).jobs
        assert len(claimed) == BATCH
        counting.call("renew", wire.renew_arguments("worker", claimed))
        settlements = [scored(job) for job in claimed]
        held = [chain(POPULAR[number % len(POPULAR)]), []]
        counting.call("settle", wire.settle_arguments("worker", settlements, *held))
        counting.call("explain", [f"waiting-{jobs - number - 1}"])
        counting.call("cancel", [f"waiting-{jobs - number - 1}"])
        counting.call("reap", [])
        counting.call("stats", ["tenant-0"])
    return counting.most


def submit(counting: Counting, call: Any, job_id: str, tenant: int) -> None:
    """Its context is its tenant's own, or one of a few that everybody waits for."""
    number = int(job_id.rpartition("-")[2])
    job = build_job(job_id, f"tenant-{tenant}", POPULAR[number % len(POPULAR)])
    if not counting.popular:
        own = tuple(f"{tenant:06d}{block}" for block in job.context_hashes)
        job = replace(job, context_hashes=own)
    [verdict] = wire.read_verdicts(call("submit", wire.submit_arguments(job)), [job], NO_CAPS)
    assert verdict.answer == "queued"


def scored(claimed: Claimed) -> Settlement:
    return Settlement(claimed.job_id, claimed.epoch, claimed.charged, b"")


@pytest.mark.parametrize(
    "changes",
    [{"quantum": 20}, *({"policy": policy} for policy in POLICIES)],
    ids=["most in debt", *POLICIES],
)
def test_no_script_runs_more_commands_the_more_jobs_and_tenants_wait(
    redis_client: redis.Redis, redis_url: str, changes: dict[str, Any]
) -> None:
    settings = replace(NO_CAPS, **changes)
    few = serve(Counting(redis_client, redis_url, "few", settings), *SMALL)
    many = serve(Counting(redis_client, redis_url, "many", settings), *LARGE)
    assert set(few) == set(many)
    assert {verb: (few[verb], many[verb]) for verb in few if many[verb] > 2 * few[verb]} == {}


def test_a_context_that_everybody_waits_for_is_looked_at_in_parts(
    redis_client: redis.Redis, redis_url: str
) -> None:
    """Four contexts become held at once for 500 waiting jobs each."""
    counting = Counting(redis_client, redis_url, "popular", NO_CAPS)
    counting.popular = True
    most = serve(counting, *LARGE)
    assert {verb: run for verb, run in most.items() if run > MOST.get(verb, 250)} == {}


def test_a_refused_job_leaves_nothing_behind(redis_client: redis.Redis, redis_url: str) -> None:
    store = Store(redis_url, "pool", replace(NO_CAPS, max_pool_jobs=1, quantum=10))
    for number in range(3):
        job = build_job(f"job-{number}", "first")
        store.call("submit", wire.submit_arguments(job))
        store.call("claim", wire.claim_arguments("worker", 10**6, 1))
    store.call("submit", wire.submit_arguments(build_job("full", "first")))
    keys = set(redis_client.scan_iter())
    for number in range(20):
        job = build_job(f"refused-{number}", f"org/tenant-{number}")
        answer = store.call("submit", wire.submit_arguments(job))
        assert [verdict.answer for verdict in wire.read_verdicts(answer, [job], NO_CAPS)] == [
            "pool_full"
        ]
    assert set(redis_client.scan_iter()) == keys
