"""Measures fairness on the real engine over HTTP. Knows nothing of the server's inside.

    python -m loadtest.fairness --json loadtest/results/fairness.json

Starts `bentoml serve` with the demo ranker, one engine thread on a core of its own, and runs:
capacity with slates of 24; a quiet tenant at 20 % of it, alone and beside an aggressor that sends
10 times its share, by policy; and four busy tenants of weights 1 to 4.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.flood import Flood, flooding
from loadtest.fresh import ROOT, conditions
from loadtest.openloop import Sample, Sender
from loadtest.percentiles import percentile
from loadtest.serving import Server, serving
from loadtest.traffic import SLATE_SIZE, load_catalogue

DATA = ROOT / "models" / "demo" / "onet_jobs"
QUIET_SHARE = 0.2
AGGRESSION = 10  # times its share of the machine
CLIENTS = 12
QUIET_DEADLINE_MS = 30_000
BUSY_DEADLINE_MS = 10_000
WARM_UP_SECONDS = 5.0
WEIGHTS = {"one": 1, "two": 2, "three": 3, "four": 4}
TENANTS: dict[str, Any] = {
    "classes": {"interactive": 8, "batch": 1},
    "tenants": [
        {"name": "quiet", "class": "interactive"},
        {"name": "equal", "class": "interactive"},
        {"name": "bulk", "class": "batch"},
        *({"name": name, "weight": weight} for name, weight in WEIGHTS.items()),
    ],
}
SHARES = {"bulk": 1 / 9, "equal": 1 / 2}  # beside the quiet tenant, by weight
# Who sends beside the quiet tenant, and by which policy it is served.
BESIDE = (("", "dlpm"), ("bulk", "dlpm"), ("equal", "dlpm"), ("bulk", "fcfs"))


@dataclass(frozen=True, slots=True)
class Options:
    """How long each part takes, in seconds, and how often the quiet part is repeated."""

    seconds: float
    rounds: int
    weight_seconds: float


def main() -> None:
    """Prints the rows, and keeps them where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="where the rows are kept")
    parser.add_argument("--seconds", type=float, default=40.0, help="of one quiet part")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, policies interleaved")
    parser.add_argument("--weight-seconds", type=float, default=60.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="settings")
    given = parser.parse_args()
    options = Options(given.seconds, given.rounds, given.weight_seconds)
    settings = dict(pair.split("=", 1) for pair in given.set)
    with (
        tempfile.TemporaryDirectory(prefix="fairness-") as state,
        serving(Path(state), TENANTS, settings) as server,
    ):
        rows = asyncio.run(measure(server, options))
    text = json.dumps({**conditions(), "settings": settings, "rows": rows}, indent=2) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text, encoding="utf-8")


async def measure(server: Server, options: Options) -> list[dict[str, Any]]:
    """All rows, in the order of the module's docstring."""
    sender = Sender(server.url, load_catalogue(DATA))
    capacity = await measure_capacity(sender)
    rows = [{"experiment": "capacity", "slates_per_s": capacity, "slate": SLATE_SIZE}]
    samples: dict[tuple[str, str], list[Sample]] = {case: [] for case in BESIDE}
    aggressors: dict[tuple[str, str], Counter[int]] = {case: Counter() for case in BESIDE}
    for turn in range(options.rounds):
        for beside, policy in BESIDE:
            server.configure(policy)
            found, statuses = await quiet(sender, capacity, beside, turn, options.seconds)
            samples[beside, policy] += found
            p99_ms = percentile([sample.latency_ms for sample in found], 0.99)
            who = f"beside {beside}" if beside else "alone"
            print(f"round {turn + 1}: quiet {who}, {policy}: {p99_ms:.0f} ms", file=sys.stderr)
            aggressors[beside, policy] += statuses
    server.configure("dlpm")
    rows += [quiet_row(*case, samples[case], aggressors[case]) for case in BESIDE]
    rows += await measure_weights(sender, server, options.weight_seconds)
    sender.close()
    return rows


async def measure_capacity(sender: Sender, seconds: float = 15.0) -> float:
    """Slates per second that one tenant's busy clients get."""
    clients = [sender.busy("quiet", seed, QUIET_DEADLINE_MS) for seed in range(CLIENTS)]
    samples = await run_for(clients, WARM_UP_SECONDS + seconds)
    end = max(sample.due_s for sample in samples)
    done = [s.due_s + s.latency_ms / 1000 for s in samples if s.status == 200]
    return len([at for at in done if end - seconds < at <= end]) / seconds


async def quiet(
    sender: Sender, capacity: float, beside: str, seed: int, seconds: float
) -> tuple[list[Sample], Counter[int]]:
    """The quiet tenant's samples, and the statuses of the other's slates.

    Equal seeds send equal slates at equal times.
    """
    rate = AGGRESSION * SHARES.get(beside, 0.0) * capacity
    lasting = WARM_UP_SECONDS + seconds
    aggressor = Flood(sender.url, str(DATA), beside, rate, lasting, -1 - seed, BUSY_DEADLINE_MS)
    nobody: AbstractAsyncContextManager[Counter[int]] = nullcontext(Counter())
    async with flooding(aggressor) if beside else nobody as statuses:
        await asyncio.sleep(WARM_UP_SECONDS)
        samples = await sender.poisson(
            "quiet", QUIET_SHARE * capacity, seconds, seed, QUIET_DEADLINE_MS
        )
    return samples, statuses


async def measure_weights(sender: Sender, server: Server, seconds: float) -> list[dict[str, Any]]:
    """Charged service of four tenants that always have work waiting, by weight."""
    clients = [
        sender.busy(name, 100 * weight + client, QUIET_DEADLINE_MS)
        for name, weight in WEIGHTS.items()
        for client in range(CLIENTS)
    ]
    running = asyncio.create_task(run_for(clients, 2 * WARM_UP_SECONDS + seconds))
    await asyncio.sleep(WARM_UP_SECONDS)
    before = await asyncio.to_thread(server.by_tenant, "fairslate_tenant_service")
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(server.by_tenant, "fairslate_tenant_service")
    await running
    served = {name: after[name] - before[name] for name in WEIGHTS}
    even = sum(served.values()) / sum(WEIGHTS.values())
    return [
        {
            "experiment": "weights",
            "tenant": name,
            "weight": weight,
            "seconds": seconds,
            "service": served[name],
            "of_its_share": served[name] / (weight * even),
        }
        for name, weight in WEIGHTS.items()
    ]


async def run_for(clients: Sequence[Any], seconds: float) -> list[Sample]:
    """What clients note until their time is up."""
    tasks = [asyncio.create_task(client) for client in clients]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    return [sample for samples in await asyncio.gather(*tasks) for sample in samples]


def quiet_row(
    beside: str, policy: str, samples: Sequence[Sample], aggressor: Mapping[int, int]
) -> dict[str, Any]:
    """Latencies over all answers; an error counts as the time it took to come."""
    latencies = [sample.latency_ms for sample in samples]
    return {
        "experiment": "quiet",
        "beside": beside,
        "policy": policy,
        "slates": len(samples),
        "errors": sum(sample.status != 200 for sample in samples),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "tokens": sum(sample.extend_tokens for sample in samples),
        "aggressor": dict(aggressor),
    }


if __name__ == "__main__":
    main()
