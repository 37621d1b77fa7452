"""The pool's verbs spoken to Redis, with the answers of the in-memory pool. Knows no rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from service.gate import wire
from service.gate.job import (
    Claim,
    Claimed,
    Explanation,
    GateStats,
    Job,
    Reaped,
    Settlement,
    Verdict,
)
from service.gate.settings import GateSettings
from service.gate.store import Store

SHIFT = """
local root = cmsgpack.unpack(redis.call('GET', KEYS[1]) or cmsgpack.pack({}))
for at = 2, #ARGV do root[ARGV[at]] = (root[ARGV[at]] or 0) - ARGV[1] end
redis.call('SET', KEYS[1], cmsgpack.pack(root))
return root.last or 0
"""
AGE = """
for _, key in ipairs(redis.call('KEYS', KEYS[1] .. '*')) do
  local left = redis.call('PTTL', key)
  if left > 0 then redis.call('PEXPIRE', key, math.max(0, left - ARGV[1])) end
end
"""


class Remote:
    """Same verbs and arguments as `Pool`, without the time: Redis has its own."""

    def __init__(self, client: redis.Redis, url: str, pool: str, settings: GateSettings) -> None:
        self._client, self._settings = client, settings
        self._store = Store(url, pool, settings)
        self._root = self._store.reply_key("").removesuffix("reply:") + "node:"

    @property
    def time(self) -> int:
        """Redis' time at the last verb, in milliseconds."""
        return self._shift(0)

    def pass_time(self, milliseconds: int) -> None:
        """Lets the pool's clock run ahead."""
        self._shift(milliseconds, "skew")

    def step_clock(self, milliseconds: int) -> None:
        """Makes it look as if Redis' clock had stepped, or nobody had called for so long."""
        self._shift(milliseconds, "last", "skew")

    def age_nodes(self, milliseconds: int) -> None:
        """Brings the end of idle nodes closer."""
        self._client.eval(AGE, 1, self._root, milliseconds)

    def _shift(self, milliseconds: int, *fields: str) -> int:
        return int(self._client.eval(SHIFT, 1, self._root, milliseconds, *fields))

    def submit(self, job: Job) -> Verdict:
        [verdict] = self.submit_together([job])
        return verdict

    def submit_together(self, jobs: Sequence[Job]) -> list[Verdict]:
        """All in one call, in this order."""
        arguments = [cell for job in jobs for cell in wire.submit_arguments(job)]
        answer = self._store.call("submit", arguments)
        return wire.read_verdicts(answer, jobs, self._settings)

    def claim(self, worker: str, budget: int, most: int, **events: Any) -> Claim:
        arguments = wire.claim_arguments(worker, budget, most, **events)
        return wire.read_claim(self._store.call("claim", arguments))

    def settle(
        self, worker: str, settlements: Sequence[Settlement], **events: Sequence[str]
    ) -> list[bool]:
        arguments = wire.settle_arguments(worker, settlements, **events)
        return [bool(flag) for flag in self._store.call("settle", arguments)[1:]]

    def renew(self, worker: str, held: Sequence[Claimed]) -> list[bool]:
        answer = self._store.call("renew", wire.renew_arguments(worker, held))
        return [bool(flag) for flag in answer[1:]]

    def cancel(self, job_id: str) -> bool:
        return bool(self._store.call("cancel", [job_id])[1])

    def join(self, worker: str) -> int:
        return int(self._store.call("join", [worker])[1])

    def leave(self, worker: str) -> int:
        return int(self._store.call("leave", [worker])[1])

    def drain(self, worker: str) -> None:
        self._store.call("drain", [worker])

    def reap(self) -> Reaped:
        return wire.read_reaped(self._store.call("reap", []))

    def explain(self, job_id: str) -> Explanation:
        return wire.read_explanation(self._store.call("explain", [job_id]))

    def configure(self, policy: str) -> None:
        """To its end."""
        while self.rank(policy, 3):
            policy = ""

    def rank(self, policy: str, most: int) -> int:
        """One call of a switch, or of whatever switch is under way; returns what is unranked."""
        return int(self._store.call("configure", [policy, most])[1])

    def stats(self) -> GateStats:
        """With all nodes."""
        names = [
            key.decode().removeprefix(self._root) for key in self._client.keys(f"{self._root}*")
        ]
        return wire.read_stats(self._store.call("stats", [name for name in names if name]))

    def replies(self, reply_to: str) -> list[bytes]:
        """Takes all replies that are there."""
        key = self._store.reply_key(reply_to)
        rows = [fields[b"reply"] for _, fields in self._client.xrange(key)]
        self._client.delete(key)
        return rows
