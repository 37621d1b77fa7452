"""A real server goes on through its own Redis while the shared one is away."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from loadtest.outage import KINDS, ask, give_back, mode, standing_alone
from loadtest.serving import Server
from loadtest.waiting import wait_until


@pytest.mark.long
@pytest.mark.timeout(180)
def test_slates_are_answered_while_redis_is_away_and_the_metrics_say_how(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    with (
        standing_alone(tmp_path, tiny_model_dir) as (server, redis),
        httpx.Client(base_url=server.url, timeout=60.0) as client,
    ):
        assert ask(client)
        assert mode(server) == "shared"
        for times, kind in enumerate(KINDS.values(), 1):
            redis.signal(kind)
            wait_until(lambda: mode(server) == "local", 20.0, "the server's own Redis")
            assert [ask(client) for _ in range(5)] == [True] * 5
            assert client.get("/readyz").status_code == 200
            give_back(redis, kind)
            wait_until(lambda: mode(server) == "shared", 20.0, "the shared Redis")
            wait_until(lambda: ask(client), 20.0, "an answer")
            assert turns(server) == {"local": times, "refusing": 0, "shared": times}
        wait_until(lambda: service(server) > 0, 5.0, "the books")


def turns(server: Server) -> dict[str, int]:
    return {name: int(value) for name, value in series(server, "fairslate_gate_turns_total")}


def service(server: Server) -> float:
    return sum(value for _, value in series(server, "fairslate_tenant_service"))


def series(server: Server, name: str) -> list[tuple[str, float]]:
    """Label's value and value of each line."""
    page = httpx.get(f"{server.url}/metrics").text.splitlines()
    lines = [line for line in page if line.startswith(f"{name}{{")]
    return [(line.split('"')[-2], float(line.rpartition(" ")[2])) for line in lines]
