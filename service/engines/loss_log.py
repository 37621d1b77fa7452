"""Tells the operator of jobs that engines took and lost, or that came to no engine in time.

Knows nothing of who asks the gate, and when.
"""

from __future__ import annotations

import logging

from service.gate.job import Claim, Reaped


class LossLog:
    """Of one engine: `claimed` and `reaped` may be called from a thread each."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._dropped = 0  # by claims, so far
        self._told = 0

    def joined(self, requeued: int) -> None:
        """This engine took the place of one that left so many jobs unfinished."""
        if requeued:
            self._logger.warning(
                "an earlier engine of this name ended; jobs of it that wait again: %d", requeued
            )

    def claimed(self, claim: Claim) -> None:
        """Its dropped jobs are told with the next reap: one line for many claims."""
        self._dropped += claim.expired

    def reaped(self, reaped: Reaped) -> None:
        """To be called about once a second; says nothing while nothing is lost."""
        if reaped.requeued or reaped.lost:
            self._logger.warning(
                "leases ran out, so an engine vanished or hangs; read its log. "
                "Jobs that wait again: %d; answered with worker_lost after too many tries: %d",
                reaped.requeued,
                reaped.lost,
            )
        dropped = self._dropped - self._told
        self._told += dropped
        if dropped + reaped.expired:
            self._logger.info(
                "jobs dropped unscored, their time up or nobody there to read the answer: %d",
                dropped + reaped.expired,
            )
