"""Which Redis servers a process works through: the operator's, its own, or both."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from service.base.config import Settings
from service.process.running_redis import running_redis

FAR = "redis://far:6379/0"


def test_without_a_configured_one_its_own_runs_while_the_block_lasts(tmp_path: Path) -> None:
    with running_redis(Settings(state_dir=str(tmp_path))) as [url]:
        client = redis.Redis.from_url(url)
        assert client.ping()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    client.close()


def test_a_configured_one_is_all_there_is_unless_its_own_may_have_to_serve(tmp_path: Path) -> None:
    settings = Settings(redis_url=FAR, state_dir=str(tmp_path), without_redis="refuse")
    with running_redis(settings) as urls:
        assert urls == [FAR]
    assert not any(tmp_path.iterdir())
    settings = Settings(redis_url=FAR, state_dir=str(tmp_path), without_redis="local")
    with running_redis(settings) as [first, second]:
        assert first == FAR
        client = redis.Redis.from_url(second)
        assert client.ping()
        client.close()
