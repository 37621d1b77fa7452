"""Answers a tenant that was refused a moment ago before its request is read. Knows no slates."""

from __future__ import annotations

from starlette.datastructures import State
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import FairslateError
from service.reception import Reception
from service.routes import error_response, request_identifier

PATHS = frozenset({"/v1/rank", "/v1/contexts", "/v1/reason"})  # those that the gate may refuse


class RefusedUnread:
    """ASGI middleware; a flood must not pay with everybody's processor for its way to a refusal.

    state: holds the Reception as `reception` while the app serves.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The connection stays open: the server drops the body that nobody reads."""
        if scope["type"] == "http" and scope["path"] in PATHS and scope["method"] == "POST":
            request = Request(scope)
            reception: Reception = self._state.reception
            try:
                reception.refuse_unread(request.headers.get("authorization"))
            except FairslateError as error:
                await error_response(error, request_identifier(request))(scope, receive, send)
                return
        await self._app(scope, receive, send)
