"""Says once that Redis fails, and once that it no longer does. Knows nothing of what was asked."""

from __future__ import annotations

import logging
import time


class OutageLog:
    """Of one loop that asks again and again: a line a try would hide all else."""

    def __init__(self, logger: logging.Logger, what: str, calm_seconds: float = 0.0) -> None:
        """what: stands before the cause, "leases are not renewed" say.

        The end is told when nothing has failed for `calm_seconds`: a Redis that is nearly full
        takes some jobs and refuses others.
        """
        self._logger = logger
        self._what = what
        self._calm_seconds = calm_seconds
        self._failed_at = 0.0
        self._away = False

    def away(self, error: Exception) -> None:
        """A try failed."""
        if not self._away:
            cause = f" ({error.__cause__})" if error.__cause__ else ""  # it names the address
            self._logger.warning("%s: %s%s", self._what, error, cause)
        self._away, self._failed_at = True, time.monotonic()

    def back(self) -> None:
        """A try succeeded."""
        if self._away and time.monotonic() - self._failed_at >= self._calm_seconds:
            self._logger.warning("%s: no more, Redis is back", self._what)
            self._away = False
