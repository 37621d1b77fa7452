"""The HTTP edge: bodies, limits, disconnects, envelopes. Knows nothing of what is worked on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Lifespan, Receive, Scope, Send

from models.errors import FairslateError
from service.base.errors import (
    MethodNotAllowedError,
    RouteNotFoundError,
    envelope,
    error_headers,
    error_status,
)
from service.compat.paths import RERANK_PATHS, SCORE_PATHS
from service.edge.event_stream import EventSource, EventStream, Tell, is_acceptable
from service.edge.inbox import Inbox, received, request_identifier
from service.edge.metrics_page import metrics_page
from service.edge.openapi import openapi
from service.walk.insight import Insight
from service.walk.ranking import Ranker
from service.walk.reasoning import Reasoner
from service.walk.reception import Call

logger = logging.getLogger("fairslate.routes")

CLIENT_CLOSED_REQUEST = 499  # nginx' code; nobody is there to read it but the metrics
MAX_ADMIN_BYTES = 1024
BESIDE = "/readyz, /livez, /metrics, /"  # for operators and browsers

Work = Coroutine[Any, Any, Any]  # its JSON


class UnclaimedPath(Convertor[str]):
    """Every path but those of BentoML's own pages, which lie behind this app."""

    regex = r"(?!static_content/).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("unclaimed", UnclaimedPath())


async def rank(request: Request) -> Response:
    """`POST /v1/rank`."""
    return await _worked(request, request.app.state.ranker.rank)


async def rerank(request: Request) -> Response:
    """`POST /v1/rerank`, `/v2/rerank` and `/rerank`: as Cohere, Jina, vLLM and TEI have them."""
    return await _worked(request, request.app.state.translator.rerank)


async def score(request: Request) -> Response:
    """`POST /v1/score` and `/score`: as SGLang and vLLM have them."""
    return await _worked(request, request.app.state.translator.score)


async def contexts(request: Request) -> Response:
    """`POST /v1/contexts`: reads a context ahead of the slates that will follow it."""
    return await _worked(request, request.app.state.ranker.prewarm)


async def reason(request: Request) -> Response:
    """`POST /v1/reason`: a sentence for each candidate, as a stream to whom that is acceptable."""
    reasoner: Reasoner | None = request.app.state.reasoner
    if reasoner is None:
        missing = RouteNotFoundError("this server has no reasoner; set FAIRSLATE_REASONER")
        return error_response(missing, request_identifier(request))
    if is_acceptable(request.headers.get("accept", "")):
        return await _streamed(request, reasoner.reason)
    return await _worked(request, reasoner.reason)


async def models(request: Request) -> Response:
    """`GET /v1/models`: what is served, and within which limits."""
    ranker: Ranker = request.app.state.ranker
    reasoner: Reasoner | None = request.app.state.reasoner
    served = {"models": [ranker.describe()], "reasoner": reasoner and reasoner.describe()}
    return _json(served, 200, request_identifier(request))


async def docs(request: Request) -> Response:
    """`GET /docs.json`: the OpenAPI document that BentoML's index page shows."""
    return _json(openapi(_reasons(request)), 200, request_identifier(request))


async def queue(request: Request) -> Response:
    """`GET /v1/queue/{request_id}`: why a request in flight waits."""
    insight: Insight = request.app.state.insight
    authorization, asked = request.headers.get("authorization"), request.path_params["asked"]
    return await _answered(request, insight.explain(authorization, asked))


async def policy(request: Request) -> Response:
    """`GET /admin/policy`, and `POST`: the operator's call that switches the pool's policy."""
    insight: Insight = request.app.state.insight
    authorization = request.headers.get("authorization")
    if request.method != "POST":
        return await _answered(request, insight.policy(authorization))
    inbox = Inbox(request, MAX_ADMIN_BYTES)
    return await _answered(request, insight.configure(authorization, inbox.read_body))


ROUTES = (
    Route("/v1/rank", rank, methods=["POST"]),
    Route("/v1/contexts", contexts, methods=["POST"]),
    Route("/v1/reason", reason, methods=["POST"]),
    *(Route(path, rerank, methods=["POST"]) for path in RERANK_PATHS),
    *(Route(path, score, methods=["POST"]) for path in SCORE_PATHS),
    Route("/v1/models", models, methods=["GET"]),
    Route("/v1/queue/{asked:path}", queue, methods=["GET"]),
    Route("/docs.json", docs, methods=["GET"]),
)
OPERATOR_ROUTES = (
    Route("/admin/policy", policy, methods=["GET", "POST"]),
    Route("/metrics", metrics_page, methods=["GET"]),
)


class Unclaimed:
    """Answers paths and methods that nobody serves with the envelope, whatever the method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = error_response(_refusal(request), request_identifier(request))
        await response(scope, receive, send)


def http_app(lifespan: Lifespan[Starlette]) -> Starlette:
    """The app that the BentoML service mounts; `lifespan` puts what answers into `app.state`."""
    unclaimed = Route("/{path:unclaimed}", Unclaimed())
    return Starlette(routes=[*ROUTES, *OPERATOR_ROUTES, unclaimed], lifespan=lifespan)


def error_response(error: Exception, request_id: str) -> Response:
    """The envelope with the status and headers of the error; logs what the client may not see."""
    body = _refused(request_id, error)
    return _json(body, error_status(error), request_id, error_headers(error))


def _refused(request_id: str, error: Exception) -> dict[str, Any]:
    if not isinstance(error, FairslateError):
        logger.error("request %s failed", request_id, exc_info=error)
    return envelope(error, request_id)


async def _worked(request: Request, work: Callable[[Call], Work]) -> Response:
    """The answer of a call that engines work for, and that ends when its client leaves."""
    call, inbox = received(request, request.app.state.ranker.settings.max_body_bytes)
    request_id = call.request_id
    try:
        answer = await _unless_gone(work(call), inbox)
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Exception as error:
        return error_response(error, request_id)
    return _json(answer, 200, request_id)


async def _streamed(request: Request, work: Callable[[Call, Tell], Work]) -> Response:
    """The same as events, unless it is refused before there is one."""
    call, inbox = received(request, request.app.state.ranker.settings.max_body_bytes)
    source = EventSource(partial(work, call), partial(_refused, call.request_id))
    try:
        await source.wait(inbox.body_read(), inbox.client_gone())
    except BaseException as error:
        await source.close()
        if isinstance(error, ClientDisconnect):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if isinstance(error, Exception):
            return error_response(error, call.request_id)
        raise
    return EventStream(source, {"x-request-id": call.request_id})


async def _unless_gone(work: Work, inbox: Inbox) -> Any:
    """The answer, or ClientDisconnect; however this ends, neither task outlives it."""
    ranking = asyncio.create_task(work)
    leaving = asyncio.create_task(inbox.client_gone())
    try:
        await asyncio.wait({ranking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if ranking.done():
            return ranking.result()
        raise ClientDisconnect
    finally:
        ranking.cancel()
        leaving.cancel()
        await asyncio.gather(ranking, leaving, return_exceptions=True)
        # An error's traceback holds this frame: with the task that holds the error it would be a
        # circle, and a thousand refusals a stop of all requests for garbage collection.
        del ranking, leaving


async def _answered(request: Request, work: Work) -> Response:
    """The answer of a call that is short and changes nothing when its client leaves."""
    request_id = request_identifier(request)
    try:
        return _json(await work, 200, request_id)
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Exception as error:
        return error_response(error, request_id)


def _refusal(request: Request) -> FairslateError:
    path = request.url.path
    served = [route for route in ROUTES if route.endpoint is not reason or _reasons(request)]
    for route in (*served, *OPERATOR_ROUTES):
        if route.path_regex.match(path):
            allow = ", ".join(sorted((route.methods or set()) - {"HEAD"}))
            return MethodNotAllowedError(f"{path} takes {allow}, not {request.method}", allow=allow)
    known = ", ".join(route.path.replace("{asked:path}", "REQUEST_ID") for route in served)
    return RouteNotFoundError(f"{path} is not a route; use one of: {known}, {BESIDE}")


def _reasons(request: Request) -> bool:
    return request.app.state.reasoner is not None


def _json(
    content: Any,
    status: int,
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return JSONResponse(content, status, {"x-request-id": request_id, **(headers or {})})
