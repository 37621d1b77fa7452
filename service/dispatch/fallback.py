"""Chooses the Redis that work goes through: the shared one, or a server's own while that is away.

Knows no gate. On either side the same dispatcher and the same engine loop are at work. A job is
queued, charged, scored and answered on one side alone, so none can be charged twice. Each side has
its own counters: an outage widens the gap between two tenants by one more bound of the policy at
most, for each server that served alone, and by what is queued there when the shared Redis is back,
which drains by turns with new work. No debt is carried over: DLPM owes and saves no more than that
bound, and who had an idle engine to himself must not pay for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from service.dispatch.dispatch import Dispatcher, Hear
from service.gate.job import Explanation, Job
from service.jobs.jobs import JobResult

logger = logging.getLogger("fairslate.fallback")

MODES = ("shared", "local", "refusing")
PROBE_SECONDS = 0.2
PATIENCE_SECONDS = 0.5  # with the probe before and the grace behind it, less than a second
GRACE_SECONDS = 0.1  # an event loop that was held up finds an answer that has long been there


class Fallback:
    """For one event loop. Without a `local` side an absent Redis is refused by the shared one."""

    def __init__(
        self,
        shared: Dispatcher,
        local: Dispatcher | None = None,
        *,
        show: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`show` is told the mode, one of MODES, several times a second.

        Both sides have reply lists of one name, so that a job may be sent through either.
        """
        assert local is None or local.reply_to == shared.reply_to
        self._shared = shared
        self._local = local
        self._show = show
        self._away = False
        self._closing = False
        self._probes: set[asyncio.Task[bool]] = set()

    @property
    def mode(self) -> str:
        """What becomes of a slate that is sent now."""
        if not self._away:
            return "shared"
        return "refusing" if self._local is None else "local"

    @property
    def side(self) -> int:
        """Of the dispatchers given, the one that slates go through."""
        return self._sides.index(self._in_use)

    @property
    def reply_to(self) -> str:
        """Names the reply list of this process, on either side."""
        return self._shared.reply_to

    @property
    def in_flight(self) -> int:
        """Jobs whose reply is awaited."""
        return sum(side.in_flight for side in self._sides)

    @property
    def _sides(self) -> list[Dispatcher]:
        return [side for side in (self._shared, self._local) if side is not None]

    @property
    def _in_use(self) -> Dispatcher:
        return self._local if self._away and self._local is not None else self._shared

    async def score(self, jobs: Sequence[Job], hear: Hear | None = None) -> list[JobResult]:
        """As `Dispatcher.score`. What was sent when Redis went fails: it may be queued there."""
        return await self._in_use.score(jobs, hear)

    async def explain(self, job_ids: Sequence[str]) -> list[Explanation]:
        """As `Dispatcher.explain`, on the side that the jobs of a slate were sent to."""
        theirs = self._local is not None and any(map(self._local.awaits, job_ids))
        return await (self._local if self._local and theirs else self._shared).explain(job_ids)

    async def configure(self, policy: str) -> None:
        """Switches the policy on both sides. Raises GateUnavailableError when one is away.

        Without the shared one the local one stays as it is: what was refused must change nothing.
        """
        for side in self._sides:
            await side.configure(policy)

    async def policy(self) -> str:
        """As `Dispatcher.policy`, of the Redis in use."""
        return await self._in_use.policy()

    async def ready(self) -> bool:
        """Whether the Redis in use answers and an engine was heard of there a moment ago."""
        return await self._in_use.ready()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """To be run as tasks until `close`."""
        both = [
            loop for side in self._sides for loop in (side.read_replies(), side.watch_engines())
        ]
        return [*both, self.watch()]

    async def watch(self) -> None:
        """Probes the shared Redis until `close`."""
        while not self._closing:
            away = not await self._finds(self._shared.answers)
            if self._away and not away and self._local is not None:
                away = not await self._finds(self._shared.ready)  # else nobody would serve there
            self._turn(away)
            await asyncio.sleep(PROBE_SECONDS)

    def close(self) -> None:
        """Ends all loops."""
        self._closing = True
        for side in self._sides:
            side.close()

    async def finish(self) -> None:
        """As `Dispatcher.finish`; no probe outlives it."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for side in self._sides:
            await side.finish()

    async def _finds(self, what: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        probe = asyncio.create_task(what())  # one that is late ends by itself
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)
        for seconds in (PATIENCE_SECONDS, GRACE_SECONDS):
            await asyncio.wait({probe}, timeout=seconds)
        return probe.done() and probe.result()

    def _turn(self, away: bool) -> None:
        before, self._away = self.mode, away
        if self.mode != before:
            logger.warning("the gate was %s and is %s from now on", before, self.mode)
        self._show(self.mode)
