"""A server that is told to stop leaves its pool in order, in the Redis that it runs itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.directory import ModelDirectory
from service.config import Settings
from service.gate.embedded import EmbeddedRedis
from service.gate.gate import WorkerGate
from tests.e2e.server import running_server, served_pool


@pytest.mark.long
def test_the_engine_has_left_the_pool_before_redis_ends(
    tmp_path: Path, tiny_model_dir: Path, tiny_directory: ModelDirectory
) -> None:
    with running_server(tmp_path, model=str(tiny_model_dir)) as server:
        server.process.terminate()
        assert server.process.wait(timeout=30) is not None
    redis = EmbeddedRedis(tmp_path / "redis")
    url = redis.start()
    observer = WorkerGate(url, served_pool(tiny_directory), Settings().gate, "observer")
    stats = observer.stats()
    observer.close()
    redis.stop()
    assert stats.now_ms > 0
    assert stats.workers == {}
