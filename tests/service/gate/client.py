"""The gate's API side for tests that are not coroutines. Knows no keys and no scripts."""

from __future__ import annotations

import asyncio

from service.gate.gate import AsyncGate
from service.gate.job import Explanation, GateStats, Job, Reply
from service.gate.settings import GateSettings

POOL = "pool"
SETTINGS = GateSettings(quantum=100, quantum_parts=1, output_weight=2, output_room=1)


class Api:
    """One API process: an event loop of its own that runs one call at a time."""

    def __init__(self, url: str, settings: GateSettings, name: str = "api") -> None:
        self.name = name
        self._loop = asyncio.Runner()
        self._gate = AsyncGate(url, POOL, settings)

    def submit(self, job: Job) -> None:
        """Raises what the gate raises."""
        self._loop.run(self._gate.submit(job))

    def cancel(self, job_id: str) -> bool:
        """True if it was waiting."""
        return self._loop.run(self._gate.cancel_all([job_id]))[0]

    def configure(self, policy: str) -> None:
        """Switches the policy."""
        self._loop.run(self._gate.configure(policy))

    def explain(self, job_id: str) -> Explanation:
        """Why it waits."""
        return self._loop.run(self._gate.explain(job_id))

    def stats(self, *nodes: str) -> GateStats:
        """A snapshot, with these nodes."""
        return self._loop.run(self._gate.stats(nodes))

    def replies(self, timeout_s: float = 0.01) -> list[Reply]:
        """All that are there."""
        return self._loop.run(self._gate.next_replies(self.name, timeout_s))

    def close(self) -> None:
        """Closes the connections and the loop."""
        self._loop.run(self._gate.close())
        self._loop.close()
