"""Sends slates as a Poisson stream or from busy clients, and notes the answers. Knows no policy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from loadtest.connections import Connections
from loadtest.traffic import Catalogue, Traffic


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due in seconds from the start, and what came of it."""

    tenant: str
    due_s: float
    latency_ms: float  # from when it was due, so that a late sender hides nothing
    status: int
    extend_tokens: int = 0


class Sender:
    """Asks as several tenants over kept connections."""

    def __init__(self, url: str, catalogue: Catalogue) -> None:
        self.url = url
        self._connections = Connections(url)
        self._catalogue = catalogue
        self.started = time.perf_counter()

    @property
    def now_s(self) -> float:
        """Seconds since the sender was made."""
        return time.perf_counter() - self.started

    async def send(self, tenant: str, body: bytes, due_s: float) -> Sample:
        """One slate; a broken connection counts as status 0."""
        try:
            status, answer = await self._connections.post("/v1/rank", tenant, body)
        except OSError:
            return Sample(tenant, due_s, self._since(due_s), 0)
        latency_ms = self._since(due_s)
        tokens = json.loads(answer)["usage"]["extend_tokens"] if status == 200 else 0
        return Sample(tenant, due_s, latency_ms, status, tokens)

    async def poisson(
        self, tenant: str, rate: float, seconds: float, seed: int, deadline_ms: int
    ) -> list[Sample]:
        """`rate` slates per second whatever comes back; what is not answered yet is waited for."""
        times = list(poisson_times(rate, seconds, seed))
        bodies = list(islice(self.bodies(seed, deadline_ms), len(times)))
        return await self.open_loop(tenant, times, bodies)

    async def open_loop(
        self, tenant: str, times: Sequence[float], bodies: Sequence[bytes]
    ) -> list[Sample]:
        """Sends each slate at its time, in seconds from now, and waits for all answers."""
        start, sent = self.now_s, []
        for due_s, body in zip(times, bodies, strict=True):
            await asyncio.sleep(max(0.0, start + due_s - self.now_s))
            sent.append(asyncio.create_task(self.send(tenant, body, start + due_s)))
        return list(await asyncio.gather(*sent))

    async def busy(self, tenant: str, seed: int, deadline_ms: int) -> list[Sample]:
        """One client that always waits for an answer; runs until it is cancelled."""
        samples: list[Sample] = []
        bodies = self.bodies(seed, deadline_ms)
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                samples.append(await self.send(tenant, next(bodies), self.now_s))
        return samples

    def bodies(self, seed: int, deadline_ms: int) -> Iterator[bytes]:
        """Slates of sessions, as JSON; candidates are drawn anew for each."""
        traffic = Traffic(self._catalogue, seed)
        while True:
            for call in traffic.session(traffic.draw_tenant()):
                yield json.dumps({**call.body, "deadline_ms": deadline_ms}).encode()

    def close(self) -> None:
        """Hangs up."""
        self._connections.close()

    def _since(self, due_s: float) -> float:
        return (self.now_s - due_s) * 1000


def poisson_times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Arrivals of a Poisson stream of `rate` per second, in seconds; equal seeds, equal times."""
    draws, due_s = random.Random(seed), 0.0
    while (due_s := due_s + draws.expovariate(rate)) < seconds:
        yield due_s
