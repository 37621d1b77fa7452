"""A whole engine on a CPU and a real Redis: joins warm, answers, leaves when told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from models.directory import ModelDirectory, load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import CatalogueError
from service.base.config import Settings
from service.engines.engine_process import EngineProcess, warm_engine, warm_up_job, worker_name
from service.gate.embedded import EmbeddedRedis
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import GateStats
from service.jobs.jobs import JobResult, decode_result
from service.process.served_models import pool_name
from service.slates.slate import Errand, Slate, slate_jobs
from service.tenants.tenants import OPEN_TENANT
from tests.e2e.server import wait_until

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("own_garbage")
TEXTS = ["Roofer. Duties: inspect roofs.", "Software developer.", "Teacher."]
ENGINE = """
import sys
from service.base.config import Settings
from service.engines.engine_process import EngineProcess
process = EngineProcess(Settings.from_environment(), 2)
print("serves", flush=True)
sys.stdin.readline()
process.stop()
"""
API = """
import sys
from pathlib import Path
from service.process.serving import serving
with serving(Path(sys.argv[1])):
    print("serves", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path) -> Settings:
    """Of a server with a Redis of its own and no reasoner."""
    return Settings(
        model=str(tiny_model_dir), reasoner="", state_dir=str(tmp_path / "state"), drain_ms=0
    )


def stats_at(url: str, directory: ModelDirectory) -> GateStats:
    gate = WorkerGate(url, pool_name(directory), Settings().gate, "observer")
    try:
        return gate.stats()
    finally:
        gate.close()


async def answered(
    url: str, directory: ModelDirectory, texts: Sequence[str], name: str = "slate"
) -> JobResult:
    """One slate through the gate."""
    gate = AsyncGate(url, pool_name(directory), Settings().gate)
    slate = encoded(directory, texts)
    errand = Errand(name, OPEN_TENANT.path(), 0, 30_000, "asker")
    [job] = slate_jobs(slate, errand, directory.card.block_size, token_budget=1536)
    await gate.submit(job)
    async with asyncio.timeout(30.0):
        while not (replies := await gate.next_replies("asker")):
            pass
    await gate.close()
    result = decode_result(replies[0].result)
    assert isinstance(result, JobResult), result
    return result


def encoded(directory: ModelDirectory, texts: Sequence[str]) -> Slate:
    prompt = directory.prompt
    context = prompt.encode_context("Headline: Nurse.")
    hashes = prompt.block_hashes(context.ids, directory.card.block_size)
    return Slate(context, hashes, tuple(prompt.encode_candidates(texts)))


@contextmanager
def child(program: str, *arguments: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A process that serves until it is sent a line; its siblings have the same parent."""
    given = {f"FAIRSLATE_{name.upper()}": str(value) for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | given,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "serves\n"
            yield process
        finally:
            process.kill()


def test_it_joins_warm_answers_as_the_bare_engine_does_and_leaves(
    settings: Settings, tiny_directory: ModelDirectory
) -> None:
    process = EngineProcess(settings)
    url = EmbeddedRedis(Path(settings.state_dir)).url
    try:
        wait_until(lambda: bool(stats_at(url, tiny_directory).workers), 10.0, "the engine")
        assert stats_at(url, tiny_directory).workers.keys() == {worker_name(None)}
        result = asyncio.run(answered(url, tiny_directory, TEXTS))
    finally:
        process.stop()
    slate = encoded(tiny_directory, TEXTS)
    candidates = tuple(candidate.ids for candidate in slate.candidates)
    bare = FairslateEngine(tiny_directory, settings.cache_bytes, backend="auto", dtype="auto")
    [scores] = bare.score([ScoreJob(slate.context.ids, slate.block_hashes, candidates)])
    assert result.rows == [pytest.approx((logit,), abs=0.05) for logit in scores.raw_logits]
    redis = EmbeddedRedis(Path(settings.state_dir))
    assert stats_at(redis.start(), tiny_directory).workers == {}
    redis.stop()


def test_it_serves_the_shared_redis_and_the_one_that_stands_in_for_it(
    settings: Settings, tiny_directory: ModelDirectory, service_redis_url: str
) -> None:
    both = asdict(settings) | {"redis_url": service_redis_url, "without_redis": "local"}
    process = EngineProcess(Settings(**both), 3)
    urls = [service_redis_url, EmbeddedRedis(Path(settings.state_dir)).url]
    try:
        rows = [asyncio.run(answered(url, tiny_directory, TEXTS)).rows for url in urls]
        workers = [stats_at(url, tiny_directory).workers.keys() for url in urls]
    finally:
        process.stop()
    assert rows[0] == [pytest.approx(row, abs=0.05) for row in rows[1]]
    assert workers == [{worker_name(3)}] * 2
    assert stats_at(service_redis_url, tiny_directory).workers == {}


@contextmanager
def server_of(
    settings: Settings, url: str, drain_ms: int
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """An API process and an engine of one server."""
    given = {"redis_url": url, "model": settings.model, "reasoner": ""}
    given |= {"state_dir": settings.state_dir, "drain_ms": str(drain_ms)}
    with child(API, settings.state_dir) as api, child(ENGINE, **given) as engine:
        yield api, engine


@pytest.mark.timeout(120)
def test_a_stop_waits_for_the_servers_api_processes_and_the_jobs_they_sent(
    settings: Settings, tiny_directory: ModelDirectory, service_redis_url: str
) -> None:
    with server_of(settings, service_redis_url, drain_ms=60000) as (api, engine):
        assert engine.stdin
        engine.stdin.write("\n")
        engine.stdin.flush()
        for number in range(20):  # for long enough to end, had it not to wait
            asyncio.run(answered(service_redis_url, tiny_directory, TEXTS, f"slate-{number}"))
        name = f"{socket.gethostname()}-{os.getpid()}-2"
        assert stats_at(service_redis_url, tiny_directory).workers.keys() == {name}
        assert engine.poll() is None
        api.communicate("\n")
        _, told = engine.communicate()
        assert engine.returncode == 0, told
        assert "FAIRSLATE_DRAIN_MS is over" not in told
    assert stats_at(service_redis_url, tiny_directory).workers == {}


@pytest.mark.timeout(120)
def test_a_stop_waits_no_longer_than_it_may(
    settings: Settings, tiny_directory: ModelDirectory, service_redis_url: str
) -> None:
    with server_of(settings, service_redis_url, drain_ms=0) as (api, engine):
        _, told = engine.communicate("\n")
        assert engine.returncode == 0, told
        assert api.poll() is None
    assert "FAIRSLATE_DRAIN_MS is over" in told
    assert stats_at(service_redis_url, tiny_directory).workers == {}


def test_the_warm_up_is_a_slate_that_the_model_can_score(tiny_directory: ModelDirectory) -> None:
    job = warm_up_job(tiny_directory)
    assert len(job.candidates) == len(set(job.candidates)) == 2
    assert job.context_ids
    assert len(job.block_hashes) == -(-len(job.context_ids) // tiny_directory.card.block_size)


def test_a_warm_engine_has_scored_and_written(
    settings: Settings, tiny_directory: ModelDirectory
) -> None:
    assert settings.reasoner == ""
    reasoner = load_model_directory(Path(Settings().reasoner))
    engine = warm_engine(settings, tiny_directory, None, reasoner)
    job = warm_up_job(tiny_directory)
    [again] = engine.score([job])
    assert again.cached_tokens == len(job.context_ids)  # it was read before


def test_what_this_machine_cannot_do_is_told_before_anything_joins(
    settings: Settings, tiny_directory: ModelDirectory, tmp_path: Path
) -> None:
    lost = Settings(**asdict(settings) | {"catalogue": str(tmp_path / "no.catalogue")})
    with pytest.raises(CatalogueError):
        EngineProcess(lost)
    assert not Path(settings.state_dir).exists()


def test_engines_of_one_server_have_names_of_their_own_that_outlive_a_crash() -> None:
    assert worker_name(None) == worker_name(1) != worker_name(2)
    assert worker_name(2).endswith(f"-{os.getppid()}-2")
