"""Lets several loops use one engine, each as if it were its own. Knows no loop and no gate."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from models.engines.base import CacheEvents, EngineAnswer, EngineJob
from service.engines.joint_engine import PoolEngine


class SharedEngine:
    """One thread scores; whose batch came first goes first."""

    def __init__(self, engine: PoolEngine, users: int) -> None:
        self.engine = engine
        self.views = [EngineView(self) for _ in range(users)]
        self._thread = ThreadPoolExecutor(1, "engine")

    def score(self, jobs: Sequence[EngineJob]) -> tuple[list[EngineAnswer], tuple[float, ...]]:
        """Scores and label mass; every view hears of what the cache did, also if this raises."""
        return self._thread.submit(self._score, jobs).result()

    def _score(self, jobs: Sequence[EngineJob]) -> tuple[list[EngineAnswer], tuple[float, ...]]:
        try:
            return self.engine.score(jobs), self.engine.drain_label_mass()
        finally:
            events = self.engine.drain_cache_events()
            for view in self.views:
                view.hear(events)


class EngineView:
    """The engine as one of its users sees it."""

    def __init__(self, shared: SharedEngine) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        # block -> inserted; by what the cache differs from the last drain
        self._news: dict[str, bool] = {}
        self._mass: tuple[float, ...] = ()

    @property
    def block_size(self) -> int:
        return self._shared.engine.block_size

    @property
    def description(self) -> Mapping[str, str]:
        return self._shared.engine.description

    def check(self, job: EngineJob) -> None:
        self._shared.engine.check(job)

    def score(self, jobs: Sequence[EngineJob]) -> list[EngineAnswer]:
        scores, mass = self._shared.score(jobs)
        self._mass += mass
        return scores

    def drain_cache_events(self) -> CacheEvents:
        with self._lock:
            news, self._news = self._news, {}
        fresh = [block for block, inserted in news.items() if inserted]
        return CacheEvents(tuple(fresh), tuple(block for block in news if not news[block]))

    def drain_label_mass(self) -> tuple[float, ...]:
        mass, self._mass = self._mass, ()
        return mass

    def hear(self, events: CacheEvents) -> None:
        """What came and went meanwhile is no news, so a view that is not used does not grow."""
        with self._lock:
            for blocks, inserted in ((events.inserted, True), (events.evicted, False)):
                for block in blocks:
                    if self._news.pop(block, inserted) is inserted:
                        self._news[block] = inserted
