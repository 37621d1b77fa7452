"""What the gate is told of the engine's prefix cache, a batch ahead. Knows no gate and no engine.

The next batch is claimed while one is scored, and the gate orders by what the cache holds when the
next one runs: the contexts of the running batch count as held, what was not kept is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.engines.base import CacheEvents, EngineJob


class CacheUpdates:
    """Events to send with the next call of the gate."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._expected: dict[str, None] = {}
        self._inserted: dict[str, None] = {}
        self._evicted: dict[str, None] = {}

    def expect(self, jobs: Sequence[EngineJob]) -> None:
        """The contexts of these jobs are being computed, of one batch at a time."""
        blocks = dict.fromkeys(block for job in jobs for block in job.block_hashes)
        fresh = {block: None for block in blocks if block not in self._held | self._expected.keys()}
        self._expected |= fresh
        self._insert(fresh)

    def hear(self, events: CacheEvents) -> None:
        """What the cache did while it was scored; nothing is expected any more."""
        self._held |= set(events.inserted)
        self._held -= set(events.evicted)
        self._insert(dict.fromkeys(events.inserted))
        self._evict(dict.fromkeys(events.evicted))
        self._evict({block: None for block in self._expected if block not in self._held})
        self._expected.clear()

    def take(self) -> CacheEvents:
        """All since the last call, for a gate that keeps them until they have arrived."""
        events = CacheEvents(tuple(self._inserted), tuple(self._evicted))
        self._inserted, self._evicted = {}, {}
        return events

    def _insert(self, blocks: dict[str, None]) -> None:
        self._inserted |= blocks
        for block in blocks:
            self._evicted.pop(block, None)

    def _evict(self, blocks: dict[str, None]) -> None:
        self._evicted |= blocks
        for block in blocks:
            self._inserted.pop(block, None)
