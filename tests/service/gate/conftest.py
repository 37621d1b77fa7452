"""Real Redis servers, one per available version, and random jobs for the gate's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import redis

from service.gate.embedded import EmbeddedRedis
from service.gate.job import Job

DEBIAN = shutil.which("redis-server")
BLOCK_SIZE = 16


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(None, id="redis-embedded"),
        pytest.param(
            DEBIAN,
            id="redis-debian",
            marks=pytest.mark.skipif(DEBIAN is None, reason="no redis-server is installed"),
        ),
    ],
)
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"), executable=request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> str:
    """A server with nothing in it."""
    return redis_server.url


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Job]:
    """Builds a job; `context` is a path in a tree of contexts, one letter per block."""

    def build(
        job_id: str,
        tenant: str = "tenant",
        context: str = "ab",
        *,
        weight: int = 1,
        short_by: int = 0,
        candidate_tokens: int = 10,
        deadline_ms: int = 60_000,
        payload: bytes = b"",
    ) -> Job:
        paths = [context[: depth + 1] for depth in range(len(context))]
        hashes = [path.ljust(8, "_") for path in paths]
        if short_by and context:
            hashes[-1] = f"{context}~".ljust(8, "_")  # other tokens, so another hash
        return Job(
            job_id=job_id,
            tenant=tenant,
            weight=weight,
            context_hashes=tuple(hashes),
            block_size=BLOCK_SIZE,
            context_tokens=max(0, len(context) * BLOCK_SIZE - short_by),
            candidate_tokens=candidate_tokens,
            deadline_ms=deadline_ms,
            reply_to="api",
            payload=payload or job_id.encode(),
        )

    return build


@pytest.fixture(scope="session")
def random_job(make_job: Callable[..., Job]) -> Callable[[Random, str], Job]:
    """Draws a job of one of four tenants, weights 1 to 4, over a small tree of contexts."""

    def draw(random: Random, job_id: str) -> Job:
        tenant = random.randrange(4)
        return make_job(
            job_id,
            f"tenant-{tenant}",
            "".join(random.choices("abc", k=random.randrange(5))),
            weight=tenant + 1,
            short_by=random.choice([0, 5]),
            candidate_tokens=random.choice([0, 1, 7, 40, 300]),
            deadline_ms=random.choice([0, 1, 5, 60_000, 60_000, 60_000, 60_000]),
        )

    return draw
