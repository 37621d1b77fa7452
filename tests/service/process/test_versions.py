"""Servers of two versions on one Redis: each has a pool of its own, whatever either does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from service.gate import scripts
from service.gate.gate import WorkerGate
from service.process.served_models import pool_name
from tests.service.gate.audit import audit
from tests.service.gate.client import SETTINGS, Api
from tests.service.gate.jobs import build_job, scored

ROOT = Path(__file__).parents[3]
DIRECTORY: Any = SimpleNamespace(digest="0" * 64)  # of a model
OTHER_VERSION = """
import json, sys
from types import SimpleNamespace
from service.gate.gate import WorkerGate
from service.process.served_models import pool_name
from tests.service.gate import client
from tests.service.gate.jobs import build_job, scored

url, policy, *names = sys.argv[1:]
client.POOL = pool_name(SimpleNamespace(digest="0" * 64))
api, worker = client.Api(url, client.SETTINGS), WorkerGate(url, client.POOL, client.SETTINGS, "one")
worker.join()
for name in names:
    api.submit(build_job(name, "tenant"))
api.configure(policy)
jobs = worker.claim(10_000, 100).jobs
worker.settle([scored(job) for job in jobs])
stats = api.stats("tenant")
print(json.dumps({
    "pool": client.POOL, "claimed": [job.job_id for job in jobs], "policy": stats.policy,
    "service": stats.nodes["tenant"].service,
}))
"""


@pytest.fixture
def other_version(tmp_path: Path) -> Path:
    """A checkout whose scripts keep the counter of a node under another name."""
    for name in ("service", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "models").symlink_to(ROOT / "models")
    for script in (tmp_path / "service" / "gate" / "lua").glob("*.lua"):
        script.write_text(script.read_text().replace("deficit", "balance"))
    return tmp_path


def run(version: Path, *arguments: str) -> dict[str, Any]:
    """What a server of that version says of its pool when it has served its jobs."""
    command = [sys.executable, "-c", OTHER_VERSION, *arguments]
    answer = subprocess.run(command, cwd=version, capture_output=True, text=True, check=True)
    return cast("dict[str, Any]", json.loads(answer.stdout))


def test_each_version_drains_its_own_pool_and_switches_its_own_policy(
    monkeypatch: pytest.MonkeyPatch, service_redis_url: str, other_version: Path
) -> None:
    client, pool = redis.Redis.from_url(service_redis_url), pool_name(DIRECTORY)
    monkeypatch.setattr("tests.service.gate.client.POOL", pool)
    api, worker = (
        Api(service_redis_url, SETTINGS),
        WorkerGate(service_redis_url, pool, SETTINGS, "one"),
    )
    worker.join()
    for number in range(6):
        api.submit(build_job(f"old-{number}", "tenant"))
    leased = worker.claim(1, 1).jobs
    first = run(other_version, service_redis_url, "fcfs", "new-0", "new-1")
    assert first == {
        "pool": first["pool"],
        "claimed": ["new-0", "new-1"],
        "policy": "fcfs",
        "service": 52,
    }
    assert first["pool"] != pool
    assert worker.stats().policy == "dlpm"
    audit(client, pool)
    api.configure("vtc")
    others = worker.claim(10_000, 100).jobs
    assert worker.settle([scored(job) for job in (*leased, *others)]) == [True] * 6
    assert {reply.job_id for reply in api.replies()} == {f"old-{number}" for number in range(6)}
    second = run(other_version, service_redis_url, "dlpm", "new-2")
    assert second == first | {"claimed": ["new-2"], "policy": "dlpm", "service": 94}
    audit(client, pool)
    worker.close()
    api.close()
    client.close()


def test_a_pool_is_named_by_the_code_of_its_scripts_and_by_its_payloads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = pool_name(DIRECTORY)
    shutil.copytree(scripts._LUA, tmp_path / "lua")
    monkeypatch.setattr(scripts, "_LUA", tmp_path / "lua")
    script = tmp_path / "lua" / "leave.lua"
    script.write_text("-- another word\n  " + script.read_text() + "-- and one more\n")
    assert pool_name(DIRECTORY) == before
    script.write_text(script.read_text() + "local unused\n")
    assert pool_name(DIRECTORY) != before
    monkeypatch.undo()
    monkeypatch.setattr("service.process.served_models.PAYLOAD_FORMAT", "other")
    assert pool_name(DIRECTORY) != before
