"""The embedded Redis: started once, restarted when killed, gone with its last supervisor."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from service.gate import embedded as embedded_module
from service.gate.embedded import EmbeddedRedis
from service.gate.errors import GateUnavailableError

HOLDER = """
import sys
from pathlib import Path
from service.gate.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server._child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def embedded(state_dir: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(state_dir)
    server.start()
    yield server
    server.stop()


def child_pid(server: EmbeddedRedis) -> int | None:
    """Of the redis-server that this object started, if it did."""
    return server._child.pid if server._child else None


def eventually(client: redis.Redis, command: str, *arguments: str) -> Any:
    """Asks again until the server is back; the test's time limit ends it."""
    while True:
        try:
            return client.execute_command(command, *arguments)
        except redis.ConnectionError:
            continue


def test_the_configuration_never_forks_a_snapshot_and_never_evicts(
    embedded: EmbeddedRedis,
) -> None:
    client = redis.Redis.from_url(embedded.url, decode_responses=True)
    expected = {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction", "port": "0"}
    assert {name: client.config_get(name)[name] for name in expected} == expected


@pytest.mark.timeout(20)
def test_a_killed_server_comes_back_with_its_data(embedded: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(embedded.url)
    client.set("queued", "job")
    client.execute_command("WAIT", 0, 0)
    before = child_pid(embedded)
    assert before
    os.kill(before, signal.SIGKILL)
    assert eventually(client, "GET", "queued") == b"job"
    assert child_pid(embedded) != before


@pytest.mark.timeout(20)
def test_a_killed_server_comes_back_though_its_directory_was_removed(
    embedded: EmbeddedRedis, state_dir: Path
) -> None:
    before = child_pid(embedded)
    assert before
    shutil.rmtree(state_dir)
    os.kill(before, signal.SIGKILL)
    assert eventually(redis.Redis.from_url(embedded.url), "PING")
    assert child_pid(embedded) != before


@pytest.mark.timeout(20)
def test_a_second_holder_shares_the_server_and_takes_over_when_the_first_dies(
    state_dir: Path,
) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    first_pid = int(first.stdout.readline())
    second = EmbeddedRedis(state_dir)
    client = redis.Redis.from_url(second.start())
    assert child_pid(second) is None
    assert client.info("server")["process_id"] == first_pid
    client.set("queued", "job")
    first.kill()
    first.communicate()
    assert eventually(client, "GET", "queued") == b"job"
    while eventually(client, "INFO", "server")["process_id"] == first_pid:
        continue
    assert client.info("server")["process_id"] == child_pid(second)
    second.stop()


def test_stop_ends_the_server(state_dir: Path) -> None:
    server = EmbeddedRedis(state_dir)
    client = redis.Redis.from_url(server.start())
    server.stop()
    with pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.mark.timeout(20)
def test_who_stops_the_server_lets_the_others_go_first(state_dir: Path) -> None:
    owner, guest = EmbeddedRedis(state_dir), EmbeddedRedis(state_dir)
    client = redis.Redis.from_url(owner.start())
    guest.start()
    assert child_pid(guest) is None
    stopping = threading.Thread(target=owner.stop)
    stopping.start()
    stopping.join(0.5)  # would it end by itself?
    assert stopping.is_alive()
    assert client.set("goodbye", "said")
    guest.stop()
    stopping.join()
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_the_server_stays_when_all_around_it_are_told_to_stop(embedded: EmbeddedRedis) -> None:
    before = child_pid(embedded)
    assert before
    os.kill(before, signal.SIGTERM)
    client = redis.Redis.from_url(embedded.url)
    for _ in range(5):  # Redis looks ten times a second whether it was told to stop
        client.blpop(["nothing"], timeout=0.1)
    assert client.info("server")["process_id"] == before


@pytest.mark.timeout(20)
def test_the_server_ends_with_a_lone_supervisor_that_was_killed(state_dir: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    with (state_dir / "redis.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # free when the server is gone


@pytest.mark.timeout(20)
def test_nobody_waits_for_ever_for_others_who_stay(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_module, "_OTHERS_S", 0.1)
    owner, guest = EmbeddedRedis(state_dir), EmbeddedRedis(state_dir)
    client = redis.Redis.from_url(owner.start())
    guest.start()
    owner.stop()
    assert eventually(client, "PING")
    assert child_pid(guest)
    guest.stop()


def test_a_long_state_directory_still_gets_a_usable_socket(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / ("long" * 40))
    assert redis.Redis.from_url(server.start()).ping()
    server.stop()


def test_a_server_that_cannot_start_says_where_to_look(state_dir: Path) -> None:
    with pytest.raises(GateUnavailableError, match=r"redis\.log"):
        EmbeddedRedis(state_dir, executable="/bin/false").start(timeout_s=0.3)


def test_the_lock_is_free_exactly_while_no_server_runs(state_dir: Path) -> None:
    server = EmbeddedRedis(state_dir)
    server.start()
    with (state_dir / "redis.lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        server.stop()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
