"""Measures the gate alone: admissions (submit + claim + settle) per second. Knows no model.

Run: python -m service.gate.bench [--jobs N] [--queued N]; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from service.gate import wire
from service.gate.embedded import EmbeddedRedis
from service.gate.job import Claimed, Job, Settlement
from service.gate.settings import GateSettings
from service.gate.store import Store

BATCH = 16
BLOCKS = 12
BLOCK_SIZE = 16
PAYLOAD = bytes(2_000)


def main() -> None:
    """Runs every shape on a fresh embedded Redis and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4_000, help="jobs measured per shape")
    parser.add_argument("--queued", type=int, default=64, help="jobs that always wait")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedRedis(Path(directory))
        url = server.start()
        rows = [measure(url, tenants, options.jobs, options.queued) for tenants in (1, 100)]
        server.stop()
    print(json.dumps({"batch": BATCH, "payload_bytes": len(PAYLOAD), "shapes": rows}))


def measure(url: str, tenants: int, jobs: int, queued: int) -> dict[str, float]:
    """One client, one call at a time, `queued` jobs waiting, every context new to the cache."""
    settings = GateSettings(max_pool_jobs=queued + jobs, max_tenant_jobs=queued + jobs)
    store = Store(url, f"bench-{tenants}", settings)
    spent = {"submit": 0.0, "claim": 0.0, "settle": 0.0}
    for number in range(queued + jobs):
        if number == queued:
            spent = dict.fromkeys(spent, 0.0)
        spent["submit"] += _timed(store, "submit", wire.submit_arguments(_job(number, tenants)))[0]
        if number >= queued and number % BATCH == 0:
            _serve(store, spent)
    store.close()
    milliseconds = {f"{verb}_ms": 1e3 * total / jobs for verb, total in spent.items()}
    rate = jobs / sum(spent.values())
    return {"tenants": tenants, "queued": queued, "admissions_per_s": rate, **milliseconds}


def _serve(store: Store, spent: dict[str, float]) -> None:
    arguments = wire.claim_arguments("worker", 10**9, BATCH, [], [])
    seconds, answer = _timed(store, "claim", arguments)
    spent["claim"] += seconds
    settlements = [_settlement(job) for job in wire.read_claim(answer).jobs]
    seconds, _taken = _timed(store, "settle", wire.settle_arguments(settlements))
    spent["settle"] += seconds


def _settlement(job: Claimed) -> Settlement:
    return Settlement(job.job_id, job.epoch, job.charged, bytes(100))


def _timed(store: Store, verb: str, arguments: list[wire.Argument]) -> tuple[float, list[object]]:
    start = time.perf_counter()
    answer: list[object] = store.call(verb, arguments)
    return time.perf_counter() - start, answer


def _job(number: int, tenants: int) -> Job:
    return Job(
        job_id=f"job-{number}",
        tenant=f"tenant-{number % tenants}",
        weight=1,
        context_hashes=tuple(f"{number:024d}{block:08d}" for block in range(BLOCKS)),
        block_size=BLOCK_SIZE,
        context_tokens=BLOCKS * BLOCK_SIZE,
        candidate_tokens=600,
        deadline_ms=3_600_000,
        reply_to="api",
        payload=PAYLOAD,
    )


if __name__ == "__main__":
    main()
