"""Breaks connections off that would hold a stop open. Knows no request and no signal.

A client that reads nothing keeps its answer in this process for ever, and uvicorn waits for it.
"""

from __future__ import annotations

import asyncio
import weakref

from service.edge.refusing_protocol import RefusingProtocol

_open: weakref.WeakSet[PartingProtocol] = weakref.WeakSet()


class PartingProtocol(RefusingProtocol):
    """Is known to `hang_up` as long as it serves a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _open.add(self)


def hang_up() -> None:
    """Ends every connection of this process at once; what its client has not taken is lost."""
    for connection in [*_open]:
        connection.transport.abort()
