"""Integers and pieces of a payload, front to back. Knows nothing of what they mean.

Little-endian, no pickle.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any

from models.errors import FairslateError

assert sys.byteorder == "little", "array() writes native integers; the format is little-endian"

HASH_BYTES = 16


class PayloadError(FairslateError):
    """Bytes that are no payload of this version; two versions of fairslate share one pool."""

    code = "payload_invalid"


def integers(values: Iterable[int]) -> bytes:
    """Inverse of `Reader.integers`."""
    return array("i", values).tobytes()


def hashes(values: Iterable[str]) -> bytes:
    """Inverse of `Reader.hashes`."""
    return bytes.fromhex("".join(values))


class Reader:
    """Walks a payload front to back and refuses to run past its end, with PayloadError."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._position = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._payload[self._position : self._position + size]
        if size < 0 or len(piece) < size:
            raise PayloadError(f"payload of {len(self._payload)} bytes ends too early")
        self._position += size
        return piece

    def header(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next fields of a fixed layout."""
        return layout.unpack(self.take(layout.size))

    def integers(self, count: int) -> tuple[int, ...]:
        """The next `count` numbers of 32 bits."""
        return tuple(array("i", self.take(4 * count)))

    def hashes(self, count: int) -> tuple[str, ...]:
        """The next `count` block hashes, in hex."""
        return tuple(self.take(HASH_BYTES).hex() for _ in range(count))

    def finish(self) -> None:
        """Refuses what is left."""
        if self._position != len(self._payload):
            raise PayloadError(f"payload has {len(self._payload) - self._position} bytes too many")
