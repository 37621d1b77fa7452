"""How often jobs were passed by later ones with a warm context. Knows no tenant and no Redis.

The gate serves warm contexts first among who is in credit, and at most `overtakes` times in a row;
one engine's claims in their order tell how often that, or a debt, let a job wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from service.gate.job import Claim

REMEMBERED_MS = 60_000  # whoever waits longer was passed by those of the last minute, and more


class Overtakes:
    """All claims of one engine, one after the other."""

    def __init__(self) -> None:
        self._warm: list[int] = []  # times of submit of warm picks, sorted, by the pool's clock

    def count(self, claim: Claim) -> dict[str, int]:
        """By job: how many came after it, found a warm context and were claimed before it."""
        del self._warm[: bisect_left(self._warm, claim.now_ms - REMEMBERED_MS)]
        counts = {}
        for job in claim.jobs:
            submitted = claim.now_ms - job.queue_ms
            counts[job.job_id] = len(self._warm) - bisect_right(self._warm, submitted)
            if job.cached_tokens_believed:
                insort(self._warm, submitted)
        return counts
