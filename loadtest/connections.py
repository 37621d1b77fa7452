"""HTTP/1.1 over kept connections, at a tenth of a client library's cost. Knows no request's sense.

A generator that shares its machine with the server must leave the machine to it.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0


class Connections:
    """Posts JSON to one server; every call has a connection to itself and keeps it for the next."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, key: str, body: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError when the connection breaks or nothing comes in time."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._post(path, key, body)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise ConnectionError(f"{path} was not answered") from error

    async def _post(self, path: str, key: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        kept = False
        try:
            writer.write(self._head(path, key, len(body)) + body)
            status, length = parse_head(await reader.readuntil(b"\r\n\r\n"))
            answer = await reader.readexactly(length)
            kept = True
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return status, answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # a server drops connections that idle for some seconds
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Hangs up where no answer is awaited."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    def _head(self, path: str, key: str, length: int) -> bytes:
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {self._host}",
            f"authorization: Bearer {key}",
            "content-type: application/json",
            f"content-length: {length}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()


def parse_head(head: bytes) -> tuple[int, int]:
    """Status and content length. Raises ConnectionError without a length."""
    first, *lines = head.decode("latin-1").lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    if "content-length" not in fields:
        raise ConnectionError("an answer without content-length cannot be read")
    return int(first.split(" ")[1]), int(fields["content-length"])
