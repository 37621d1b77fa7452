"""Multi-tenant ranking traffic: sessions of members, Zipf tenants, bursts and one aggressor.

Knows no policy, gate or worker. A slate is one scoring request: the member's context, shared by the
pages of a session and by later sessions, and fresh candidates. Time is scaled: a run of minutes
stands for a busy hour, so day shape, new postings and model versions are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from random import Random

from loadtest.simulation.clients import Bursts, Client, Within
from loadtest.simulation.programs import Single
from loadtest.simulation.requests import Names, Program, Request

BLOCK = 16


@dataclass(frozen=True, slots=True)
class RankingShape:
    """All parameters of the trace; tokens unless the name says otherwise."""

    tenants: int = 22
    tenant_exponent: float = 1.1
    members: int = 365  # of each tenant
    member_exponent: float = 0.9
    pages: float = 3.0  # mean of a session: 1 + geometric
    think_ms: float = 10_000.0  # median; lognormal
    think_sigma: float = 1.91  # so that the 90th percentile is 116 s
    context: int = 208
    long_share: float = 0.02  # of the members have contexts of 2 to 4 times the length
    profile_change: float = 0.02  # of session starts: nothing cached helps any more
    candidate: int = 27
    slate: float = 24.0  # median candidates; lognormal
    slate_sigma: float = 0.8
    heavy_tenants: int = 3
    heavy_slate: float = 64.0
    slate_limits: tuple[int, int] = (4, 256)
    burst_factor: float = 6.0
    burst_on_ms: float = 20_000.0  # mean, exponential
    burst_off_ms: float = 120_000.0
    slates_per_s: float = 29.0  # of all tenants on average
    campaign: int = 200  # slates of 50 by as many members, within 5 s
    campaign_ms: tuple[float, float] = (180_000.0, 185_000.0)
    campaign_slate: int = 50
    aggressor_share: float = 0.10  # of the slates, while it misbehaves
    aggressor_ms: tuple[float, float] = (60_000.0, 120_000.0)
    deadline_ms: int = 60_000
    first_page_ms: int = 60_000  # deadline of a session's first page; later ones are fetched ahead
    deadlines_told: bool = True  # to the gate

    @property
    def about(self) -> str:
        """What the reader of the figures should know of the sessions' deadlines."""
        if self.first_page_ms == self.deadline_ms:
            return "sessions"
        told = "" if self.deadlines_told else " that the gate is not told"
        return f"sessions, deadlines{told}: {self.first_page_ms} ms, then {self.deadline_ms} ms"


def ranking(shape: RankingShape, aggressive: bool) -> list[Client]:
    """The tenants by traffic, then the campaign and, if wanted, the aggressor."""
    names = Names()
    weights = [(rank + 1) ** -shape.tenant_exponent for rank in range(shape.tenants)]
    made = [
        regular(shape, rank, weight / sum(weights), names) for rank, weight in enumerate(weights)
    ]
    made.append(campaign(shape, names))
    return [*made, aggressor(shape, names)] if aggressive else made


def regular(shape: RankingShape, rank: int, share: float, names: Names) -> Client:
    """A tenant with `share` of the slates; latency counts for those who ask for little."""
    on, off = shape.burst_on_ms, shape.burst_off_ms
    mean_factor = (shape.burst_factor * on + off) / (on + off)
    gap = 1e3 * shape.pages * mean_factor / (shape.slates_per_s * share)
    tenant = Tenant(shape, rank, names, Random(rank))
    arrivals = Bursts(gap, shape.burst_factor, on, off)
    light = rank >= shape.heavy_tenants
    return Client(f"tenant-{rank:02d}", tenant.draw, arrivals, light, shape.about)


def campaign(shape: RankingShape, names: Names) -> Client:
    """Many members at once."""
    begin, end = shape.campaign_ms
    tokens = shape.campaign_slate * shape.candidate
    arrivals = Within((end - begin) / shape.campaign, begin, end)
    return Client("campaign", one_slate(shape, tokens, names), arrivals, False, "campaign")


def aggressor(shape: RankingShape, names: Names) -> Client:
    """Maximal slates, no context twice."""
    tokens = shape.slate_limits[1] * shape.candidate
    gap = 1e3 * (1 - shape.aggressor_share) / (shape.slates_per_s * shape.aggressor_share)
    arrivals = Within(gap, *shape.aggressor_ms)
    return Client("aggressor", one_slate(shape, tokens, names), arrivals, False, "aggressor")


def one_slate(shape: RankingShape, tokens: int, names: Names) -> Callable[[Random], Program]:
    """Makes programs of one slate with a context of its own."""
    blocks = shape.context // BLOCK
    return lambda random: Single(
        Request(
            names.take(blocks),
            tokens,
            deadline_ms=shape.deadline_ms,
            deadline_told=shape.deadlines_told,
        )
    )


class Session:
    """A member who asks for one page after the other."""

    def __init__(
        self, shape: RankingShape, context: tuple[str, ...], median: float, random: Random
    ) -> None:
        self._shape, self._context, self._median, self._random = shape, context, median, random

    def start(self) -> list[Request]:
        return [self._page(0, self._shape.first_page_ms)]

    def after(self, request: Request) -> list[Request]:
        if self._random.random() < 1 / self._shape.pages:
            return []
        shape = self._shape
        delay = int(self._random.lognormvariate(log(shape.think_ms), shape.think_sigma))
        return [self._page(delay, shape.deadline_ms)]

    def _page(self, delay: int, deadline_ms: int) -> Request:
        shape, random = self._shape, self._random
        size = round(random.lognormvariate(log(self._median), shape.slate_sigma))
        low, high = shape.slate_limits
        candidates = max(low, min(high, size)) * shape.candidate
        return Request(
            self._context,
            candidates,
            delay_ms=delay,
            deadline_ms=deadline_ms,
            deadline_told=shape.deadlines_told,
        )


class Tenant:
    """Draws the sessions of one tenant's members."""

    def __init__(self, shape: RankingShape, rank: int, names: Names, random: Random) -> None:
        self._shape, self._names = shape, names
        self._median = shape.heavy_slate if rank < shape.heavy_tenants else shape.slate
        self._weights = [(place + 1) ** -shape.member_exponent for place in range(shape.members)]
        self._contexts = [self._context(random) for _ in range(shape.members)]

    def draw(self, random: Random) -> Session:
        """The next session."""
        member = random.choices(range(self._shape.members), self._weights)[0]
        if random.random() < self._shape.profile_change:
            self._contexts[member] = self._context(random)
        own = Random(random.random())  # the trace must not depend on who is served when
        return Session(self._shape, self._contexts[member], self._median, own)

    def _context(self, random: Random) -> tuple[str, ...]:
        shape = self._shape
        times = random.randint(2, 4) if random.random() < shape.long_share else 1
        return self._names.take(times * shape.context // BLOCK)
