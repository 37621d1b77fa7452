"""The engine's loop: claim, pack, score, settle. Knows nothing of HTTP, tenants or prompts.

While a batch is scored the one before it is settled, and shortly before it ends the next one is
claimed, so that the engine never waits for Redis.

What that does to fairness: two batches may be leased at a time, the second for `ClaimTimer.lead`
before the first one ends. Whoever comes then waits for the rest of the first and all of the second,
so the batch that cannot be preempted lasts (B + lead x rate) tokens in place of B, and what is in
flight, which a gap between two tenants may hold beside the policy's bound, is 2 B at most.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.engines.batch import Scored, pack, settlements
from service.engines.cache_updates import CacheUpdates
from service.engines.claim_timer import ClaimTimer
from service.engines.joint_engine import PoolEngine
from service.engines.loss_log import LossLog
from service.engines.overtakes import Overtakes
from service.engines.scoring_line import ScoringLine
from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Settlement
from service.jobs.engine_report import EngineReport, encode_report
from service.process.outage_log import OutageLog

logger = logging.getLogger("fairslate.engine")

RENEW_SECONDS = 1.0
RETRY_SECONDS = 0.1
LEAVE_SECONDS = 2.0  # then the leases run out by themselves

Answer = TypeVar("Answer")


class EngineLoop:
    """Serves one pool with one engine: `run` in one thread, `keep` in a second one beside it."""

    def __init__(
        self, engine: PoolEngine, gate: WorkerGate, token_budget: int, max_batch_jobs: int
    ) -> None:
        self._check = engine.check
        self._description = engine.description
        self._gate = gate
        self._token_budget = token_budget
        self._max_batch_jobs = max_batch_jobs
        self._line = ScoringLine(engine)
        self._cache_updates = CacheUpdates()
        self._claim_timer = ClaimTimer()
        self._overtakes = Overtakes()
        self._outage = OutageLog(logger, "the engine waits for Redis")
        self._losses = LossLog(logger)
        self._stopping = threading.Event()
        self._looked_ahead = False  # while the batch in hand is scored, whatever was found
        self._unsettled: list[Settlement] = []
        self._held: dict[str, Claimed] = {}

    def run(self) -> None:
        """Joins the pool and serves until `stop`; an absent Redis is waited for."""
        self._losses.joined(self._patiently(self._gate.join) or 0)
        with self._line:
            while not self._stopping.is_set():
                self._collect()
                if self._is_time_to_claim():
                    self._patiently(self._claim)
                elif self._unsettled:
                    self._patiently(self._settle)
                self._wait()
        self._collect()
        self._leave()

    def keep(self) -> None:
        """Renews the leases of what is in hand and reaps those of dead engines, until `stop`."""
        outage = OutageLog(logger, "leases are not renewed")
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self._gate.renew([*self._held.values()])
                self._losses.reaped(self._gate.reap())
                outage.back()
            except GateUnavailableError as error:
                outage.away(error)

    def stop(self) -> None:
        """Lets both threads end after what is claimed; no new job is routed here meanwhile."""
        self._stopping.set()
        with contextlib.suppress(GateUnavailableError):
            self._gate.drain()

    def _collect(self) -> None:
        """Turns what is scored into settlements."""
        for scored in self._line.take():
            self._looked_ahead = False
            self._cache_updates.hear(scored.events)
            if scored.batch.cost:
                self._claim_timer.scored(scored.batch.cost, scored.seconds)
            self._unsettled += settlements(scored, self._report(scored))

    def _is_time_to_claim(self) -> bool:
        return not self._line or (not self._looked_ahead and time.perf_counter() >= self._claim_due)

    @property
    def _claim_due(self) -> float:
        return self._claim_timer.due(self._line.first_began, self._line.first.cost)

    def _claim(self) -> None:
        """Settles what is scored and claims, in one round trip."""
        asked = time.perf_counter()
        if self._line:
            self._cache_updates.expect(self._line.first.jobs)
        events = self._cache_updates.take()
        claim = self._gate.exchange(
            self._unsettled,
            self._token_budget,
            self._max_batch_jobs,
            events.inserted,
            events.evicted,
        )
        self._losses.claimed(claim)
        self._forget_settled()
        self._looked_ahead = bool(self._line)
        if claim.jobs:
            self._held = self._held | {job.job_id: job for job in claim.jobs}
            overtaken, now = self._overtakes.count(claim), time.perf_counter()
            self._line.add(pack(claim.jobs, self._check, now, overtaken))
            self._claim_timer.claimed(time.perf_counter() - asked)

    def _settle(self) -> None:
        events = self._cache_updates.take()
        self._gate.settle(self._unsettled, events.inserted, events.evicted)
        self._forget_settled()

    def _forget_settled(self) -> None:
        settled = {item.job_id for item in self._unsettled}
        self._held = {name: job for name, job in self._held.items() if name not in settled}
        self._unsettled = []

    def _wait(self) -> None:
        """Until there is something to settle or to claim."""
        if not self._line:
            self._patiently(self._gate.wait_for_work)
        elif self._looked_ahead:
            self._line.wait()
        else:
            self._line.wait(max(0.0, self._claim_due - time.perf_counter()))

    def _leave(self) -> None:
        """An embedded Redis that was told to stop as well comes back for whoever still runs."""
        patience_ends = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < patience_ends:
            with contextlib.suppress(GateUnavailableError):
                self._settle()
                self._gate.leave()
                return
            time.sleep(RETRY_SECONDS)

    def _report(self, scored: Scored) -> bytes:
        report = EngineReport(self._gate.worker, self._description, scored.label_mass)
        return encode_report(report)

    def _patiently(self, call: Callable[..., Answer], *arguments: Any) -> Answer | None:
        """Repeats the call while Redis is away; None when told to stop meanwhile."""
        while True:
            try:
                answer = call(*arguments)
                self._outage.back()
                return answer
            except GateUnavailableError as error:
                self._outage.away(error)
            if self._stopping.wait(RETRY_SECONDS):
                return None
