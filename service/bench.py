"""Compares a lone tenant's throughput through the gate with the bare engine's. Knows no HTTP.

    python -m service.bench --json loadtest/results/lone_tenant.json

Slates of 24 fresh postings wait in the gate and the engine's loop serves them all; answers are read
by a process of its own, as the service's are. Right behind, the bare engine scores the very same
batches from an empty cache, with nothing between them and nothing beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels.kept.conditions import conditions
from models.directory import ModelDirectory, load_model_directory
from models.engines.base import CacheEvents, Engine, JobScores, ScoreJob
from models.engines.fairslate import FairslateEngine
from service.base.config import Settings
from service.bodies.schemas import Candidate, RankRequest
from service.engines.engine import EngineLoop
from service.engines.joint_engine import JointEngine
from service.gate.embedded import EmbeddedRedis
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Job
from service.slates.slate import Errand, encode_slate, slate_jobs
from service.tenants.tenants import OPEN_TENANT

SLATE = 24
REPLY_TO = "bench"
DEADLINE_MS = 600_000


class RecordingEngine:
    """An engine that keeps the batches it scored, and adds up the seconds that took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.block_size = engine.block_size
        self.description = engine.description
        self.batches: list[Sequence[ScoreJob]] = []
        self.seconds = 0.0

    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        self.batches.append(jobs)
        started = time.perf_counter()
        scores = self._engine.score(jobs)
        self.seconds += time.perf_counter() - started
        return scores

    def check(self, job: ScoreJob) -> None:
        self._engine.check(job)

    def drain_cache_events(self) -> CacheEvents:
        return self._engine.drain_cache_events()

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._engine.drain_label_mass()


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds for the same slates: through the gate, in the engine meanwhile, and bare."""

    gated: float
    scoring: float
    bare: float


def main() -> None:
    """Prints the row, and keeps it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slates", type=int, default=200, help="of one round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None, help="where the row is kept")
    options = parser.parse_args()
    settings = replace(Settings.from_environment(), threads=1)
    with tempfile.TemporaryDirectory() as state:
        server = EmbeddedRedis(Path(state))
        row = measure(settings, server.start(), options.slates, options.rounds)
        server.stop()
    text = json.dumps(conditions() | row, indent=2) + "\n"
    print(text, end="")
    if options.json:
        options.json.write_text(text, encoding="utf-8")


def measure(settings: Settings, url: str, slates: int, rounds: int) -> dict[str, Any]:
    """Slates per second with and without the gate, medians over the rounds."""
    directory = load_model_directory(settings.model_path)
    found = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as reader:
        for seed in range(rounds):
            jobs = draw_jobs(directory, settings, slates, seed)
            engine = RecordingEngine(new_engine(settings, directory))
            gated = serve(settings, engine, url, f"bench-{seed}", jobs, reader)
            bare = replay(new_engine(settings, directory), engine.batches)
            found.append(Round(gated, engine.seconds, bare))
    shares = [one.bare / one.gated for one in found]
    return {
        "slates_per_s_gated": statistics.median(slates / one.gated for one in found),
        "slates_per_s_bare": statistics.median(slates / one.bare for one in found),
        "share": statistics.median(shares),
        "shares": shares,
        "scoring_share": statistics.median(one.scoring / one.gated for one in found),
        "slate": SLATE,
        "token_budget": settings.token_budget,
        "quantum": settings.quantum,
        "slates": slates,
    }


def serve(
    settings: Settings,
    engine: Engine,
    url: str,
    pool: str,
    jobs: Sequence[Job],
    reader: Executor,
) -> float:
    """Seconds in which the engine's loop serves all jobs."""
    gate = WorkerGate(url, pool, settings.gate, "worker")
    loop = EngineLoop(JointEngine(engine), gate, settings.token_budget, settings.max_batch_jobs)
    asyncio.run(submit(settings, url, pool, jobs))
    reader.submit(read, settings, url, pool, 0).result()  # by now it is there
    thread = threading.Thread(target=loop.run)
    started = time.perf_counter()
    thread.start()
    reader.submit(read, settings, url, pool, len(jobs)).result()
    seconds = time.perf_counter() - started
    loop.stop()
    thread.join()
    gate.close()
    return seconds


def replay(engine: Engine, batches: Sequence[Sequence[ScoreJob]]) -> float:
    """Seconds in which an engine scores batches, one right behind the other."""
    started = time.perf_counter()
    for batch in batches:
        engine.score(batch)
    return time.perf_counter() - started


def new_engine(settings: Settings, directory: ModelDirectory) -> FairslateEngine:
    """An engine as it serves, with an empty cache, that has scored one slate already."""
    engine = FairslateEngine(
        directory,
        settings.cache_bytes,
        settings.threads,
        settings.device,
        dtype=settings.dtype,
        backend="auto",
    )
    engine.score([ScoreJob((1,), ("warm-up",), ((1, 2),))])
    return engine


async def submit(settings: Settings, url: str, pool: str, jobs: Sequence[Job]) -> None:
    """Queues all jobs."""
    gate = AsyncGate(url, pool, settings.gate)
    for job in jobs:
        await gate.submit(job)
    await gate.close()


def read(settings: Settings, url: str, pool: str, count: int) -> None:
    """The work of the reading process."""
    asyncio.run(collect(settings, url, pool, count))


async def collect(settings: Settings, url: str, pool: str, count: int) -> None:
    """Waits until so many jobs are answered."""
    gate = AsyncGate(url, pool, settings.gate)
    while count > 0:
        count -= len(await gate.next_replies(REPLY_TO))
    await gate.close()


def draw_jobs(directory: ModelDirectory, settings: Settings, slates: int, seed: int) -> list[Job]:
    """Slates of random postings, each for one of the data's members."""
    data = settings.model_path / "onet_jobs"
    postings = [row["text"] for row in read_rows(data / "items.jsonl.gz")]
    members = [row["prefix"] for row in read_rows(data / "test.jsonl.gz")]
    draws, jobs = random.Random(seed), []
    for number in range(slates):
        texts = draws.sample(postings, SLATE)
        candidates = [Candidate(id=str(index), text=text) for index, text in enumerate(texts)]
        request = RankRequest(context=draws.choice(members), candidates=candidates)
        slate = encode_slate(request, directory.card, directory.prompt)
        errand = Errand(f"slate-{number}", OPEN_TENANT.path(), 0, DEADLINE_MS, REPLY_TO)
        jobs += slate_jobs(slate, errand, directory.card.block_size, settings.token_budget)
    return jobs


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
