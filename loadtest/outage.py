"""Takes the Redis of a real server away and times how long its clients are refused.

python -m loadtest.outage --json loadtest/results/gate_outage.json
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from loadtest.fresh import ROOT, conditions
from loadtest.redis_process import RedisProcess
from loadtest.serving import Server, running, variables
from loadtest.waiting import wait_until

BODY = {"context": "Nurse", "candidates": [{"id": "a", "text": "Job"}]}
KINDS = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
ROUNDS = 5


def main() -> None:
    """Writes one row for each way in which a Redis can go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    target: Path = parser.parse_args().json
    with (
        tempfile.TemporaryDirectory(prefix="outage-") as state,
        standing_alone(Path(state), ROOT / "models" / "demo") as (server, redis),
    ):
        rows = [{"how": how, **measured(server, redis, kind)} for how, kind in KINDS.items()]
    text = json.dumps({**conditions(), "rows": rows}, indent=1) + "\n"
    target.write_text(text, encoding="utf-8")


@contextmanager
def standing_alone(directory: Path, model: Path) -> Iterator[tuple[Server, RedisProcess]]:
    """A server that goes on without its Redis, and that Redis."""
    (directory / "redis").mkdir()
    redis = RedisProcess(directory / "redis")
    redis.start()
    settings = {"model": str(model), "redis_url": redis.url, "without_redis": "local"}
    try:
        (directory / "server").mkdir()
        with running(directory / "server", variables(settings)) as (server, _):
            yield server, redis
    finally:
        redis.stop()


def measured(
    server: Server, redis: RedisProcess, kind: signal.Signals, count: int = ROUNDS
) -> dict[str, Any]:
    """Seconds from the loss to the first answer, and refusals meanwhile, of some rounds."""
    rounds = [one_round(server, redis, kind) for _ in range(count)]
    seconds = [round(time_s, 3) for time_s, _ in rounds]
    return {
        "rounds": count,
        "first_answer_s": seconds,
        "median_s": statistics.median(seconds),
        "worst_s": max(seconds),
        "refused_most": max(refused for _, refused in rounds),
    }


def one_round(server: Server, redis: RedisProcess, kind: signal.Signals) -> tuple[float, int]:
    """Loses Redis, asks until somebody answers, and gives it back."""
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        ask(client)
        redis.signal(kind)
        start, refused = time.perf_counter(), 0
        while not ask(client):
            refused += 1
        seconds = time.perf_counter() - start
        assert mode(server) == "local", "the answer came through the Redis that was to be lost"
        give_back(redis, kind)
        wait_until(lambda: mode(server) == "shared", 30.0, "the way back")
        wait_until(lambda: ask(client), 30.0, "an answer")
    return seconds, refused


def ask(client: httpx.Client) -> bool:
    """Whether a slate is answered; another outcome than that and 503 is a mistake."""
    code = client.post("/v1/rank", json=BODY).status_code
    assert code in (200, 503), code
    return code == 200


def give_back(redis: RedisProcess, kind: signal.Signals) -> None:
    """Undoes what the signal did."""
    if kind is signal.SIGSTOP:
        redis.signal(signal.SIGCONT)
    else:
        redis.start()


def mode(server: Server) -> str:
    """Where slates go, by the server's metrics."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    [found] = [
        line for line in lines if line.startswith("fairslate_gate_mode{") and line.endswith(" 1.0")
    ]
    return found.partition('mode="')[2].partition('"')[0]


if __name__ == "__main__":
    main()
