"""One engine for both kinds of work: slates to score and reasons to write. Knows no queue.

A batch that holds both is scored first and written then; whatever fails fails all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from models.engines.base import (
    CacheEvents,
    Engine,
    EngineAnswer,
    EngineJob,
    ReasonJob,
    ScoreJob,
    Written,
)
from models.errors import FairslateError


class NoReasonerError(FairslateError):
    """A reason was asked of an engine that has no reasoner."""

    code = "no_reasoner"


class Writer(Protocol):
    """What writes reasons; see `models.engines.reason_writer.ReasonWriter`."""

    def check(self, job: ReasonJob) -> None: ...

    def write(self, jobs: Sequence[ReasonJob]) -> list[Written]: ...

    def drain_cache_events(self) -> CacheEvents: ...


class JointEngine:
    """As `models.engines.base.Engine`, of jobs of both kinds; `writer` None does not write."""

    def __init__(self, scorer: Engine, writer: Writer | None = None) -> None:
        self._scorer = scorer
        self._writer = writer

    @property
    def block_size(self) -> int:
        return self._scorer.block_size

    @property
    def description(self) -> Mapping[str, str]:
        return self._scorer.description

    def check(self, job: EngineJob) -> None:
        """Raises as `Engine.check`, and NoReasonerError."""
        if isinstance(job, ScoreJob):
            self._scorer.check(job)
        elif self._writer is None:
            raise NoReasonerError(
                "this engine has no reasoner; give engine and API the same FAIRSLATE_REASONER"
            )
        else:
            self._writer.check(job)

    def score(self, jobs: Sequence[EngineJob]) -> list[EngineAnswer]:
        """Answers in the order of the jobs."""
        slates = [job for job in jobs if isinstance(job, ScoreJob)]
        reasons = [job for job in jobs if isinstance(job, ReasonJob)]
        scores = iter(self._scorer.score(slates) if slates else [])
        written = iter(self._writer.write(reasons) if reasons and self._writer else [])
        return [next(scores) if isinstance(job, ScoreJob) else next(written) for job in jobs]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._scorer.drain_label_mass()

    def drain_cache_events(self) -> CacheEvents:
        """Of both caches; the models' digests keep their blocks apart."""
        ours = self._scorer.drain_cache_events()
        theirs = self._writer.drain_cache_events() if self._writer else CacheEvents()
        return CacheEvents((*ours.inserted, *theirs.inserted), (*ours.evicted, *theirs.evicted))


class PoolEngine(Protocol):
    """What the engine's loop runs: a JointEngine, or a view of one that several loops share."""

    @property
    def block_size(self) -> int: ...

    @property
    def description(self) -> Mapping[str, str]: ...

    def check(self, job: EngineJob) -> None: ...

    def score(self, jobs: Sequence[EngineJob]) -> list[EngineAnswer]: ...

    def drain_label_mass(self) -> tuple[float, ...]: ...

    def drain_cache_events(self) -> CacheEvents: ...
