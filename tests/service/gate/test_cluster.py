"""The gate on a Redis Cluster of three nodes: a pool lives in one slot, whichever node has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Outcome, Settlement
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.gate.audit import audit
from tests.service.gate.client import POOL, Api
from tests.service.gate.jobs import build_job, chain
from tests.service.gate.load import finish, loading
from tests.service.gate.redis_servers import (
    RedisServer,
    is_new_enough_for_cluster,
    join_cluster,
    running,
)

SETTINGS = GateSettings(quantum=100, lease_ms=0, max_attempts=9)

pytestmark = pytest.mark.skipif(
    not is_new_enough_for_cluster(), reason="needs redis-server 7, which has cluster-port"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    directory = tmp_path_factory.mktemp("cluster")
    with join_cluster(directory, 3) as servers:
        yield servers


def test_all_verbs_work_and_a_pool_stays_in_its_slot(cluster: list[RedisServer]) -> None:
    url = cluster[0].cluster_url
    api, worker = Api(url, SETTINGS), WorkerGate(url, POOL, SETTINGS, "worker")
    worker.join()
    for number in range(6):
        api.submit(build_job(f"job-{number}", f"org/te{{nant}}-{number % 2}:2", "abc"))
    assert api.cancel("job-5")
    assert api.explain("job-0").state == "queued"
    assert worker.wait_for_work()
    claimed = worker.claim(10_000, 3, inserted=chain("ab")).jobs
    assert worker.renew(claimed) == [True] * 3
    assert worker.reap().requeued == 3
    api.configure("fcfs")
    claimed = worker.claim(10_000, 9).jobs
    assert len(claimed) == 5
    results = [Settlement(job.job_id, job.epoch, job.charged, b"result") for job in claimed]
    assert worker.settle(results) == [True] * 5
    assert [reply.outcome for reply in api.replies()] == [Outcome.SCORED] * 5
    worker.drain()
    worker.leave()
    assert api.stats().queued_jobs == worker.stats().leased_jobs == 0
    assert sorted(bool(server.client().dbsize()) for server in cluster) == [False, False, True]


def test_pools_spread_over_the_nodes(cluster: list[RedisServer]) -> None:
    for number in range(16):
        WorkerGate(cluster[0].cluster_url, f"pool-{number}", SETTINGS, "worker").join()
    assert all(server.client().dbsize() for server in cluster)


def test_a_script_that_left_its_slot_would_be_an_error_and_not_an_outage(
    cluster: list[RedisServer],
) -> None:
    """What the first test would have shown: Redis refuses, and nobody mistakes it for a pause."""
    client = redis.RedisCluster.from_url(cluster[0].url)
    elsewhere = next(
        f"{{other-{name}}}"
        for name in range(16)
        if client.get_node_from_key(f"{{other-{name}}}") != client.get_node_from_key("{pool}")
    )
    with pytest.raises(redis.ResponseError, match="non local key"):
        client.eval(f"return redis.call('GET', '{elsewhere}')", 1, "{pool}")


@pytest.mark.long
def test_a_cluster_that_lost_a_node_is_an_outage(tmp_path: Path) -> None:
    with join_cluster(tmp_path, 3) as servers:
        gates = [
            WorkerGate(servers[0].cluster_url, f"pool-{number}", SETTINGS, "worker")
            for number in range(8)
        ]
        for gate in gates:
            gate.join()
        servers[1].kill()
        outages = 0
        for gate in gates:
            try:
                gate.claim(1, 1)
            except GateUnavailableError:
                outages += 1
    assert outages > 0


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_pool_goes_on_where_its_replica_took_over_under_load(tmp_path: Path) -> None:
    """What the replica had not received is lost; its books agree, and nothing is answered twice."""
    replica = RedisServer(tmp_path / "replica", {"cluster-enabled": "yes"})
    with join_cluster(tmp_path, 3) as servers, running(replica):
        owner = next(server for server in servers if owns(server, f"{{{POOL}}}"))
        witness = next(server for server in servers if server is not owner)
        replicate(replica, owner, servers)
        with loading(witness.cluster_url) as load:
            load.wait_for(100)
            owner.kill()
            replica.client().execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
            load.wait_for(len(load.settled) + 100)
        audit(replica.client(), POOL)
        replies, _cost = finish(witness.cluster_url)
        audit(replica.client(), POOL)
    assert load.outages > 0
    assert set(replies.values()) == {1}


def owns(server: RedisServer, tag: str) -> bool:
    """Whether the tag's slot is this node's."""
    try:
        server.client().exists(tag)
    except redis.exceptions.MovedError:
        return False
    return True


def replicate(replica: RedisServer, primary: RedisServer, nodes: Sequence[RedisServer]) -> None:
    """Makes the replica follow the primary, and waits until every node of the Cluster knows.

    A node that had not heard of it when the primary died would not believe its takeover either.
    """
    client, primary_id = replica.client(), primary.client().execute_command("CLUSTER MYID")
    address = ("127.0.0.1", primary.port, primary.bus_port)
    client.execute_command("CLUSTER", "MEET", *address)
    wait_until(lambda: accepts(client, primary_id), 20.0, "the replica's Cluster")
    wait_until(
        lambda: client.info("replication").get("master_link_status") == "up", 20.0, "its link"
    )
    wait_until(lambda: all(knows(node, replica) for node in nodes), 20.0, "news of the replica")


def knows(node: RedisServer, replica: RedisServer) -> bool:
    """Whether the node has it as a replica, with a link of its own."""
    told = node.client().execute_command("CLUSTER NODES").get(f"127.0.0.1:{replica.port}", {})
    return told.get("flags") == "slave" and bool(told["connected"])


def accepts(client: redis.Redis, primary_id: bytes) -> bool:
    """Whether the node has heard of the primary, whose replica it then is."""
    try:
        return bool(client.execute_command("CLUSTER", "REPLICATE", primary_id))
    except redis.ResponseError:
        return False
