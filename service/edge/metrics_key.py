"""Keeps `/metrics`, which names tenants, for those who hold its key. Knows none of its series."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import FairslateError
from service.base.config import Settings
from service.base.errors import UnauthorizedError
from service.edge.inbox import request_identifier
from service.edge.routes import error_response
from service.tenants.tenants import bearer_key


class MetricsKey:
    """ASGI middleware; an empty key, by default that of the settings, opens the route to all."""

    def __init__(self, app: ASGIApp, key: str | None = None) -> None:
        self._app = app
        self._key = Settings.from_environment().metrics_key if key is None else key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 in the app's place."""
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/metrics" and self._key:
            request = Request(scope, receive)
            try:
                self._admit(request.headers.get("authorization"))
            except FairslateError as error:
                await error_response(error, request_identifier(request))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, authorization: str | None) -> None:
        if not hmac.compare_digest(bearer_key(authorization).encode(), self._key.encode()):
            raise UnauthorizedError("this is not the key of /metrics; ask the operator")
