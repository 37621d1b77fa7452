"""Whatever tenants and jobs are called, they are told apart and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from service.gate.job import Level, Settlement
from service.gate.settings import GateSettings
from tests.service.gate.audit import audit
from tests.service.gate.jobs import build_job
from tests.service.gate.remote import Remote

SETTINGS = GateSettings(quantum=100, attribution="split")
NAMES = (
    "x" * 4_096,
    "x" * 4_095 + "y",
    "{pool}:node:",
    "a:1",
    "a",
    "a:1:1",
    "waiting:a",
    "1",
    "1.0",
    "1e0",
    "%d%1",
    "^(.*)$",
    "-inf",
    "nil",
    " ",
    "a\nb",
    "\x01\x7f",
    "\u00fc\U0001f600",
    "'\"\\",
)

ABOVE = ("top", "a:1", "1")


@pytest.mark.parametrize("policy", ["dlpm", "vtc"])
def test_names_of_any_form_keep_their_jobs_and_their_books_apart(
    redis_client: redis.Redis, redis_url: str, policy: str
) -> None:
    remote = Remote(redis_client, redis_url, "pool", replace(SETTINGS, policy=policy))
    remote.join("worker")
    for above in ABOVE:
        for number, name in enumerate(NAMES):
            job = build_job(f"{above}-{name}", context="abc", candidate_tokens=9 + number)
            path = (Level(above), Level(name, number + 1))
            assert remote.submit(replace(job, path=path, tenant_level=1)).answer == "queued"
    audit(redis_client, "pool")
    assert remote.explain(f"1-{NAMES[-1]}").levels[1].node == f"1/{NAMES[-1]}"
    served = []
    while jobs := remote.claim("worker", 10_000, 8).jobs:
        audit(redis_client, "pool")
        assert all(remote.settle("worker", [scored(job.job_id, job.epoch) for job in jobs]))
        served += [job.job_id for job in jobs]
    assert sorted(served) == sorted(f"{above}-{name}" for above in ABOVE for name in NAMES)
    audit(redis_client, "pool")
    nodes = remote.stats().nodes
    leaves = [nodes[f"{above}/{name}"].service for above in ABOVE for name in NAMES]
    assert sum(leaves) == sum(nodes[above].service for above in ABOVE) == 7 * len(leaves)


def scored(job_id: str, epoch: int) -> Settlement:
    return Settlement(job_id, epoch, 7, b"")
