"""The OpenAPI document of the native API, from the pydantic models. Knows nothing of handlers."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from service.bodies.schemas import (
    ContextAnswer,
    ContextRequest,
    ErrorEnvelope,
    PolicyRequest,
    QueueAnswer,
    RankAnswer,
    RankRequest,
    ReasonAnswer,
    ReasonClosing,
    Reasoned,
    ReasonRequest,
)
from service.compat.answers import ItemsAnswer, PairsAnswer, RerankAnswer, TextsAnswer
from service.compat.bodies import ItemsBody, PairsBody, RerankBody, TextsBody
from service.compat.paths import RERANK_PATHS, SCORE_PATHS

_PREFIX = "#/components/schemas/"
_ERRORS = {
    400: "The request breaks a rule; `param` names the field.",
    401: "The API key is missing or not known.",
    408: "The headers or the body did not arrive in time.",
    413: "The body is above the byte limit.",
    429: "The tenant has too much queued or in flight; see Retry-After.",
    431: "The request line and the headers are above the byte limit.",
    500: "The model could not score the slate.",
    503: "The queue, the engine or Redis is not available, or the server stops; see Retry-After.",
    504: "The deadline passed.",
}
_CLOSED = {404: "The server has no admin key."}


@cache
def openapi(reasons: bool = True) -> dict[str, Any]:
    """OpenAPI 3.1, the same object every time. reasons: of a server that has a reasoner."""
    models = [
        *(RankRequest, RankAnswer, ContextRequest, ContextAnswer),
        *(ReasonRequest, ReasonAnswer, Reasoned, ReasonClosing),
        *(QueueAnswer, PolicyRequest, ErrorEnvelope),
        *(RerankBody, RerankAnswer, TextsBody, TextsAnswer),
        *(ItemsBody, ItemsAnswer, PairsBody, PairsAnswer),
    ]
    _, schemas = TypeAdapter.json_schemas(
        [(model, "serialization", TypeAdapter(model)) for model in models],
        ref_template=_PREFIX + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "fairslate", "version": "1"},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/rank": {"post": _rank_operation()},
            "/v1/contexts": {"post": _contexts_operation()},
            **_foreign_paths(),
            **({"/v1/reason": {"post": _reason_operation()}} if reasons else {}),
            "/v1/models": {"get": _models()},
            "/v1/queue/{request_id}": {"get": _queue_operation()},
            "/admin/policy": {"get": _policy(), "post": _policy_switch()},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _rank_operation() -> dict[str, Any]:
    return {
        "operationId": "rank",
        "summary": "Scores a slate of candidates for one context, best first.",
        "requestBody": {"required": True, **_content("", "RankRequest")},
        "responses": {"200": _content("The ranked slate.", "RankAnswer"), **_errors(_ERRORS)},
    }


def _foreign_paths() -> dict[str, Any]:
    """Routes of other services; each body is answered in the form of whose it is."""
    rerank = "Ranks documents as Cohere, Jina and vLLM do, and texts as TEI does with a bare list."
    score = "Scores items as SGLang does, in their order, or documents as vLLM does."
    bodies, answers = ("RerankBody", "TextsBody"), ("RerankAnswer", "TextsAnswer")
    reranked = _foreign_operation("rerank", rerank, bodies, answers)
    bodies, answers = ("ItemsBody", "PairsBody"), ("ItemsAnswer", "PairsAnswer")
    scored = _foreign_operation("score", score, bodies, answers)
    return {
        **{path: {"post": reranked} for path in RERANK_PATHS},
        **{path: {"post": scored} for path in SCORE_PATHS},
    }


def _foreign_operation(
    name: str, summary: str, bodies: tuple[str, ...], answers: tuple[str, ...]
) -> dict[str, Any]:
    missing = {404: "The model named is not served here."}
    return {
        "summary": summary,
        "tags": [name],
        "requestBody": {"required": True, **_one_of("", bodies)},
        "responses": {"200": _one_of(summary, answers), **_errors(missing | _ERRORS)},
    }


def _contexts_operation() -> dict[str, Any]:
    return {
        "operationId": "prewarm",
        "summary": "Reads a context ahead, so that the slate to come finds it in the cache.",
        "requestBody": {"required": True, **_content("", "ContextRequest")},
        "responses": {
            "200": _content("The context's tokens, and those already held.", "ContextAnswer"),
            **_errors(_ERRORS),
        },
    }


def _reason_operation() -> dict[str, Any]:
    events = (
        "As `text/event-stream`: an event `reason` (Reasoned) for each candidate as soon as it is "
        "written, and `done` (ReasonClosing) or `error` (ErrorEnvelope) at the end."
    )
    answer = _content(f"One sentence for each candidate. {events}", "ReasonAnswer")
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    missing = {404: "The server has no reasoner."}
    return {
        "operationId": "reason",
        "summary": "Says in a sentence of stated facts why each candidate may fit the context.",
        "requestBody": {"required": True, **_content("", "ReasonRequest")},
        "responses": {"200": answer, **_errors(missing | _ERRORS)},
    }


def _models() -> dict[str, Any]:
    return {
        "operationId": "models",
        "summary": "The served models and the limits of a request.",
        "responses": {"200": {"description": "Names, digests, prompts, limits."}},
    }


def _queue_operation() -> dict[str, Any]:
    missing = {404: "No request of this tenant and id is in flight here."}
    kept = {code: _ERRORS[code] for code in (401, 503)}
    name = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "explain",
        "summary": "Why a request in flight waits; `request_id` is its `x-request-id`.",
        "parameters": [name],
        "responses": {
            "200": _content("One entry per job of the slate.", "QueueAnswer"),
            **_errors(missing | kept),
        },
    }


def _policy() -> dict[str, Any]:
    return {
        "operationId": "read_policy",
        "summary": "The scheduling policy of the pool, with the operator's key.",
        "security": [{"key": []}],
        "responses": {
            "200": _content("The present policy.", "PolicyRequest"),
            **_errors(_CLOSED | {code: _ERRORS[code] for code in (401, 503)}),
        },
    }


def _policy_switch() -> dict[str, Any]:
    kept = {code: _ERRORS[code] for code in (400, 401, 413, 503)}
    return {
        "operationId": "policy",
        "summary": "Switches the scheduling policy of the pool, with the operator's key.",
        "security": [{"key": []}],
        "requestBody": {"required": True, **_content("", "PolicyRequest")},
        "responses": {
            "200": _content("The policy from now on.", "PolicyRequest"),
            **_errors(_CLOSED | kept),
        },
    }


def _errors(texts: dict[int, str]) -> dict[str, Any]:
    return {str(code): _content(text, "ErrorEnvelope") for code, text in texts.items()}


def _content(description: str, schema: str) -> dict[str, Any]:
    return _body(description, {"$ref": _PREFIX + schema})


def _one_of(description: str, schemas: tuple[str, ...]) -> dict[str, Any]:
    return _body(description, {"anyOf": [{"$ref": _PREFIX + schema} for schema in schemas]})


def _body(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
