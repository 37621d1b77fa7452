"""A Redis that died while it wrote its append-only file comes back with books that agree."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.service.gate.audit import audit
from tests.service.gate.client import POOL
from tests.service.gate.jobs import build_job
from tests.service.gate.load import finish, loading
from tests.service.gate.redis_servers import RedisServer, running

CUTS = 8
LONGEST_CUT = 3_000  # bytes; one call writes some hundreds


def tear(directory: Path, count: int) -> None:
    """Cuts the end off the file that was written last."""
    logs = [*directory.glob("**/*.incr.aof"), *directory.glob("appendonly.aof")]
    last = max(logs, key=lambda path: path.stat().st_mtime_ns)
    with last.open("r+b") as log:
        log.truncate(last.stat().st_size - count)


@pytest.mark.timeout(120)
def test_no_call_is_half_done_wherever_the_log_was_torn(tmp_path: Path) -> None:
    server, random = RedisServer(tmp_path, {"appendfsync": "no"}), Random(0)
    with running(server):
        with loading(server.url) as load:
            load.wait_for(100)
        for number in range(50):
            load.api.submit(build_job(f"last-{number}", f"acme/tenant-{number % 5}", "abc"))
        load.worker.claim(1_000, 8)
        for _ in range(CUTS):
            server.kill()
            tear(tmp_path, random.randrange(1, LONGEST_CUT))
            server.start()
            audit(server.client(), POOL)
        replies, _cost = finish(server.url)
        audit(server.client(), POOL)
        assert set(replies.values()) == {1}
