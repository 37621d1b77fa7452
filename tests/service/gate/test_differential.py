"""The Lua verbs against the in-memory pool over random histories, on every Redis at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from service.gate import wire
from service.gate.job import Job, NodeStats
from service.gate.settings import ATTRIBUTIONS, POLICIES
from service.gate.tree import Node
from tests.service.gate.audit import audit
from tests.service.gate.histories import SMALL, History
from tests.service.gate.jobs import TREES
from tests.service.gate.remote import Remote

EVENTS = 500
FLIPPING = ("ada:1", "ada:1/u1:1", "ada:1/u2:2", "bob:2/u1:1", "bob:2")  # one depth at a time
CHANGED_WEIGHTS = 0.05  # of jobs
CUT_OFF = 0.5  # of switches
PAUSES_MS = (-30_000, -5, 2_001, 30_000)


class Twins(History):
    """Redis and the in-memory pool side by side; every verb must answer the same on both."""

    weights = History.weights | {"submit_together": 6, "pass_time": 6, "step_clock": 0.3}

    def __init__(self, client: redis.Redis, url: str, seed: int) -> None:
        policy = POLICIES[seed % len(POLICIES)]
        attribution = ATTRIBUTIONS[seed % len(ATTRIBUTIONS)]
        parts = 1 + seed // 2 % 4
        settings = replace(
            SMALL,
            policy=policy,
            attribution=attribution,
            quantum_parts=parts,
        )
        super().__init__(seed, settings)
        self.tree = (*TREES, FLIPPING)[seed % (len(TREES) + 1)]
        self.remote = Remote(client, url, f"pool-{seed}", settings)

    def apply(self, verb: str, *arguments: Any, **events: Any) -> Any:
        answer = getattr(self.remote, verb)(*arguments, **events)
        expected = getattr(self.pool, verb)(*arguments, self.remote.time, **events)
        assert answer == expected
        return answer

    def configure(self) -> None:
        """In the midst of another switch, and to its end by itself or by the next heartbeat.

        Several calls on Redis, so the clock's last step is taken in before.
        """
        self.compare()
        other, name = self.random.choices(POLICIES, k=2)
        self.remote.rank(other, self.random.randrange(4))
        if self.random.random() < CUT_OFF:
            self.remote.rank(name, self.random.randrange(4))
            self.pool.configure(name, self.remote.time)
            self.reap()
        else:
            self.apply("configure", name)

    def draw_job(self) -> Job:
        """Now and then somebody's file gives other weights than those that jobs wait under."""
        job = super().draw_job()
        if self.random.random() < CHANGED_WEIGHTS:
            path = [replace(level, weight=self.random.choice([1, 3, 50])) for level in job.path]
            job = replace(job, path=tuple(path))
        return job

    def submit_together(self) -> None:
        """What came while a call was under way goes in one."""
        jobs = [self.draw_job() for _ in range(self.random.randrange(1, 5))]
        for job, verdict in zip(jobs, self.remote.submit_together(jobs), strict=True):
            assert verdict == self.pool.submit(job, self.remote.time)
            self.note(job, verdict)

    def pass_time(self) -> None:
        """Leases, deadlines and idle spans come closer."""
        if self.pool._last is not None:
            milliseconds = self.random.choice([1, 7, 30])
            self.remote.pass_time(milliseconds)
            self.pool._skew -= milliseconds

    def step_clock(self) -> None:
        """Redis was paused, or its clock stepped."""
        if self.pool._last is not None:
            milliseconds = self.random.choice(PAUSES_MS)
            self.remote.step_clock(milliseconds)
            self.pool._last -= milliseconds
            self.pool._skew -= milliseconds

    def compare(self) -> None:
        """Every counter of every node, and all answers."""
        stats, nodes = self.remote.stats(), self.pool.nodes
        self.pool._tick(self.remote.time)
        assert stats.nodes == {name: standing(node) for name, node in nodes.items() if name}
        assert stats.queued_jobs == nodes[""].jobs
        assert stats.leased_jobs == nodes[""].leased
        assert stats.service == nodes[""].service
        assert stats.platform == self.pool.ledger.platform
        assert stats.uncharged == self.pool.ledger.uncharged
        assert [wire.read_reply(one) for one in self.remote.replies("api")] == self.pool.replies
        self.pool.replies.clear()


def standing(node: Node) -> NodeStats:
    return NodeStats(node.deficit, node.weight, node.jobs, node.tokens, node.leased, node.service)


def run(client: redis.Redis, url: str, seed: int, events: int) -> None:
    twins = Twins(client, url, seed)
    for number in range(events):
        twins.step()
        if number % 20 == 0:
            twins.compare()
    assert twins.pool.nodes[""].service > events
    audit(client, f"pool-{seed}")


@pytest.mark.parametrize("seed", range(8))
def test_lua_and_the_in_memory_pool_agree_on_every_verb(
    redis_client: redis.Redis, redis_url: str, seed: int
) -> None:
    run(redis_client, redis_url, seed, EVENTS)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_lua_and_the_in_memory_pool_agree_over_a_hundred_thousand_events(
    redis_client: redis.Redis, redis_url: str, seed: int
) -> None:
    run(redis_client, redis_url, seed, 5_000)
