"""Measures the gate alone on a real redis-server: claims, admissions, memory. Knows no model.

Run: python -m service.gate.bench [--json FILE] [--queued N] [--tenants N] [--seconds S]

An admission is one submit, claim and settle. `claim_p50_ms` and `claim_p99_ms` are what a lone
worker waits for one claim of `batch` jobs, round trip included, with `queued` jobs waiting.
`admissions_per_s` is what clients that keep Redis busy get by pipelining; `redis_share` says how
busy its one core was, and `admissions_per_core_s` divides by the CPU time it took itself.
`script_p99_ms` is by verb what Redis itself took for a lone worker's call: a claim or settlement of
`batch` jobs, and submits of eight jobs at most.
`slow_calls` took Redis itself more than 2 ms each, of all calls; `slowest_call_ms` is the worst.
Every context is new to the cache, so nothing is saved by matching. Redis runs as the service runs
it: append-only file on, synced every second.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels.kept.conditions import conditions
from service.gate import wire
from service.gate.bench_store import BenchStore
from service.gate.embedded import EmbeddedRedis
from service.gate.gate import SUBMITTED_AT_ONCE
from service.gate.job import Job, Level, Settlement
from service.gate.settings import GateSettings

Call = tuple[str, list[wire.Argument]]

BLOCKS, BLOCK_SIZE, CANDIDATE_TOKENS = 12, 16, 600
PAYLOAD, RESULT = bytes(2_000), bytes(100)
CLIENTS = 2
KEPT_TENANTS = 3_000
WORKER = "worker"
BUDGET = 10**9
SLOW_MS = 2.0  # of Redis' own time, by its slow log
NOISE = 1e-9  # of floating point, below any rank
VERBS = ("submit", "claim", "settle")
UNCAPPED = GateSettings(
    quantum=2_048,
    quantum_parts=1,  # as in the paper; the kept figures hold for one refill a quantum
    max_pool_jobs=10**9,
    max_pool_tokens=10**15,
    max_tenant_jobs=10**9,
    max_tenant_tokens=10**15,
    max_tenant_in_flight=10**9,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What waits while we measure; a small `quantum` keeps most tenants in debt."""

    queued: int
    tenants: int
    batch: int
    quantum: int = UNCAPPED.quantum
    levels: int = 1

    @property
    def settings(self) -> GateSettings:
        """The gate's settings without caps."""
        return replace(UNCAPPED, quantum=self.quantum)


class Client:
    """One connection that submits, claims and settles jobs of a shape."""

    def __init__(self, url: str, pool: str, shape: Shape, name: str) -> None:
        self.store = BenchStore(url, pool, shape.settings)
        self._shape, self._name, self._made = shape, name, 0

    def submits(self, jobs: int) -> list[Call]:
        """Calls that queue new jobs, tenant after tenant, as many at once as the service does."""
        return [
            ("submit", [cell for _ in range(count) for cell in wire.submit_arguments(self._job())])
            for start in range(0, jobs, SUBMITTED_AT_ONCE)
            for count in [min(SUBMITTED_AT_ONCE, jobs - start)]
        ]

    def claim(self) -> Call:
        """The call that takes a batch."""
        arguments = wire.claim_arguments(WORKER, BUDGET, self._shape.batch)
        return "claim", arguments

    def settle(self, answer: list[Any]) -> Call:
        """The call that ends what a claim answered."""
        jobs = wire.read_claim(answer).jobs
        rows = [Settlement(job.job_id, job.epoch, job.charged, RESULT) for job in jobs]
        return "settle", wire.settle_arguments(WORKER, rows)

    def _job(self) -> Job:
        self._made += 1
        tenant = f"tenant-{self._made % self._shape.tenants}"
        above = [f"level-{depth}" for depth in range(self._shape.levels - 1)]
        return Job(
            job_id=f"{self._name}-{self._made}",
            path=tuple(map(Level, [*above, tenant])),
            tenant_level=self._shape.levels - 1,
            context_hashes=tuple(
                f"{self._name:0>20}{self._made:08x}{at:04x}" for at in range(BLOCKS)
            ),
            block_size=BLOCK_SIZE,
            context_tokens=BLOCKS * BLOCK_SIZE,
            candidate_tokens=CANDIDATE_TOKENS,
            deadline_ms=3_600_000,
            reply_to="api",
            payload=PAYLOAD,
        )


def main() -> None:
    """Runs every shape and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="-", help="where the JSON object goes, - for the screen")
    parser.add_argument("--queued", type=int, default=10_000, help="jobs that wait all the time")
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=8, help="jobs of one claim")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load per shape")
    parser.add_argument("--shapes", type=int, default=6, help="how many of the shapes")
    options = parser.parse_args()
    usual = Shape(options.queued, options.tenants, options.batch)
    shapes = {
        "usual": usual,
        "one job a claim": replace(usual, batch=1),
        "most in debt": replace(usual, quantum=50),
        "three levels": replace(usual, levels=3),
        "one tenant": replace(usual, tenants=1),
        "nearly empty": replace(usual, queued=usual.batch * 2 * CLIENTS),
    }
    chosen = [*shapes.items()][: options.shapes]
    rows = [{"shape": name, **measure(shape, options.seconds)} for name, shape in chosen]
    memory = {"bytes_per_tenant": bytes_per_tenant(usual), "payload_bytes": len(PAYLOAD)}
    text = json.dumps(conditions() | rows[0] | memory | {"rows": rows}, indent=1)
    if options.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(options.json).write_text(text + "\n", encoding="utf-8")


def measure(shape: Shape, seconds: float) -> dict[str, Any]:
    """Latency of a lone worker's claims, then the rate of clients that never wait."""
    with redis_url() as url:
        client = Client(url, "bench", shape, "fill")
        _warm_up(client)
        for _ in range(0, shape.queued, 100):
            client.store.call_all(client.submits(100))
        script_p99_ms = _script_p99_ms(client, shape.batch, seconds)
        client.store.note_slow_calls(SLOW_MS)
        latencies = sorted(claim_seconds(client, shape.batch, seconds))
        before = client.store.info()
        admitted, wall = _admit_in_parallel(url, shape, seconds)
        after = client.store.info()
        slow = client.store.slow_calls_ms()
        cores = (_cpu_seconds(after) - _cpu_seconds(before)) / wall
        client.store.close()
    return {
        "quantum": shape.settings.quantum,
        "quantum_parts": shape.settings.quantum_parts,
        "queued": shape.queued,
        "tenants": shape.tenants,
        "batch": shape.batch,
        "claim_p50_ms": _milliseconds(latencies, 0.5),
        "claim_p99_ms": _milliseconds(latencies, 0.99),
        "claims": len(latencies),
        "script_p99_ms": script_p99_ms,
        "admissions_per_s": round(admitted / wall),
        "redis_share": round(cores, 2),
        "admissions_per_core_s": round(admitted / wall / cores),
        "slow_calls": len(slow),
        "slowest_call_ms": max(slow, default=None),
        "redis_version": after["redis_version"],
    }


def claim_seconds(client: Client, batch: int, seconds: float) -> Iterator[float]:
    """Claims one after the other; the jobs taken are settled and replaced before the next."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        verb, arguments = client.claim()
        start = time.perf_counter()
        answer = client.store.call(verb, arguments)
        yield time.perf_counter() - start
        client.store.call_all([client.settle(answer), *client.submits(batch)])


def _script_p99_ms(client: Client, batch: int, seconds: float) -> dict[str, float]:
    """Redis' own time by verb, of the last calls of a lone worker's load."""
    client.store.note_slow_calls(0)
    for _ in claim_seconds(client, batch, seconds):
        pass
    times = client.store.script_times_ms(VERBS)
    return {verb: percentile(sorted(times[verb]), 0.99) for verb in VERBS}


def bytes_per_tenant(shape: Shape) -> int:
    """What Redis keeps of a tenant whose jobs have all been answered."""
    with redis_url() as url:
        client = Client(url, "bench", replace(shape, batch=100, tenants=KEPT_TENANTS), "memory")
        _warm_up(client)
        before = int(client.store.info()["used_memory"])
        for _ in range(0, KEPT_TENANTS, 100):
            answers = client.store.call_all([*client.submits(100), client.claim()])
            client.store.call_all([client.settle(answers[-1])])
        client.store.delete_replies("api")
        after = int(client.store.info()["used_memory"])
        client.store.close()
    return round((after - before) / KEPT_TENANTS)


@contextmanager
def redis_url() -> Iterator[str]:
    """A redis-server of its own: the one on PATH, else the one that is shipped."""
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedRedis(Path(directory), executable=shutil.which("redis-server"))
        yield server.start()
        server.stop()


def _warm_up(client: Client) -> None:
    """Loads the scripts."""
    client.store.call("join", [WORKER])
    [submit] = client.submits(1)
    client.store.call(*submit)
    client.store.call(*client.settle(client.store.call(*client.claim())))


def _admit_in_parallel(url: str, shape: Shape, seconds: float) -> tuple[int, float]:
    """Jobs settled by all clients together, and in how many seconds."""
    with multiprocessing.get_context("spawn").Pool(CLIENTS) as clients:
        parts = [(url, shape, seconds, f"client-{number}") for number in range(CLIENTS)]
        admitted, starts, ends = zip(*clients.starmap(_admit, parts, 1), strict=True)
    return sum(admitted), max(ends) - min(starts)


def _admit(url: str, shape: Shape, seconds: float, name: str) -> tuple[int, float, float]:
    """Settles a batch, queues as many jobs and claims the next, all in one round trip."""
    client, admitted = Client(url, "bench", shape, name), 0
    answer = client.store.call(*client.claim())
    start = now = time.perf_counter()
    while now < start + seconds:
        calls = [client.settle(answer), *client.submits(shape.batch), client.claim()]
        answer = client.store.call_all(calls)[-1]
        admitted, now = admitted + shape.batch, time.perf_counter()
    client.store.call(*client.settle(answer))
    client.store.close()
    return admitted, start, now


def _cpu_seconds(info: dict[str, Any]) -> float:
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def _milliseconds(latencies: list[float], share: float) -> float:
    return round(1e3 * percentile(latencies, share), 3)


def percentile(ordered: list[float], share: float) -> float:
    """As `loadtest.percentiles`, which no service may import; a test compares the two."""
    return ordered[max(0, math.ceil(share * len(ordered) - NOISE) - 1)]


if __name__ == "__main__":
    main()
