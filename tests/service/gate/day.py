"""A simulated day of a million tenants, in some five minutes; keeps what Redis held by the hour.

python -m tests.service.gate.day --json loadtest/results/gate_day.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from loadtest.fresh import conditions
from service.gate.embedded import EmbeddedRedis
from service.gate.store import Store
from tests.service.gate.jobs import build_job
from tests.service.gate.remote import Remote
from tests.service.gate.test_memory import SETTINGS, TICKS_AN_HOUR, live

HOURS = 24
TENANTS_A_TICK = 3_500


def main() -> None:
    """Writes one row an hour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    target: Path = parser.parse_args().json
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedRedis(Path(directory), executable=shutil.which("redis-server"))
        rows = list(hours(server.start()))
        server.stop()
    text = json.dumps({**conditions(), "rows": rows}, indent=1) + "\n"
    target.write_text(text, encoding="utf-8")


def hours(url: str) -> Iterator[dict[str, Any]]:
    """What Redis holds at the end of each hour, after so many tenants came once."""
    client = redis.Redis.from_url(url)
    remote, store = Remote(client, url, "pool", SETTINGS), Store(url, "pool", SETTINGS)
    remote.join("worker")
    remote.submit(build_job("first", "org-0/first"))
    remote.claim("worker", 1, 1)
    for hour in range(HOURS):
        for tick in range(TICKS_AN_HOUR):
            live(remote, store, hour * TICKS_AN_HOUR + tick, TENANTS_A_TICK)
        yield {
            "hour": hour + 1,
            "tenants": (hour + 1) * TICKS_AN_HOUR * TENANTS_A_TICK,
            "keys": client.dbsize(),
            "used_memory_mb": round(client.info("memory")["used_memory"] / 2**20, 1),
        }


if __name__ == "__main__":
    main()
