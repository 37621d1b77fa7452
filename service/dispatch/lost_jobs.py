"""Finds jobs that the pool has lost, beside those that were just answered. Knows no Redis.

A job that the pool does not know is either answered or lost, and the answer is in the reply list
before the pool forgets the job. So whoever still waits for it after a read of the whole list that
began later waits in vain.
"""

from __future__ import annotations


class LostJobs:
    """For one reply list: what is suspected, and how many reads of it have begun."""

    def __init__(self) -> None:
        self._reads = 0
        self._suspected: dict[str, int] = {}  # job -> reads that had begun by then

    def suspect(self, job_id: str) -> None:
        """The pool has just said that it does not know the job."""
        self._suspected.setdefault(job_id, self._reads)

    def begin_read(self) -> int:
        """Numbers a read that begins now."""
        self._reads += 1
        return self._reads

    def end_read(self, read: int) -> list[str]:
        """After a read of the whole list: whoever still waits for one of these waits in vain."""
        ripe = [job_id for job_id, reads in self._suspected.items() if reads < read]
        for job_id in ripe:
            del self._suspected[job_id]
        return ripe
