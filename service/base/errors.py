"""Errors of the HTTP edge and their one JSON envelope. Knows nothing of what was being served."""

from __future__ import annotations

import math
from asyncio import CancelledError
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect

from models.errors import (
    CandidateTooLongError,
    ContextTooLongError,
    FairslateError,
    OutOfMemoryError,
    TokenOutOfVocabularyError,
)

_TYPES = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.METHOD_NOT_ALLOWED: "invalid_request_error",
    HTTPStatus.REQUEST_TIMEOUT: "timeout_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "invalid_request_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "invalid_request_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class InvalidRequestError(FairslateError):
    """The body is well-formed HTTP but not a request this service can answer."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.code = code or type(self).code


class BodyTooLargeError(FairslateError):
    """The body is longer than the byte limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class BodyTimeoutError(FairslateError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_timeout"


class HeadersTooLargeError(FairslateError):
    """The request line and headers are longer than the byte limit, or the trailers are."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers_too_large"


class HeadersTimeoutError(FairslateError):
    """The headers did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "headers_timeout"


class UnauthorizedError(FairslateError):
    """The API key is missing, malformed or belongs to nobody."""

    status = HTTPStatus.UNAUTHORIZED
    code = "invalid_api_key"


class RouteNotFoundError(FairslateError):
    """No such route."""

    status = HTTPStatus.NOT_FOUND
    code = "route_not_found"


class ModelNotFoundError(FairslateError):
    """The body names a model that is not served here."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"


class RequestNotFoundError(FairslateError):
    """No request of this tenant and id waits in this process."""

    status = HTTPStatus.NOT_FOUND
    code = "request_not_found"


class MethodNotAllowedError(FairslateError):
    """The route exists under another method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"

    def __init__(
        self,
        message: str,
        *,
        allow: str = "",
        param: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_ms=retry_after_ms)
        self.allow = allow


class ScoringError(FairslateError):
    """The engine could not score a job; the message is the engine's own cause."""

    code = "scoring_failed"


# What an engine says to the client who sent the job; the rest is the engine's own fault.
_REFUSALS: dict[str, type[FairslateError]] = {
    kind.code: kind
    for kind in (
        CandidateTooLongError,
        ContextTooLongError,
        OutOfMemoryError,
        TokenOutOfVocabularyError,
    )
}


def engine_error(code: str, message: str) -> FairslateError:
    """The error that an engine met, on the API's side of the gate."""
    refusal = _REFUSALS.get(code)
    return refusal(message) if refusal else ScoringError(f"{code}: {message}")


class EngineAbsentError(FairslateError):
    """No engine has been heard of lately; queueing would only let the request time out."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "engine_absent"


class ServerStoppingError(FairslateError):
    """The server was told to stop and answers only what it was sent before."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "server_stopping"


def envelope(error: BaseException, request_id: str) -> dict[str, Any]:
    """`{error: {type, code, message, param?, request_id, retry_after_ms?}}`.

    Anything that is not ours is an internal error whose text stays in the log.
    """
    known = error if isinstance(error, FairslateError) else FairslateError("internal error")
    body: dict[str, Any] = {
        "type": _TYPES.get(known.status, "internal_error"),
        "code": error_code(known),
        "message": str(known),
        "request_id": request_id,
    }
    optional = {"param": known.param, "retry_after_ms": known.retry_after_ms}
    return {"error": body | {name: value for name, value in optional.items() if value is not None}}


CLIENT_CLOSED = "client_closed"  # nobody is there to read it but the metrics


def error_code(error: BaseException) -> str:
    """Machine-readable code on the error, "internal_error" for errors that are not ours."""
    if isinstance(error, CancelledError | ClientDisconnect):
        return CLIENT_CLOSED
    return error.code if isinstance(error, FairslateError) else FairslateError.code


def error_status(error: BaseException) -> HTTPStatus:
    """Status on the error's class, 500 for errors that are not ours."""
    return error.status if isinstance(error, FairslateError) else FairslateError.status


def error_headers(error: BaseException) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, and what HTTP wants beside a 401 and a 405."""
    headers = {}
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    retry_after_ms = getattr(error, "retry_after_ms", None)
    if retry_after_ms is not None:
        headers["retry-after"] = str(math.ceil(retry_after_ms / 1000))
    return headers
