"""What a bench asks of Redis beside the gate's verbs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from service.gate import wire
from service.gate.bench_store import BenchStore
from tests.service.gate.client import POOL, SETTINGS


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str) -> Iterator[BenchStore]:
    before = redis_client.config_get("slowlog-*")
    store = BenchStore(redis_url, POOL, SETTINGS)
    yield store
    store.close()
    for name, value in before.items():
        redis_client.config_set(name, value)


def test_it_tells_what_redis_says_of_itself(redis_client: redis.Redis, store: BenchStore) -> None:
    assert store.info()["process_id"] == redis_client.info("server")["process_id"]


def test_calls_are_noted_by_verb_from_then_on(store: BenchStore) -> None:
    store.note_slow_calls(0)
    store.call("join", ["earlier"])
    store.note_slow_calls(0)
    for _ in range(2):
        store.call("claim", wire.claim_arguments("worker", 1, 1))
    times = store.script_times_ms(["join", "claim"])
    assert times["join"] == []
    assert len(times["claim"]) == 2
    assert min(times["claim"]) > 0
    assert set(times["claim"]) <= set(store.slow_calls_ms())


def test_only_what_takes_longer_is_noted(store: BenchStore) -> None:
    store.note_slow_calls(60_000)
    store.call("claim", wire.claim_arguments("worker", 1, 1))
    assert store.slow_calls_ms() == []
