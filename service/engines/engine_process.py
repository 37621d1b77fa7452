"""Loads the engine and runs its threads in this process. Knows nothing of the API or of BentoML."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from models.catalogue import Catalogue
from models.directory import ModelDirectory, load_model_directory
from models.engines.base import ReasonJob, ScoreJob
from models.engines.cpu_threads import claim_cpus
from models.engines.fairslate import FairslateEngine
from models.engines.reason_writer import ReasonWriter
from models.reasons.lattice import Lattice
from service.base.config import Settings
from service.engines.engine import EngineLoop
from service.engines.joint_engine import JointEngine, PoolEngine
from service.engines.kernel_check import check_kernels
from service.engines.shared_engine import SharedEngine
from service.gate.gate import WorkerGate
from service.process.garbage_collection import spare_collector
from service.process.running_redis import running_redis
from service.process.served_models import open_catalogue, open_reasoner, pool_name
from service.process.serving import outlast_serving
from service.process.supervision import or_exit

logger = logging.getLogger("fairslate.engine")

STOP_SECONDS = 10.0


class EngineProcess:
    """Serves from construction to `stop`; its model is loaded and warm before it joins the pool.

    index: tells this process from the server's other engines, and is the same after a restart.
    """

    def __init__(self, settings: Settings, index: int | None = None) -> None:
        directory = load_model_directory(settings.model_path)
        catalogue = open_catalogue(settings, directory)
        if settings.threads:
            claim_cpus((index or 1) - 1, settings.threads)
        reasoner = open_reasoner(settings)
        engine = warm_engine(settings, directory, catalogue, reasoner)
        logger.info("the engine computes in %s", dict(engine.description))
        spare_collector()
        self._drain_s = settings.drain_ms / 1000
        self._state_dir = Path(settings.state_dir)
        self._resources = contextlib.ExitStack()
        urls = self._resources.enter_context(running_redis(settings))
        views: Sequence[PoolEngine] = [engine]
        if urls[1:]:
            views = SharedEngine(engine, len(urls)).views
        self._loops = []
        for url, view in zip(urls, views, strict=True):
            name = pool_name(directory, catalogue, reasoner)
            gate = WorkerGate(url, name, settings.gate, worker_name(index))
            self._resources.callback(gate.close)
            loop = EngineLoop(view, gate, settings.token_budget, settings.max_batch_jobs)
            self._loops.append(loop)
        self._threads = [
            threading.Thread(target=or_exit(target), name=target.__name__, daemon=True)
            for loop in self._loops
            for target in (loop.run, loop.keep)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Goes on until this server's API processes have their answers, or the patience is over.

        Then ends after the batch in hand; the pool's other engines take the rest.
        """
        if not outlast_serving(self._state_dir, self._drain_s):
            logger.warning("stops before all requests are answered; FAIRSLATE_DRAIN_MS is over")
        for loop in self._loops:
            loop.stop()
        patience_ends = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))
        self._resources.close()


def warm_engine(
    settings: Settings,
    directory: ModelDirectory,
    catalogue: Catalogue | None,
    reasoner: ModelDirectory | None,
) -> JointEngine:
    """Loaded, and having scored and written once, with kernels that were found right.

    Raises FairslateError for what this machine cannot do.
    """
    check_kernels(settings)
    scorer = FairslateEngine(
        directory,
        settings.cache_bytes,
        settings.threads or None,
        settings.device,
        dtype=settings.dtype,
        backend="auto",
        deterministic=bool(settings.deterministic),
        catalogue=catalogue,
    )
    scorer.score([warm_up_job(directory)])
    return JointEngine(scorer, warm_writer(settings, reasoner) if reasoner else None)


def warm_writer(settings: Settings, reasoner: ModelDirectory) -> ReasonWriter:
    """Loaded, and having written once."""
    writer = ReasonWriter.from_directory(reasoner, settings.reasoner_cache_bytes)
    warm_up = warm_up_job(reasoner)
    choice = Lattice((((0, 1), (1, 1)), ()))
    writer.write(
        [ReasonJob(warm_up.context_ids, warm_up.block_hashes, warm_up.candidates[0], choice)]
    )
    return writer


def worker_name(index: int | None) -> str:
    """The same for the process that BentoML starts after a crash, which then takes over its jobs.

    The parent is BentoML's arbiter, so two servers on one machine never share a name.
    """
    return f"{socket.gethostname()}-{os.getppid()}-{index or 1}"


def warm_up_job(directory: ModelDirectory) -> ScoreJob:
    """A job that touches every code path of a forward pass once, so that no client waits for it."""
    prompt = directory.prompt
    context = prompt.encode_context("warm-up").ids
    candidates = tuple(item.ids for item in prompt.encode_candidates(["first", "second"]))
    return ScoreJob(context, prompt.block_hashes(context, directory.card.block_size), candidates)
