"""One envelope for every error, and nothing internal in it."""

from __future__ import annotations

from asyncio import CancelledError

import pytest
from starlette.requests import ClientDisconnect

from models.errors import FairslateError
from service.base.errors import (
    EngineAbsentError,
    UnauthorizedError,
    envelope,
    error_code,
    error_headers,
    error_status,
)
from service.bodies.schemas import ErrorEnvelope


def every_error(root: type[FairslateError] = FairslateError) -> list[type[FairslateError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in every_error(child))]


def test_every_error_class_has_an_envelope_of_the_documented_form() -> None:
    assert len(every_error()) > 10
    for kind in every_error():
        body = envelope(kind("do this", param="field"), "request")
        error = ErrorEnvelope.model_validate(body).error
        assert (error.message, error.param, error.code) == ("do this", "field", kind.code)
        assert (error.type == "internal_error") == (error_status(kind("")) == 500)


def test_foreign_error_is_not_shown() -> None:
    body = envelope(ValueError("a secret"), "request")
    assert body["error"]["message"] == "internal error"
    assert error_status(ValueError()) == 500


@pytest.mark.parametrize("gone", [CancelledError(), ClientDisconnect()])
def test_a_client_that_left_is_no_error_of_the_server(gone: BaseException) -> None:
    assert error_code(gone) == "client_closed"
    assert error_code(ValueError()) == "internal_error"


def test_retry_after_is_in_whole_seconds_rounded_up() -> None:
    assert error_headers(EngineAbsentError("", retry_after_ms=1001)) == {"retry-after": "2"}
    assert error_headers(UnauthorizedError("")) == {"www-authenticate": "Bearer"}
    assert "retry_after_ms" not in envelope(FairslateError(""), "request")["error"]
