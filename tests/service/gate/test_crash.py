"""Processes that die between any two calls, answers that get lost, zombies: on a real Redis.

Every job ends exactly once and is charged exactly what the worker that ended it reported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import redis

from service.gate import wire
from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Job, Outcome, Reply, Settlement
from service.gate.settings import GateSettings
from service.gate.store import AsyncStore, Store
from tests.service.gate.client import POOL, Api
from tests.service.gate.jobs import TREES, random_job

SETTINGS = GateSettings(quantum=100, quantum_parts=1, lease_ms=3, max_attempts=3, worker_idle_ms=50)
MOST_WAITING = 30


class Network:
    """Loses requests before and answers after they take effect, as a dying process does."""

    random = Random(0)
    share = 0.1
    losses = 0

    @classmethod
    def may_lose(cls, what: str) -> None:
        if cls.random.random() < cls.share:
            cls.losses += 1
            raise GateUnavailableError(f"the {what} was lost")


class LossyStore(Store):
    def call(self, verb: str, arguments: Any) -> Any:
        Network.may_lose("request")
        answer = super().call(verb, arguments)
        Network.may_lose("answer")
        return answer


class LossyAsyncStore(AsyncStore):
    async def call(self, verb: str, arguments: Any) -> Any:
        Network.may_lose("request")
        answer = await super().call(verb, arguments)
        Network.may_lose("answer")
        return answer


@dataclass
class Process:
    """A worker process with what it holds in memory."""

    gate: WorkerGate
    held: list[Claimed] = field(default_factory=list)
    ended: list[Settlement] = field(default_factory=list)  # computed, not yet acknowledged


class Model:
    """Draws who acts next and who dies; remembers what callers were told."""

    def __init__(self, client: redis.Redis, url: str, seed: int) -> None:
        self.client, self.url, self.random = client, url, Random(seed)
        self.api = Api(url, SETTINGS)
        self.inbox = Store(url, POOL, SETTINGS).reply_key(self.api.name)
        self.jobs: dict[str, Job] = {}
        self.cancelled: set[str] = set()
        self.unsure: set[str] = set()  # of whom nobody was told whether they are in the pool
        self.replies: list[Reply] = []
        self.deaths = 0
        self.names = [f"worker-{number}" for number in range(3)]
        self.workers = [self.start(name) for name in self.names]
        self.zombies: list[Process] = []

    def start(self, name: str) -> Process:
        """A fresh process; it tries to join until it is heard."""
        process = Process(WorkerGate(self.url, POOL, SETTINGS, name))
        while not self.try_to(process.gate.join):
            continue
        return process

    def try_to(self, call: Any, *arguments: Any) -> Any:
        """The call's answer, or None if the request or the answer was lost."""
        try:
            return (call(*arguments),)
        except GateUnavailableError:
            return None

    def step(self) -> None:
        """One action of one process."""
        actions = {
            self.submit: 30,
            self.cancel: 3,
            self.claim: 25,
            self.settle: 25,
            self.renew: 5,
            self.reap: 5,
            self.die: 5,
            self.haunt: 5,
        }
        [act] = self.random.choices([*actions], weights=[*actions.values()])
        act()
        self.read_replies()

    def read_replies(self) -> None:
        """What the API process finds in its stream."""
        for entry, fields in self.client.xrange(self.inbox):
            self.replies.append(wire.read_reply(fields[b"reply"]))
            self.client.xdel(self.inbox, entry)

    def submit(self) -> None:
        """A new job, unless enough wait."""
        job = random_job(self.random, f"job-{len(self.jobs)}", TREES[1])
        waiting = len(self.jobs) - len(self.replies) - len(self.cancelled)
        if job.deadline_ms and waiting < MOST_WAITING:
            self.jobs[job.job_id] = job
            while not self.try_to(self.api.submit, job):
                if self.random.random() < 0.2:
                    self.deaths += 1  # of the caller: nobody tries again
                    self.unsure.add(job.job_id)
                    break

    def cancel(self) -> None:
        """A caller goes away; a leased job is answered unless its worker dies, too."""
        job_id = self.random.choice([*self.jobs][-20:] or ["none"])
        waited = self.try_to(self.api.cancel, job_id) == (True,)
        (self.cancelled if waited else self.unsure).add(job_id)

    def claim(self) -> None:
        """A batch for one worker."""
        worker = self.random.choice(self.workers)
        answer = self.try_to(worker.gate.claim, 2_000, self.random.randrange(1, 6))
        if answer:
            worker.held += answer[0].jobs

    def settle(self) -> None:
        """What a worker has computed; said again as long as no answer comes."""
        worker = self.random.choice(self.workers)
        worker.ended += [self.result(claimed) for claimed in worker.held]
        worker.held.clear()
        if self.try_to(worker.gate.settle, worker.ended):
            worker.ended.clear()

    def result(self, claimed: Claimed) -> Settlement:
        """A result that tells its own cost, at most what was reserved."""
        used = self.random.randrange(1, claimed.charged + 1)
        return Settlement(claimed.job_id, claimed.epoch, used, str(used).encode())

    def renew(self) -> None:
        """A worker's heartbeat."""
        worker = self.random.choice(self.workers)
        self.try_to(worker.gate.renew, worker.held)

    def reap(self) -> None:
        """The pool's heartbeat."""
        self.try_to(self.random.choice(self.workers).gate.reap)

    def die(self) -> None:
        """A worker stops; its successor has its name or, after a lease, another one."""
        place = self.random.randrange(len(self.workers))
        self.zombies = [*self.zombies[-5:], self.workers[place]]
        self.deaths += 1
        name = self.random.choice([self.names[place], f"successor-{self.deaths}"])
        self.names[place] = name
        self.workers[place] = self.start(name)

    def haunt(self) -> None:
        """A process that was believed dead goes on where it was."""
        if self.zombies:
            zombie = self.random.choice(self.zombies)
            self.try_to(zombie.gate.renew, zombie.held)
            results = [self.result(claimed) for claimed in zombie.held]
            self.try_to(zombie.gate.settle, [*results, *zombie.ended])

    def finish(self) -> None:
        """Everything works again; whatever is left is served."""
        while self.api.stats().queued_jobs or self.api.stats().leased_jobs:
            self.workers[0].gate.reap()
            self.workers[0].held += self.workers[0].gate.claim(10_000, 50).jobs
            for worker in self.workers:
                worker.gate.settle([*map(self.result, worker.held), *worker.ended])
                worker.held.clear()
                worker.ended.clear()
        self.read_replies()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> type[Network]:
    monkeypatch.setattr("service.gate.gate.Store", LossyStore)
    monkeypatch.setattr("service.gate.gate.AsyncStore", LossyAsyncStore)
    Network.random, Network.losses, Network.share = Random(0), 0, 0.1
    return Network


@pytest.mark.parametrize(
    "crashes",
    [300, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
)
def test_every_job_ends_once_and_is_charged_once_whatever_dies(
    redis_client: redis.Redis, redis_url: str, network: type[Network], crashes: int
) -> None:
    model = Model(redis_client, redis_url, crashes)
    while network.losses + model.deaths < crashes:
        model.step()
    network.share = 0.0
    model.finish()
    ended = Counter(reply.job_id for reply in model.replies)
    assert [job_id for job_id, times in ended.items() if times > 1] == []
    assert not model.cancelled & set(ended)
    assert set(model.jobs) - set(ended) - model.cancelled <= model.unsure
    assert charged(model) == reported(model)


def reported(model: Model) -> Counter[str]:
    """Cost by leaf, as the accepted results tell it."""
    used: Counter[str] = Counter()
    for reply in model.replies:
        if reply.outcome is Outcome.SCORED:
            used[model.jobs[reply.job_id].leaf] += int(reply.result)
    return used


def charged(model: Model) -> Counter[str]:
    """Cost by leaf, as the gate's books have it."""
    nodes = model.api.stats(*{job.leaf for job in model.jobs.values()}).nodes
    return Counter({leaf: node.service for leaf, node in nodes.items() if node.service})
