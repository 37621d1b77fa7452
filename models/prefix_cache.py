"""Holds keys and values of context blocks within a byte budget. Knows no model and no tokens.

Blocks form a tree: a block's hash covers everything before it. Least recently used blocks go first,
always leaves, never a pinned one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from models.engines.base import CacheEvents


@dataclass(slots=True)
class _Block:
    kv: Tensor  # (layers, 2, tokens, kv_heads, head_dim), owning its storage
    pins: int = 0


class PrefixCache:
    """Blocks by chain hash. Not thread-safe; a chain is the block hashes of one context, in order.

    `_blocks` stands in order of use, and every use moves a chain's leaf before its root. So parents
    always stand behind their children, and the oldest block that is not pinned is a leaf.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._blocks: OrderedDict[str, _Block] = OrderedDict()
        self._inserted: dict[str, None] = {}
        self._evicted: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, chain: Sequence[str]) -> int:
        """Number of blocks held from the root of `chain`; marks them used."""
        held = sum(1 for _ in takewhile(self._blocks.__contains__, chain))
        self._touch(chain[:held])
        return held

    def read(self, chain: Sequence[str]) -> list[Tensor]:
        """Keys and values of held blocks, (layers, 2, tokens, kv_heads, head_dim) each."""
        return [self._blocks[name].kv for name in chain]

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

    def insert(self, chain: Sequence[str], blocks: Sequence[Tensor]) -> int:
        """Holds `blocks`, the last ones of `chain`, whose ancestors are held already.

        Stops at the first block for which no room can be made; returns how many are now held.
        """
        start = len(chain) - len(blocks)
        assert self._blocks.keys() >= set(chain[:start]), "insert below a block that is not held"
        with ExitStack() as pins:
            pins.enter_context(self.pinned(chain[:start]))
            for depth, kv in enumerate(blocks, start):
                if not self._hold(chain[depth], kv):
                    break
                pins.enter_context(self.pinned(chain[depth : depth + 1]))
        return self.match(chain) - start

    def drain_events(self) -> CacheEvents:
        """Net inserts and evictions since the last call."""
        events = CacheEvents(tuple(self._inserted), tuple(self._evicted))
        self._inserted, self._evicted = {}, {}
        return events

    def _hold(self, name: str, kv: Tensor) -> bool:
        if name in self._blocks:
            return True
        if not self._make_room(kv.nbytes):
            return False
        self._blocks[name] = _Block(kv.clone())
        self.used_bytes += kv.nbytes
        if name in self._evicted:
            del self._evicted[name]
        else:
            self._inserted[name] = None
        return True

    def _make_room(self, needed: int) -> bool:
        """Evicts until `needed` bytes are free; evicts nothing when that cannot succeed."""
        victims, free = [], self.capacity_bytes - self.used_bytes
        for name, block in self._blocks.items():
            if free >= needed:
                break
            if not block.pins:
                victims.append(name)
                free += block.kv.nbytes
        if free < needed:
            return False
        for name in victims:
            self._evict(name)
        return True

    def _evict(self, name: str) -> None:
        self.used_bytes -= self._blocks.pop(name).kv.nbytes
        if name in self._inserted:
            del self._inserted[name]
        else:
            self._evicted[name] = None

    def _touch(self, chain: Sequence[str]) -> None:
        for name in reversed(chain):
            self._blocks.move_to_end(name)
