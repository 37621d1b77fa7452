"""A worker never holds more than its KV pool, and its steps cost what its engine says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from loadtest.simulation.hardware import A10, LLAMA_3B, Engine, engine
from loadtest.simulation.requests import Names, Request
from loadtest.simulation.worker import Task, Worker

BLOCK = 32


@pytest.fixture
def small() -> Engine:
    return replace(engine(A10, LLAMA_3B, BLOCK), kv_tokens=10 * BLOCK)


def request(names: Names, blocks: int, output: int = 0, cap: int = 0) -> Request:
    return Request(names.take(blocks), 0, output, cap)


def test_only_what_is_not_cached_is_computed(small: Engine) -> None:
    worker, names = Worker(small), Names()
    once = request(names, 3)
    for expected in (3 * BLOCK, 0):
        worker.accept(Task(None, once))
        (task,) = worker.start()
        worker.advance([task])
        worker.finished()
        assert task.extend_tokens == expected


def test_what_does_not_fit_waits_and_keeps_what_is_cached_of_it(small: Engine) -> None:
    worker, names = Worker(small), Names()
    first, second = request(names, 6, output=1, cap=BLOCK), request(names, 6)
    for each in (first, second):
        worker.accept(Task(None, each))
    (started,) = worker.start()
    assert len(worker.waiting) == 1
    worker.advance([started])
    worker.finished()
    assert [task.request for task in worker.start()] == [second]
    assert worker.cache.matched(first.context) == 4


def test_waiting_jobs_let_go_of_the_cache_rather_than_block_each_other(small: Engine) -> None:
    worker, names = Worker(small), Names()
    cached = request(names, 6)
    worker.cache.add(cached.context)
    for each in (request(names, 9), cached):
        worker.accept(Task(None, each))
    assert len(worker.start()) == 1


def test_a_chunk_costs_prefill_and_the_decode_steps_of_whoever_is_left(small: Engine) -> None:
    worker, names = Worker(small), Names()
    for output in (2, 30):
        worker.accept(Task(None, request(names, 1, output, BLOCK)))
    chunk = worker.advance(worker.start())
    attended = 2 * BLOCK * BLOCK // 2
    assert chunk.prefill_ms == pytest.approx(small.prefill_ms(2 * BLOCK, attended))
    read = (33 + 34) + sum(range(33, 43))
    assert chunk.decode_ms == pytest.approx(small.decode_ms(10, 12, read))
    assert [task.steps_left for task in worker.running] == [0, 20]


def test_the_pool_is_never_exceeded_and_empties(small: Engine) -> None:
    worker, names, random = Worker(small), Names(), Random(1)
    prompts = [names.take(blocks) for blocks in (1, 2, 3, 5, 8)]
    for _ in range(500):
        output = random.randint(0, BLOCK)
        produced = names.take(output // BLOCK)
        worker.accept(Task(None, Request(random.choice(prompts), 0, output, BLOCK, produced)))
        worker.advance(worker.start())
        worker.finished()
        assert worker.kv_tokens <= small.kv_tokens
    while not worker.idle:
        worker.advance(worker.start())
        worker.finished()
    assert worker.free_tokens == small.kv_tokens
    assert worker.cache.locked == 0
