"""Floods a server as one tenant, from a process of its own. Knows no policy and no other tenant.

A client that sends hundreds of requests a second delays whatever shares its event loop: the tenant
that is measured beside it must not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from loadtest.openloop import Sample, Sender, poisson_times
from loadtest.traffic import load_catalogue

READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Flood:
    """A Poisson stream of one tenant's slates."""

    url: str
    data: str  # directory of the catalogue that slates are drawn from
    tenant: str
    rate: float  # slates per second
    seconds: float
    seed: int
    deadline_ms: int


@asynccontextmanager
async def flooding(flood: Flood) -> AsyncIterator[Counter[int]]:
    """Sends meanwhile, from when all slates are made, and has every one answered at the end.

    What it yields then tells how many came back with which status, 0 for a broken connection.
    Raises RuntimeError when the process fails.
    """
    command = [sys.executable, "-m", "loadtest.flood", json.dumps(asdict(flood))]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    statuses: Counter[int] = Counter()
    try:
        if await process.stdout.readline() != READY:
            raise RuntimeError(f"the flood of {flood.tenant} did not start; its error stands above")
        process.stdin.write(b"\n")
        yield statuses
        answered, _ = await process.communicate()
        if not answered:
            raise RuntimeError(f"the flood of {flood.tenant} broke off; its error stands above")
        statuses.update({int(status): count for status, count in json.loads(answered).items()})
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def main() -> None:
    """The process: makes slates, says so, waits for a line, sends, prints its statuses."""
    flood = Flood(**json.loads(sys.argv[1]))
    sender = Sender(flood.url, load_catalogue(Path(flood.data)))
    times = list(poisson_times(flood.rate, flood.seconds, flood.seed))
    slates = list(islice(sender.bodies(flood.seed, flood.deadline_ms), len(times)))
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    sys.stdin.readline()
    samples = asyncio.run(_send(sender, flood.tenant, times, slates))
    print(json.dumps(Counter(sample.status for sample in samples)))


async def _send(
    sender: Sender, tenant: str, times: list[float], slates: list[bytes]
) -> list[Sample]:
    try:
        return await sender.open_loop(tenant, times, slates)
    finally:
        sender.close()


if __name__ == "__main__":
    main()
