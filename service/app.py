"""Wires the API and the engine into BentoML services. Knows nothing of what a request means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import bentoml
from starlette.applications import Starlette

import kernels
import models
import service
from models.directory import load_model_directory
from models.errors import FairslateError
from service.config import DEADLINE_CEILING_MS, Settings, pin_paths
from service.dispatch import Dispatcher
from service.engine_board import EngineBoard, calibrated_label_mass
from service.fallback import Fallback
from service.gate.gate import AsyncGate
from service.gate.job import GateStats
from service.insight import Insight
from service.ledgers import Ledgers
from service.metrics import Metrics
from service.metrics_key import MetricsKey
from service.processes import (
    Housekeeper,
    check_packages,
    open_catalogue,
    open_reasoner,
    pool_name,
    run_or_exit,
    running_redis,
    spare_collector,
    try_engine,
)
from service.ranking import Ranker
from service.reasoning import Reasoner
from service.reception import Reception
from service.routes import http_app
from service.tenants_file import load_tenants
from service.unread import RefusedUnread

# BentoML makes some 300 objects a request for spans that nobody collects; "false" brings them back.
UNTRACED = os.environ.setdefault("OTEL_SDK_DISABLED", "true") == "true"
TRACING = {"excluded_urls": ".*" if UNTRACED else ""}

# Our own 504, with its envelope, comes before BentoML's.
TRAFFIC = {"timeout": DEADLINE_CEILING_MS / 1000 + 5}
LOGGING = {"access": {"enabled": False}}


def engine_workers() -> int:
    """Read before `check_start` can refuse anything, so a bad setting counts as one engine here."""
    try:
        return Settings.from_environment().engine_workers
    except FairslateError:
        return 1


def check_start() -> None:
    """Ends `bentoml serve` before it starts any process when no start could succeed."""
    try:
        check_packages(kernels, models, service)
        pin_paths()
        settings = Settings.from_environment()
        load_tenants(settings.tenants_file)
        open_catalogue(settings, load_model_directory(settings.model_path))
        open_reasoner(settings)
        try_engine(settings)
    except FairslateError as error:
        sys.exit(f"fairslate refuses to start: {error}")


@contextlib.asynccontextmanager
async def open_service(app: Starlette) -> AsyncIterator[None]:
    """Puts what answers calls into `app.state` for as long as the API process serves."""
    settings = Settings.from_environment()
    directory = load_model_directory(settings.model_path)
    catalogue, reasoner = open_catalogue(settings, directory), open_reasoner(settings)
    tenants = load_tenants(settings.tenants_file)
    with running_redis(settings) as urls:
        metrics = Metrics(tenants.all, settings.gate.refill)
        housekeeper = Housekeeper()
        board = EngineBoard(calibrated_label_mass(directory.card))

        def observe(stats: GateStats) -> None:
            metrics.observe(stats)
            board.forget_all_but(stats.workers)

        name = pool_name(directory, catalogue, reasoner)
        ledgers = Ledgers(observe, lambda: gateway.side)
        reply_to = uuid.uuid4().hex
        gates = [AsyncGate(url, name, settings.gate) for url in urls]
        dispatchers = [
            Dispatcher(
                gate,
                ledgers.of(side),
                lambda _: housekeeper.tidy(gateway.in_flight),
                metrics.nodes,
                reply_to,
            )
            for side, gate in enumerate(gates)
        ]
        gateway = Fallback(*dispatchers, show=metrics.show_mode)
        app.state.insight = Insight(settings, tenants, gateway)
        app.state.reception = reception = Reception(
            settings, tenants, gateway, app.state.insight, metrics, board
        )
        app.state.ranker = Ranker(reception, directory.card, directory.prompt, catalogue)
        app.state.reasoner = reasoner and Reasoner(reception, reasoner.card, reasoner.prompt)
        tasks = [run_or_exit(loop) for loop in gateway.loops()]
        spare_collector()
        housekeeper.take_over()
        yield
        gateway.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.finish()
        for gate in gates:
            await gate.close()


api = http_app(open_service)


@bentoml.service(workers=engine_workers(), logging=LOGGING)
class EngineService:
    """One engine per process; each takes its work from the gate and answers no calls."""

    def __init__(self) -> None:
        # torch comes in with this import, which an API process and the arbiter must not pay for.
        from service.engine_process import EngineProcess

        self._process = EngineProcess(
            Settings.from_environment(), bentoml.server_context.worker_index
        )

    stop = bentoml.on_shutdown(lambda self: self._process.stop())


@bentoml.asgi_app(api)
@bentoml.service(
    workers=1,
    traffic=TRAFFIC,
    logging=LOGGING,
    tracing=TRACING,
    runner_probe={"enabled": False},  # readiness asks the gate who is alive, not BentoML
)
class RankingService:
    """Ranks slates of candidates for a member or job context, and says why one fits."""

    # Only so that `bentoml serve` starts engines; calls through it fail under load.
    engine = bentoml.depends(EngineService)

    check = bentoml.on_deployment(check_start)

    async def __is_ready__(self) -> bool:
        reception: Reception = api.state.reception
        return await reception.ready()


outside = cast("Any", RankingService)  # the decorators hide what it is
outside.add_asgi_middleware(MetricsKey)
outside.add_asgi_middleware(RefusedUnread, state=api.state)
