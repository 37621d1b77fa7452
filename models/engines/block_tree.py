"""Decides which context blocks stay within a byte budget. Knows no tensors, tokens or devices.

Blocks form a tree: a block's hash covers everything before it. Least recently used blocks go first,
always leaves, never a pinned one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

from models.engines.base import CacheEvents

Payload = TypeVar("Payload")


@dataclass(slots=True)
class _Block(Generic[Payload]):
    payload: Payload
    nbytes: int
    pins: int = 0


class BlockTree(Generic[Payload]):
    """Blocks by chain hash. Not thread-safe; a chain is the block hashes of one context, in order.

    `_blocks` stands in order of use, and every use moves a chain's leaf before its root. So parents
    always stand behind their children, and the oldest block that is not pinned is a leaf.
    on_drop: called with the payload of every block that leaves.
    """

    def __init__(
        self, capacity_bytes: int, on_drop: Callable[[Payload], None] | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._on_drop = on_drop
        self._blocks: OrderedDict[str, _Block[Payload]] = OrderedDict()
        self._inserted: dict[str, None] = {}
        self._evicted: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, chain: Sequence[str]) -> int:
        """Number of blocks held from the root of `chain`; marks them used."""
        held = sum(1 for _ in takewhile(self._blocks.__contains__, chain))
        self._touch(chain[:held])
        return held

    def read(self, chain: Sequence[str]) -> list[Payload]:
        """Payloads of held blocks."""
        return [self._blocks[name].payload for name in chain]

    @contextmanager
    def pinned(self, chain: Sequence[str]) -> Iterator[None]:
        """Keeps held blocks from eviction while the context lasts; pins nest."""
        for name in chain:
            self._blocks[name].pins += 1
        try:
            yield
        finally:
            for name in chain:
                self._blocks[name].pins -= 1

    def hold(self, name: str, nbytes: int, make: Callable[[], Payload]) -> bool:
        """Holds one block, whose ancestors are held and pinned; False when no room can be made.

        `make` is called once room is there, and not at all for a block already held. Whoever holds
        the blocks of a chain calls `match` at the end, which puts them in order of use.
        """
        if name in self._blocks:
            return True
        if not self._make_room(nbytes):
            return False
        self._blocks[name] = _Block(make(), nbytes)
        self.used_bytes += nbytes
        if name in self._evicted:
            del self._evicted[name]
        else:
            self._inserted[name] = None
        return True

    def discard(self, chain: Sequence[str]) -> None:
        """Drops held blocks that nobody pins, children before parents."""
        for name in reversed(chain):
            self._evict(name)

    def drain_events(self) -> CacheEvents:
        """Net inserts and evictions since the last call."""
        events = CacheEvents(tuple(self._inserted), tuple(self._evicted))
        self._inserted, self._evicted = {}, {}
        return events

    def _make_room(self, needed: int) -> bool:
        """Evicts until `needed` bytes are free; evicts nothing when that cannot succeed."""
        victims, free = [], self.capacity_bytes - self.used_bytes
        for name, block in self._blocks.items():
            if free >= needed:
                break
            if not block.pins:
                victims.append(name)
                free += block.nbytes
        if free < needed:
            return False
        for name in victims:
            self._evict(name)
        return True

    def _evict(self, name: str) -> None:
        block = self._blocks.pop(name)
        self.used_bytes -= block.nbytes
        if self._on_drop is not None:
            self._on_drop(block.payload)
        if name in self._inserted:
            del self._inserted[name]
        else:
            self._evicted[name] = None

    def _touch(self, chain: Sequence[str]) -> None:
        for name in reversed(chain):
            self._blocks.move_to_end(name)
