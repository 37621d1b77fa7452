"""Answers whom the gate refused a moment ago before a request becomes a task. Knows no slates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import httptools

from models.errors import FairslateError
from service.compat.paths import RERANK_PATHS, SCORE_PATHS
from service.edge.bounded_protocol import BoundedProtocol, on_the_wire
from service.edge.inbox import usable_identifier

GATED = frozenset(  # what the gate may refuse
    {
        *(b"/v1/rank", b"/v1/contexts", b"/v1/reason"),
        *(path.encode() for path in (*RERANK_PATHS, *SCORE_PATHS)),
    }
)
MOST_HELD_BYTES = 64 << 10


class Door(Protocol):
    """Whoever knows which tenants were refused."""

    def refuse_unread(self, authorization: str | None) -> bool:
        """Raises FairslateError; or whether the body decides, because it may name a class."""

    def refuse_unparsed(self, authorization: str | None, body: bytes) -> None:
        """Raises FairslateError."""


class RefusingProtocol(BoundedProtocol):
    """A flood must not pay with everybody's processor for its way through the app to a refusal.

    What only the body decides is held until that is there, unless it is long or late: then the app
    reads it as any other.
    """

    def __init__(self, find_door: Callable[[], Door | None], *args: Any, **kwargs: Any) -> None:
        """find_door: None when nobody is to be refused here."""
        super().__init__(*args, **kwargs)
        self._find_door = find_door
        self._held: bytearray | None = None
        self._refused = False

    def shutdown(self) -> None:
        if not self._deaf:
            self._release()
        super().shutdown()

    def on_message_begin(self) -> None:
        self._held, self._refused = None, False
        self._unset_keepalive_if_required()  # a refusal in the same piece has begun that wait
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        if self._held is not None:
            self._held += body
            if len(self._held) > MOST_HELD_BYTES:
                self._release()
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = True
        if self._held is not None:
            self._decide(bytes(self._held))
        if self._refused:
            self._conclude()
        else:
            super().on_message_complete()

    @property
    def _drops_body(self) -> bool:
        return self._held is None and super()._drops_body

    def _begin(self) -> None:
        door = self._find_door() if self._may_be_refused() else None
        try:
            decided = door is None or not door.refuse_unread(self._header(b"authorization"))
        except FairslateError as error:
            self._refuse_request(error)
            return
        if decided:
            super()._begin()
        else:
            self._held = bytearray()

    def _may_be_refused(self) -> bool:
        """Behind an answer under way there is no place for another, and who reads none gets few."""
        gated = self.url.partition(b"?")[0] in GATED and self.parser.get_method() == b"POST"
        plain = not self.expect_100_continue and not self.parser.should_upgrade()
        return gated and plain and self._idle and not self.flow.write_paused

    def _decide(self, body: bytes) -> None:
        door = self._find_door()
        try:
            if door is not None:
                door.refuse_unparsed(self._header(b"authorization"), body)
        except FairslateError as error:
            self._refuse_request(error)
            return
        self._release()

    def _release(self) -> None:
        """Gives the app what was held."""
        if self._held is not None:
            body, self._held = bytes(self._held), None
            self._stop_timer()
            super()._begin()
            super().on_body(body)

    def _late(self) -> None:
        if self._held is None:
            super()._late()
        else:
            self._release()

    def _refuse_request(self, error: FairslateError) -> None:
        """At once; what still comes of the body is dropped."""
        self._held, self._refused = None, True
        headers = self.server_state.default_headers
        if not self._is_kept:
            headers = [*headers, (b"connection", b"close")]
        identifier = usable_identifier(self._header(b"x-request-id") or "")
        self.transport.write(on_the_wire(error, identifier, headers))

    def _conclude(self) -> None:
        self._in_body = False
        if self._is_kept:
            self._stop_timer()
            self.on_response_complete()
        else:
            self._deaf = True
            self.transport.close()
            raise httptools.HttpParserError  # so that nothing more is parsed

    @property
    def _answerable(self) -> bool:
        return self._held is not None or super()._answerable

    @property
    def _is_kept(self) -> bool:
        return self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()

    def _header(self, name: bytes) -> str | None:
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)
