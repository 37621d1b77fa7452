"""Keeps raw logits of pairs scored before, within bytes and time. Knows no models, no tenants."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

# Slot and node of an OrderedDict, key and empty value: 160 to 190 bytes as CPython 3.11 grows them.
ENTRY_BYTES = 208


def pair_key(context_id: str, candidate_ids: Sequence[int], catalogue_digest: str = "") -> bytes:
    """Names a context and one candidate that follows it.

    context_id: hex digest that covers the model, the tenant where it is private, and all tokens of
    the context: the last block hash of its chain. catalogue_digest: hex, of what token ids behind
    the vocabulary stand for.
    """
    tokens = array("q", candidate_ids).tobytes()
    catalogue = bytes.fromhex(catalogue_digest)
    named = hashlib.blake2b(bytes.fromhex(context_id) + tokens, key=catalogue, digest_size=16)
    return named.digest()


class ScoreCache:
    """Least recently used pairs go first, and any pair once it is older than `seconds`.

    One logit per head and pair. Not thread-safe.
    """

    def __init__(
        self, capacity_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()  # key -> expiry, logits

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> tuple[float, ...] | None:
        """Logits by head, or None; marks the pair used, but does not make it younger."""
        packed = self._entries.get(key)
        if packed is None:
            return None
        expiry, *logits = array("d", packed)
        if expiry <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return tuple(logits)

    def put(self, key: bytes, logits: Sequence[float]) -> None:
        """Keeps a pair just scored, and makes room for it; one above the whole budget is not."""
        self._drop(key)
        packed = array("d", [self._clock() + self._seconds, *logits]).tobytes()
        if _cost(packed) > self.capacity_bytes:
            return
        while self.used_bytes + _cost(packed) > self.capacity_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = packed
        self.used_bytes += _cost(packed)

    def _drop(self, key: bytes) -> None:
        packed = self._entries.pop(key, None)
        if packed is not None:
            self.used_bytes -= _cost(packed)


def _cost(packed: bytes) -> int:
    return ENTRY_BYTES + len(packed)
