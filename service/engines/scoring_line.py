"""Scores batches one behind the other in a thread of its own. Knows nothing of Redis or payloads.

The next batch stands in line while one is scored, so the engine goes from one to the other without
waiting for whoever settles and claims.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from models.engines.base import EngineAnswer, EngineJob
from service.engines.batch import Batch, Scored
from service.engines.joint_engine import PoolEngine

logger = logging.getLogger("fairslate.engine")


class ScoringLine:
    """To be used by one thread, as a context whose end waits for what stands in line."""

    def __init__(self, engine: PoolEngine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._engine = engine
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "scorer")
        self._line: deque[tuple[Batch, Future[Scored]]] = deque()
        self._last_ended = 0.0

    def __enter__(self) -> ScoringLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def __len__(self) -> int:
        return len(self._line)

    @property
    def first(self) -> Batch:
        """The batch that is being scored."""
        return self._line[0][0]

    @property
    def first_began(self) -> float:
        """When its turn came."""
        return max(self.first.claimed_at, self._last_ended)

    def add(self, batch: Batch) -> None:
        """Has the batch scored behind those in line."""
        self._line.append((batch, self._thread.submit(self._score, batch)))

    def wait(self, seconds: float | None = None) -> None:
        """Returns when the first batch is scored, or the time is up."""
        wait([self._line[0][1]], seconds)

    def take(self) -> list[Scored]:
        """The batches that are scored leave the line."""
        done: list[Scored] = []
        while self._line and self._line[0][1].done():
            done.append(self._line.popleft()[1].result())
            self._last_ended = done[-1].ended
        return done

    def _score(self, batch: Batch) -> Scored:
        began = self._clock()
        wanted = [due > began for due in batch.due]
        answers = self._attempt(batch.jobs, wanted)
        ended = self._clock()
        events, mass = self._engine.drain_cache_events(), self._engine.drain_label_mass()
        return Scored(batch, answers, began, ended, events, mass)

    def _attempt(
        self, jobs: Sequence[EngineJob], wanted: Sequence[bool]
    ) -> Sequence[EngineAnswer | None] | Exception:
        chosen = [job for job, is_wanted in zip(jobs, wanted, strict=True) if is_wanted]
        try:
            found = iter(self._engine.score(chosen) if chosen else [])
        except Exception as error:  # whatever it is, every job of the batch must hear of it
            logger.exception("a batch of %d jobs failed", len(chosen))
            return error
        return [next(found) if is_wanted else None for is_wanted in wanted]
