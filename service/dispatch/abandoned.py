"""Takes jobs that nobody waits for any more out of the queue. Knows nothing of who waited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from models.errors import FairslateError
from service.gate.gate import AsyncGate
from service.process.outage_log import OutageLog

RETRY_SECONDS = 0.1
CANCELLED_AT_ONCE = 16  # a millisecond or so of Redis' time

logger = logging.getLogger("fairslate.abandoned")


class Abandoned:
    """For one event loop: one call at a time however many hang up, again until Redis answers."""

    def __init__(self, gate: AsyncGate) -> None:
        self._gate = gate
        self._due: dict[str, float] = {}  # by job; the gate itself ends what is overdue
        self._sender: asyncio.Task[None] | None = None
        self._outage = OutageLog(logger, "nobody awaits what is still queued")
        self._finishing = False

    def add(self, seconds_left: Mapping[str, float]) -> None:
        """Has these jobs cancelled soon; each is given up after its seconds."""
        now = asyncio.get_running_loop().time()
        self._due |= {job_id: now + seconds for job_id, seconds in seconds_left.items()}
        if self._due and self._sender is None:
            self._sender = asyncio.create_task(self._cancel_all())

    async def finish(self) -> None:
        """Returns when all are cancelled, or Redis did not answer once more."""
        self._finishing = True
        if self._sender is not None:
            await self._sender

    async def _cancel_all(self) -> None:
        try:
            while self._due:
                await self._cancel_some([*self._due][:CANCELLED_AT_ONCE])
        finally:
            self._sender = None

    async def _cancel_some(self, job_ids: list[str]) -> None:
        try:
            await self._gate.cancel_all(job_ids)
        except FairslateError as error:
            self._outage.away(error)
            if self._finishing:
                self._due.clear()
            await asyncio.sleep(RETRY_SECONDS)
            now = asyncio.get_running_loop().time()
            self._due = {job_id: due for job_id, due in self._due.items() if due > now}
        else:
            self._outage.back()
            for job_id in job_ids:
                self._due.pop(job_id, None)
