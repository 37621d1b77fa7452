"""Refills follow from what waits: one order of dispatch however many claim, and how often."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.gate.job import Claim, Claimed, Job, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings
from tests.service.gate.jobs import build_job
from tests.service.gate.remote import Remote

OWNER = "worker"  # all jobs are routed to it: nobody else is heard when they come
ALONE = (OWNER,)
CONNECTIONS = (OWNER,) * 16
WORKERS = (OWNER, *(f"other-{number}" for number in range(15)))
SILENT_MS = 60_000
PASS_MS = 2 * SILENT_MS
ALLOWANCES_MS = (10**9, 10**9 + 5 * PASS_MS + PASS_MS // 2)  # no two dues within a minute
SETTINGS = GateSettings(
    quantum=100,
    quantum_parts=2,
    overtakes=2,
    lease_ms=10**9,
    worker_idle_ms=10**9,
    worker_silent_ms=SILENT_MS,
    pause_ms=10**9,
)
# What steals goes by deadline, and knows no warm cache but its own.
WITHOUT_LOCALITY = replace(SETTINGS, overtakes=0)
LEAVES = ("ada:1", "bob:2", "acme:3/eve:1", "acme:3/sue:2")


@dataclass(frozen=True)
class Step:
    """What happens next, whoever claims: a job comes, room for one is free, or the oldest ends."""

    kind: str
    leaf: str = ""
    context: str = ""
    tokens: int = 0
    allowance_ms: int = 0
    used: float = 1.0


STEPS = st.one_of(
    st.builds(
        Step,
        st.just("submit"),
        st.sampled_from(LEAVES),
        st.sampled_from(["", "", "a", "ab", "xyz"]),
        st.integers(1, 250),
        st.sampled_from(ALLOWANCES_MS),
    ),
    st.just(Step("claim")),
    st.builds(Step, st.just("settle"), used=st.sampled_from([0.3, 1.0])),
)
HISTORIES = st.lists(STEPS, min_size=20, max_size=60)


class Side(Protocol):
    """One pool; its verbs without a time."""

    def pass_time(self, milliseconds: int) -> None: ...
    def join(self, worker: str) -> int: ...
    def renew(self, worker: str, held: list[Claimed]) -> list[bool]: ...
    def submit(self, job: Job) -> Any: ...
    def claim(self, worker: str, budget: int, most: int, **events: Any) -> Claim: ...
    def settle(self, worker: str, settlements: list[Settlement]) -> list[bool]: ...
    def counters(self) -> dict[str, tuple[int, int]]: ...


class InMemory:
    """The pure pool with a clock of its own."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._now = pool, 1_000

    def pass_time(self, milliseconds: int) -> None:
        self._now += milliseconds

    def counters(self) -> dict[str, tuple[int, int]]:
        nodes = self._pool.nodes.items()
        return {name: (node.deficit, node.service) for name, node in nodes if name}

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._pool, verb)
        return lambda *arguments, **events: call(*arguments, self._now, **events)


class InRedis(Remote):
    """The Lua scripts."""

    def counters(self) -> dict[str, tuple[int, int]]:
        return {name: (node.deficit, node.service) for name, node in self.stats().nodes.items()}


class Run:
    """One history on one pool, with claimers that take turns at one free place.

    After each turn all others ask as well, without room for anything. `warm`: the gate hears what
    was computed.
    """

    def __init__(self, sides: Sequence[Side], claimers: tuple[str, ...], warm: bool) -> None:
        self._sides, self._claimers, self._warm = sides, claimers, warm
        self._turns = count()
        self._leased: deque[tuple[str, Claimed]] = deque()
        self._jobs: dict[str, Job] = {}
        self.trace: list[tuple[str, int]] = []  # job and charge
        for worker in dict.fromkeys(claimers):
            sides[0].join(worker)

    def play(self, history: list[Step]) -> None:
        """The history, then all that still waits."""
        for step in history:
            getattr(self, step.kind)(step)
        while len(self.trace) < len(self._jobs):
            self.claim(Step("claim"))
        while self._leased:
            self.settle(Step("settle"))

    def submit(self, step: Step) -> None:
        self._sides[0].pass_time(PASS_MS)
        self._sides[0].renew(OWNER, [])
        job = build_job(
            f"job-{len(self._jobs)}",
            step.leaf,
            step.context,
            candidate_tokens=step.tokens,
            deadline_ms=step.allowance_ms,
        )
        self._jobs[job.job_id] = job
        assert self._sides[0].submit(job).answer == "queued"

    def claim(self, _step: Step) -> None:
        self._sides[0].pass_time(PASS_MS)
        turn, claimers = next(self._turns) % len(self._claimers), self._claimers
        for place in range(turn, turn + len(claimers)):
            worker, side = claimers[place % len(claimers)], self._sides[place % len(self._sides)]
            mine = place == turn
            claim = side.claim(worker, 10_000 * mine, 1, strict=not mine)
            assert mine or not claim.jobs
            for claimed in claim.jobs:
                self._take(worker, claimed)

    def _take(self, worker: str, claimed: Claimed) -> None:
        self.trace.append((claimed.job_id, claimed.charged))
        self._leased.append((worker, claimed))
        if self._warm:
            held = self._jobs[claimed.job_id].context_hashes
            self._sides[0].claim(worker, 0, 1, inserted=held, strict=True)

    def settle(self, step: Step) -> None:
        if self._leased:
            worker, claimed = self._leased.popleft()
            used = round(step.used * claimed.charged)
            settlement = Settlement(claimed.job_id, claimed.epoch, used, b"")
            assert self._sides[0].settle(worker, [settlement]) == [True]


def same_dispatch(
    open_sides: Callable[[GateSettings, int], Sequence[Side]],
    history: list[Step],
    claimers: tuple[str, ...],
) -> None:
    """Plays the history for one claimer and for many: same jobs, charges and counters."""
    one_cache = len(set(claimers)) == 1
    chosen = SETTINGS if one_cache else WITHOUT_LOCALITY
    runs = []
    for names in (ALONE, claimers):
        sides = open_sides(chosen, len(names) if one_cache else 1)
        run = Run(sides, names, warm=one_cache)
        run.play(history)
        runs.append((run.trace, sides[0].counters()))
    assert runs[1] == runs[0]


@given(HISTORIES)
@pytest.mark.parametrize("claimers", [CONNECTIONS, WORKERS], ids=["connections", "workers"])
def test_sixteen_claimers_of_the_pure_pool_dispatch_as_one(
    claimers: tuple[str, ...], history: list[Step]
) -> None:
    def open_sides(chosen: GateSettings, connections: int) -> Sequence[Side]:
        return [InMemory(Pool(chosen))] * connections

    same_dispatch(open_sides, history, claimers)


@pytest.mark.long
@given(history=HISTORIES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("claimers", [CONNECTIONS, WORKERS], ids=["connections", "workers"])
def test_sixteen_claimers_of_redis_dispatch_as_one(
    redis_client: redis.Redis, redis_url: str, claimers: tuple[str, ...], history: list[Step]
) -> None:
    numbers = count()

    def open_sides(chosen: GateSettings, connections: int) -> Sequence[Side]:
        pool = f"pool-{next(numbers)}"
        return [InRedis(redis_client, redis_url, pool, chosen) for _ in range(connections)]

    redis_client.flushall()
    same_dispatch(open_sides, history, claimers)
