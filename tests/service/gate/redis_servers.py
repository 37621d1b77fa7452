"""Real redis-server processes that tests kill, freeze and join. Knows nothing of what they hold."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis

from service.gate.embedded import shipped_executable
from tests.e2e.server import wait_until

EXECUTABLE = shutil.which("redis-server") or shipped_executable()
SLOTS = 16_384
START_SECONDS = 20.0


class RedisServer:
    """One redis-server on a loopback port; keeps its directory, so its AOF, over restarts."""

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        executable: str = EXECUTABLE,
    ) -> None:
        self.port, self.bus_port = free_ports(2)
        self._directory = directory
        self._options = {"save": "", "appendonly": "yes"} | dict(options or {})
        self._environment, self._executable = dict(environment or {}), executable
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where redis-py finds it."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def cluster_url(self) -> str:
        """Where the gate finds the Cluster that this node is in."""
        return self.url.replace("redis://", "redis+cluster://")

    def client(self) -> redis.Redis:
        """A client of this server alone."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Returns when it answers and has loaded its AOF."""
        options = self._options | {"port": str(self.port), "dir": str(self._directory)}
        if "cluster-enabled" in options:
            options["cluster-port"] = str(self.bus_port)
        cells = [cell for name, value in options.items() for cell in (f"--{name}", value)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._executable, *cells], stdout=log, env=os.environ | self._environment
            )
        wait_until(self.answers, START_SECONDS, "redis-server")

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        """Sends one signal, such as SIGSTOP."""
        assert self._process
        self._process.send_signal(number)

    def answers(self) -> bool:
        """Whether it is up and loaded."""
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False


@contextmanager
def running(*servers: RedisServer) -> Iterator[None]:
    """Starts the servers and leaves none behind."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


def in_step(primary: RedisServer, replica: RedisServer) -> bool:
    """Whether the replica has received all that was written."""
    one, other = (server.client().info("replication") for server in (primary, replica))
    linked = other.get("master_link_status") == "up"
    return bool(linked and one["master_repl_offset"] == other["master_repl_offset"])


@contextmanager
def limited(client: redis.Redis, setting: str, value: str = "1") -> Iterator[None]:
    """Has Redis refuse writes: 1 byte of `maxmemory`, or one replica of `min-replicas-to-write`."""
    before = client.config_get(setting)[setting]
    client.config_set(setting, value)
    try:
        yield
    finally:
        client.config_set(setting, before)


@contextmanager
def demoted(server: RedisServer) -> Iterator[None]:
    """Makes the server a replica of one that never answers, as at a failover."""
    client = server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


def is_new_enough_for_cluster() -> bool:
    """Whether redis-server lets its cluster bus have any port, as Redis 7 does."""
    version = subprocess.run([EXECUTABLE, "--version"], capture_output=True, text=True, check=True)
    return int(version.stdout.partition("v=")[2].partition(".")[0]) >= 7


@contextmanager
def join_cluster(directory: Path, nodes: int) -> Iterator[list[RedisServer]]:
    """A Cluster whose nodes share the slots evenly and all agree."""
    servers = [
        RedisServer(directory / str(number), {"cluster-enabled": "yes"}) for number in range(nodes)
    ]
    with running(*servers):
        for index, server in enumerate(servers):
            first, end = (SLOTS * place // nodes for place in (index, index + 1))
            client = server.client()
            client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
            client.execute_command(
                "CLUSTER", "MEET", "127.0.0.1", servers[0].port, servers[0].bus_port
            )
        wait_until(lambda: all(map(_agrees, servers)), START_SECONDS, "the cluster")
        yield servers


def _agrees(server: RedisServer) -> bool:
    return bool(server.client().execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
