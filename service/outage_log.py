"""Says once that Redis is away, and once that it is back. Knows nothing of who asked it what."""

from __future__ import annotations

import logging


class OutageLog:
    """Of one loop that asks again and again: a line a try would hide all else."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        """what: stands before the cause, "leases are not renewed" say."""
        self._logger = logger
        self._what = what
        self._away = False

    def away(self, error: Exception) -> None:
        """A try failed."""
        if not self._away:
            cause = f" ({error.__cause__})" if error.__cause__ else ""  # it names the address
            self._logger.warning("%s: %s%s", self._what, error, cause)
        self._away = True

    def back(self) -> None:
        """A try succeeded."""
        if self._away:
            self._logger.warning("%s: no more, Redis is back", self._what)
        self._away = False
