"""A store that also asks Redis what its calls took. For the bench; the service asks no such thing.

Redis' slow log is set for the whole server, so this needs a server of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.gate.outages import translated
from service.gate.store import Store

SLOW_CALLS_KEPT = 4_096


class BenchStore(Store):
    """Raises what `Store` raises."""

    def note_slow_calls(self, milliseconds: float) -> None:
        """Has Redis note from now on what takes it so long, and forget what it noted before."""
        with translated():
            self._client.config_set("slowlog-log-slower-than", round(1e3 * milliseconds))
            self._client.config_set("slowlog-max-len", SLOW_CALLS_KEPT)
            self._client.slowlog_reset()

    def slow_calls_ms(self) -> list[float]:
        """How long each call took that Redis noted, SLOW_CALLS_KEPT at most."""
        with translated():
            return [call["duration"] / 1e3 for call in self._client.slowlog_get(SLOW_CALLS_KEPT)]

    def script_times_ms(self, verbs: Sequence[str]) -> dict[str, list[float]]:
        """How long each call of these verbs took that Redis noted, SLOW_CALLS_KEPT together."""
        verb_of = {self._calls.script(verb).digest.encode(): verb for verb in verbs}
        times: dict[str, list[float]] = {verb: [] for verb in verbs}
        with translated():
            for call in self._client.slowlog_get(SLOW_CALLS_KEPT):
                for digest in call["command"].split(b" ", 2)[1:2]:
                    if verb := verb_of.get(digest):
                        times[verb].append(call["duration"] / 1e3)
        return times

    def info(self) -> dict[str, Any]:
        """What Redis says of itself, as its INFO command names it."""
        with translated():
            return dict(self._client.info())
