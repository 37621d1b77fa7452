"""The simulation: workers that pass by the gate every few decode steps. Knows no workload, policy.

Deterministic from its seed. Every time is milliseconds; the gate is told whole ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from loadtest.simulation.clients import Client
from loadtest.simulation.hardware import Engine
from loadtest.simulation.observer import Observer
from loadtest.simulation.routers import Router
from loadtest.simulation.senders import Senders, Ticket
from loadtest.simulation.timeline import Timeline
from loadtest.simulation.totals import Span, Totals
from loadtest.simulation.worker import Task, Worker
from service.gate.job import Claimed, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings

NEVER = 10**9
UNLIMITED = 10**12
# The simulated engine never dies and nobody is refused: what the gate holds against that is off.
WITHOUT_LIMITS: dict[str, Any] = {
    "lease_ms": NEVER,
    "worker_idle_ms": NEVER,
    "worker_silent_ms": NEVER,
    "pause_ms": NEVER,
    "max_pool_jobs": UNLIMITED,
    "max_pool_tokens": UNLIMITED,
    "max_tenant_jobs": UNLIMITED,
    "max_tenant_tokens": UNLIMITED,
    "max_tenant_in_flight": UNLIMITED,
}
CLAIMED_AT_ONCE = 16
SAMPLE_MS = 1_000.0


class Simulation:
    """Serves clients' programs on `workers` engines of one kind; see `run`.

    Without a router all workers share one gate, which routes (D2LPM); with one, each has its own.
    """

    def __init__(
        self,
        engine: Engine,
        clients: Sequence[Client],
        settings: GateSettings,
        workers: int = 1,
        router: Router | None = None,
        seed: int = 0,
        gate: Callable[[GateSettings], Pool] = Pool,
    ) -> None:
        self.engine, self.clients, self.router = engine, clients, router
        self.names = [f"worker-{index}" for index in range(workers)]
        self.workers = [Worker(engine) for _ in self.names]
        settings = replace(settings, **WITHOUT_LIMITS)
        self.pools = [gate(settings) for _ in range(workers if router else 1)]
        self.gates = self.pools if router else self.pools * workers
        self.timeline, self.totals = Timeline(), Totals(len(clients))
        self.observer = Observer(clients, self.pools, self.totals)
        self._asleep = set(range(workers))
        self._tickets: dict[str, Ticket] = {}
        for pool, name in zip(self.gates, self.names, strict=True):
            pool.join(name, 0)
        size = engine.block_tokens
        self._senders = Senders(clients, size, seed, self.timeline, self.totals, self._submit)
        self._sample()

    def run(self, until: float) -> Totals:
        """Simulates up to `until`; may be called again to go on."""
        self.timeline.run(until)
        return self.totals

    @property
    def _now(self) -> int:
        return int(self.timeline.now)

    def _submit(self, ticket: Ticket) -> None:
        self._tickets[ticket.job.job_id] = ticket
        place = self.router.place(ticket.job, self.gates, self.names) if self.router else 0
        verdict = self.gates[place].submit(ticket.job, self._now)
        assert verdict.answer == "queued", verdict
        for worker in sorted(self._asleep):
            self.timeline.after(0, partial(self._pass, worker))
        self._asleep.clear()

    def _pass(self, index: int) -> None:
        """What a worker does between two chunks: settle, claim, start."""
        worker = self.workers[index]
        self._settle(index, worker.finished())
        self.observer.observe()
        started = self._start(index)
        self.observer.observe()
        chunk = worker.advance(started)
        for task in started:
            ticket = task.owner
            first = self.timeline.now + chunk.prefill_ms
            self.totals.first_tokens.append(Span(ticket.client, ticket.sent, first))
        if worker.running:
            self.timeline.after(chunk.duration_ms, partial(self._end_chunk, index))
        else:
            self._asleep.add(index)
            self.totals.idle_with_work += self.gates[index].nodes[""].jobs > 0

    def _end_chunk(self, index: int) -> None:
        for task in self.workers[index].running:
            self.totals.delivered[task.owner.client] += 2 * task.steps_done
            self.totals.output_tokens += task.steps_done
        self._pass(index)

    def _settle(self, index: int, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        settlements = []
        for task in tasks:
            ticket: Ticket = task.owner
            self.totals.refundable[ticket.client] -= self._refund(task)
            self._close(ticket.job.job_id)
            settlements.append(_settlement(task))
        inserted, evicted = self.workers[index].cache.events()
        gate, name = self.gates[index], self.names[index]
        assert all(gate.settle(name, settlements, self._now, inserted, evicted))
        gate.replies.clear()
        for task in tasks:
            self._senders.finish(task.owner)

    def _start(self, index: int) -> list[Task]:
        """Claims until the worker is full, has enough to prefill or nothing is left."""
        worker = self.workers[index]
        started = worker.start()
        while not worker.waiting and _extend_tokens(started) < self.engine.prefill_tokens:
            room = min(CLAIMED_AT_ONCE, self.engine.max_running - len(worker.running))
            claimed = self._claim(index, room, _extend_tokens(started)) if room else ()
            for one in claimed:
                ticket = self._tickets[one.job_id]
                ticket.epoch, ticket.charged = one.epoch, one.charged
                worker.accept(Task(ticket, ticket.request))
            started += worker.start()
            if len(claimed) < room or not room:
                break
        for task in started:
            self._count_started(task)
        return started

    def _claim(self, index: int, most: int, extend: int) -> tuple[Claimed, ...]:
        worker = self.workers[index]
        budget = min(worker.free_tokens, self.engine.claim_tokens - extend)
        inserted, evicted = worker.cache.events()
        gate = self.gates[index]
        claim = gate.claim(
            self.names[index],
            budget,
            most,
            self._now,
            inserted,
            evicted,
            strict=not worker.idle,
        )
        dropped = [self._close(reply.job_id) for reply in gate.replies]  # past their deadlines
        gate.replies.clear()
        for ticket in dropped:
            self._senders.finish(ticket)
        return claim.jobs

    def _close(self, job_id: str) -> Ticket:
        ticket = self._tickets.pop(job_id)
        if self.router:
            self.router.end(ticket.job)
        return ticket

    def _count_started(self, task: Task) -> None:
        client, totals = task.owner.client, self.totals
        totals.delivered[client] += task.tokens
        totals.prompt_tokens += task.tokens
        totals.extend_tokens += task.extend_tokens
        totals.reserve(client, self._refund(task))

    def _refund(self, task: Task) -> int:
        settings = self.pools[0].settings
        used = settings.extend_weight * task.extend_tokens
        used += settings.output_weight * task.request.output_tokens
        charged: int = task.owner.charged
        return max(0, charged - max(1, used))

    def _sample(self) -> None:
        self.totals.samples.append(self.totals.snapshot(self.timeline.now))
        self.timeline.after(SAMPLE_MS, self._sample)


def _extend_tokens(tasks: Sequence[Task]) -> int:
    return sum(task.extend_tokens for task in tasks)


def _settlement(task: Task) -> Settlement:
    ticket: Ticket = task.owner
    return Settlement(
        job_id=ticket.job.job_id,
        epoch=ticket.epoch,
        extend_tokens=task.extend_tokens,
        result=b"",
        output_tokens=task.request.output_tokens,
    )
