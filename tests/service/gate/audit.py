"""Whether what Redis keeps of a pool agrees with its jobs. Knows no verb and no policy.

Every count of the tree and of the fleet, and every index, follows from the jobs that are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import redis

READ = """
local jobs, nodes = {}, {}
local function packed(key) return cmsgpack.unpack(redis.call('GET', key)) end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind, name = string.match(string.sub(key, #ARGV[1] + 2), '^(%a+):?(.*)$')
  if kind == 'node' then nodes[#nodes + 1] = { name, packed(key) }
  elseif kind == 'job' then
    local row = redis.call('HMGET', key, 'state', 'facts')
    local job = cmsgpack.unpack(row[1])
    job.context, job.member = cmsgpack.unpack(row[2]).context, cmsgpack.unpack(row[2]).member
    jobs[#jobs + 1] = job
  end
end
return cjson.encode({ jobs = jobs, nodes = nodes })
"""


Row = dict[str, Any]


def audit(client: redis.Redis, pool: str) -> None:
    """Raises AssertionError where a count or an index does not follow from the jobs."""
    tag = f"{{{pool}}}"
    found = json.loads(client.eval(READ, 0, tag))
    jobs: list[Row] = [*found["jobs"]]
    nodes: dict[str, Row] = {name: node for name, node in found["nodes"]}  # noqa: C416 - typed
    queued = [job for job in jobs if not job["epoch"]]
    leased = [job for job in jobs if job["epoch"]]
    assert _kept(nodes, ("jobs", "leased", "tokens")) == _counted_by_node(queued, leased)
    fleet = nodes[""]["fleet"] if nodes else {}
    assert _kept(fleet, ("jobs", "leased", "load")) == _counted_by_worker(queued, leased)
    _check_places(nodes)

    def members(kind: str) -> Counter[str]:
        keys = client.scan_iter(f"{tag}:{kind}")
        return Counter(row.decode() for key in keys for row in client.zrange(key, 0, -1))

    assert members("leases") == Counter(job["id"] for job in leased)
    waiting = Counter(job["member"] for job in queued)
    assert members("deadlines:*") == waiting
    assert members("group:*") - Counter({"": len(jobs)}) == waiting
    for job in queued:
        assert client.zscore(f"{tag}:due:{job['queue']}:{job['leaf']}:1", job["member"])
    hashes = client.scan_iter(f"{tag}:contexts:*")
    promised = sum(int(count) for key in hashes for count in client.hvals(key))
    assert promised == sum(bool(job["expected"]) for job in jobs)


def _kept(rows: dict[str, Row], fields: Sequence[str]) -> dict[tuple[str, str], int]:
    """All counts that are not zero, by name and field."""
    return {
        (name, field): row[field]
        for name, row in rows.items()
        for field in fields
        if row.get(field)
    }


def _counted_by_node(queued: list[Row], leased: list[Row]) -> Counter[tuple[str, str]]:
    expected: Counter[tuple[str, str]] = Counter()
    for kind, jobs in (("jobs", queued), ("leased", leased)):
        for job in jobs:
            names = job["leaf"].split("/")
            for node in ("/".join(names[:end]) for end in range(len(names) + 1)):
                expected[node, kind] += 1
                expected[node, "tokens"] += job["tokens"] if kind == "jobs" else 0
    return +expected


def _counted_by_worker(queued: list[Row], leased: list[Row]) -> Counter[tuple[str, str]]:
    expected: Counter[tuple[str, str]] = Counter()
    for kind, owner, jobs in (("jobs", "queue", queued), ("leased", "worker", leased)):
        for job in jobs:
            expected[job[owner], kind] += 1
            expected[job[owner], "load"] += job["tokens"]
    return +expected


def _check_places(nodes: dict[str, Row]) -> None:
    """Who waits stands in a bucket, and its weight counts at its parent."""
    weights: Counter[str] = Counter()
    for name, node in nodes.items():
        parent = name.rpartition("/")[0]
        if name:
            assert (node.get("stands", 0) > 0) == (node.get("jobs", 0) > 0), name
            assert node.get("as_of", 0) <= nodes[parent].get("round", 0), name
        if name and node.get("jobs"):
            weights[parent] += node["weight"]
    assert _kept(nodes, ["waiting_weight"]) == {
        (name, "waiting_weight"): weight for name, weight in weights.items()
    }
