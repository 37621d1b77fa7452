"""Clients' programs as a stream of jobs: begins them and lets them go on. Knows no engine, gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

from loadtest.simulation.clients import Client
from loadtest.simulation.requests import NO_DEADLINE, Program, Request
from loadtest.simulation.timeline import Timeline
from loadtest.simulation.totals import Due, Span, Totals
from service.gate.job import Job, Level


@dataclass(slots=True)
class Run:
    """A program on its way."""

    client: int
    path: tuple[Level, ...]
    program: Program
    began: float
    open: int = 0


@dataclass(slots=True)
class Ticket:
    """A request on its way; the gate gives it an epoch and charges it at its claim."""

    run: Run
    request: Request
    job: Job
    sent: float
    epoch: int = 0
    charged: int = 0

    @property
    def client(self) -> int:
        """Index of the client."""
        return self.run.client


class Senders:
    """All clients. `submit` takes each ticket when its request is sent."""

    def __init__(
        self,
        clients: Sequence[Client],
        block_tokens: int,
        seed: int,
        timeline: Timeline,
        totals: Totals,
        submit: Callable[[Ticket], None],
    ) -> None:
        self._clients, self._block_tokens = clients, block_tokens
        self._timeline, self._totals, self._submit = timeline, totals, submit
        self._randoms = [Random(f"{seed} {client.name}") for client in clients]
        self._begun = [0] * len(clients)
        self._numbers = count()
        for index, client in enumerate(clients):
            for _ in range(max(1, client.arrivals.slots)):
                self._plan(index)

    def finish(self, ticket: Ticket) -> None:
        """A request is answered: its program goes on, or ends and makes room for the next.

        One that was dropped as overdue is answered as well: with an error, to a client who goes on.
        """
        run = ticket.run
        run.open -= 1
        if ticket.request.deadline_ms < NO_DEADLINE:
            due = int(ticket.sent) + ticket.request.deadline_ms  # the gate counts whole ones
            now = self._timeline.now
            self._totals.dues.append(Due(run.client, now, missed=now >= due))
        self._send(run, run.program.after(ticket.request))
        if not run.open:
            self._totals.programs.append(Span(run.client, run.began, self._timeline.now))
            if self._clients[run.client].arrivals.slots:
                self._plan(run.client)

    def _plan(self, client: int) -> None:
        gap = self._clients[client].arrivals.gap(self._randoms[client], self._timeline.now)
        self._timeline.after(gap, partial(self._begin, client))

    def _begin(self, client: int) -> None:
        source = self._clients[client]
        path = source.path(self._begun[client])
        self._begun[client] += 1
        run = Run(client, path, source.program(self._randoms[client]), self._timeline.now)
        self._send(run, run.program.start())
        if not source.arrivals.slots:
            self._plan(client)

    def _send(self, run: Run, requests: Sequence[Request]) -> None:
        for request in requests:
            run.open += 1
            if request.delay_ms:
                self._timeline.after(request.delay_ms, partial(self._pass_on, run, request))
            else:
                self._pass_on(run, request)

    def _pass_on(self, run: Run, request: Request) -> None:
        client = self._clients[run.client]
        job = Job(
            job_id=f"{next(self._numbers):09d}",
            path=run.path,
            tenant_level=client.tenant_level,
            context_hashes=request.context,
            block_size=self._block_tokens,
            context_tokens=len(request.context) * self._block_tokens,
            candidate_tokens=request.candidate_tokens,
            deadline_ms=request.deadline_ms if request.deadline_told else NO_DEADLINE,
            reply_to="",
            payload=b"",
            output_tokens=request.output_cap,
        )
        self._submit(Ticket(run, request, job, self._timeline.now))
