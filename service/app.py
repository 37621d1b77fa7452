"""Wires the API and the engine into BentoML services. Knows nothing of what a request means."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import bentoml
from starlette.applications import Starlette
from uvicorn.config import HTTP_PROTOCOLS

from models.errors import FairslateError
from service.api_process import ApiProcess
from service.base.config import DEADLINE_CEILING_MS, Settings
from service.edge.departure import Departure, RefusedOnDeparture
from service.edge.metrics_key import MetricsKey
from service.edge.parting_protocol import PartingProtocol, hang_up
from service.edge.routes import http_app
from service.preflight import check_start
from service.process.running_redis import running_redis
from service.process.serving import serving
from service.walk.reception import Reception

# BentoML makes some 300 objects a request for spans that nobody collects; "false" brings them back.
UNTRACED = os.environ.setdefault("OTEL_SDK_DISABLED", "true") == "true"
TRACING = {"excluded_urls": ".*" if UNTRACED else ""}

# Our own 504, with its envelope, comes before BentoML's.
TRAFFIC = {"timeout": DEADLINE_CEILING_MS / 1000 + 5}
LOGGING = {"access": {"enabled": False}}

# BentoML's own series have a label for every path that anybody asked for; ours are at `/metrics`.
METRICS = {"enabled": False}

# Behind the drain: what the engines leave unanswered is refused and read by then.
REFUSALS_SECONDS = 2.0


def engine_workers() -> int:
    """Read before `check_start` can refuse anything, so a bad setting counts as one engine here."""
    try:
        return Settings.from_environment().engine_workers
    except FairslateError:
        return 1


@contextlib.asynccontextmanager
async def open_service(app: Starlette) -> AsyncIterator[None]:
    """Puts what answers calls into `app.state` for as long as the API process serves."""
    settings = Settings.from_environment()
    with running_redis(settings) as urls, serving(Path(settings.state_dir)):
        process = ApiProcess(settings, urls)
        app.state.insight, app.state.reception = process.insight, process.reception
        app.state.ranker, app.state.reasoner = process.ranker, process.reasoner
        app.state.translator = process.translator
        async with process.serving():
            patience_s = settings.drain_ms / 1000 + REFUSALS_SECONDS
            with departure.heeding_sigterm(patience_s, hang_up):
                yield


def door() -> Reception | None:
    """Where the refused are known, unless they are to hear that the server stops."""
    return None if departure.leaving else cast("Reception", api.state.reception)


departure = Departure()
api = http_app(open_service)

# What uvicorn takes where BentoML names no protocol; nothing else there bounds headers.
HTTP_PROTOCOLS["auto"] = cast("str", partial(PartingProtocol, door))


@bentoml.service(workers=engine_workers(), logging=LOGGING, metrics=METRICS)
class EngineService:
    """One engine per process; each takes its work from the gate and answers no calls."""

    def __init__(self) -> None:
        # torch comes in with this import, which an API process and the arbiter must not pay for.
        from service.engines.engine_process import EngineProcess

        self._process = EngineProcess(
            Settings.from_environment(), bentoml.server_context.worker_index
        )

    stop = bentoml.on_shutdown(lambda self: self._process.stop())


@bentoml.asgi_app(api)
@bentoml.service(
    workers=1,
    traffic=TRAFFIC,
    logging=LOGGING,
    metrics=METRICS,
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
outside.add_asgi_middleware(RefusedOnDeparture, departure=departure)
outside.add_asgi_middleware(MetricsKey)
