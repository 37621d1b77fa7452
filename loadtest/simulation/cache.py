"""A worker's prefix cache: chains of KV blocks, least recently used leaves leave first.

Knows no request, no time and no gate; it notes what went in and out for whoever asks.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class BlockCache:
    """Resident blocks by name. A block's parent is resident as long as the block is."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}  # of resident blocks; "" has none
        self._children: dict[str, int] = {}
        self._locks: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._leaves: list[tuple[int, str]] = []  # heap of unlocked ones, with stale entries
        self._clock = 0
        self._inserted: dict[str, None] = {}
        self._evicted: dict[str, None] = {}

    @property
    def resident(self) -> int:
        """Blocks held."""
        return len(self._parents)

    @property
    def locked(self) -> int:
        """Blocks in use by someone, which are never evicted."""
        return len(self._locks)

    def matched(self, chain: Sequence[str]) -> int:
        """Blocks of the chain that are resident; they are its front."""
        low, high = 0, len(chain)
        while low < high:
            middle = (low + high + 1) // 2
            if chain[middle - 1] in self._parents:
                low = middle
            else:
                high = middle - 1
        return low

    def unlocked(self, chain: Sequence[str]) -> int:
        """Resident blocks of the chain that nobody has locked."""
        return sum(block not in self._locks for block in chain[: self.matched(chain)])

    def lock(self, chain: Sequence[str]) -> None:
        """Makes the whole chain resident and keeps it so until `unlock`."""
        self._insert(chain)
        for block in chain:
            self._locks[block] = self._locks.get(block, 0) + 1

    def unlock(self, chain: Sequence[str]) -> None:
        """Undoes one `lock` of this very chain."""
        for block in chain:
            self._locks[block] -= 1
            if not self._locks[block]:
                del self._locks[block]
        self._touch(chain)

    def add(self, chain: Sequence[str]) -> None:
        """Makes the chain resident, free to be evicted."""
        self._insert(chain)
        self._touch(chain)

    def evict(self, blocks: int) -> None:
        """Drops `blocks` blocks, the least recently used leaves first."""
        while blocks > 0:
            used, block = heapq.heappop(self._leaves)
            if self._evictable(block) and self._used[block] == used:
                self._drop(block)
                blocks -= 1

    def events(self) -> tuple[list[str], list[str]]:
        """Blocks inserted and evicted since the last call, net."""
        inserted, evicted = list(self._inserted), list(self._evicted)
        self._inserted.clear()
        self._evicted.clear()
        return inserted, evicted

    def _insert(self, chain: Sequence[str]) -> None:
        start = self.matched(chain)
        for place in range(start, len(chain)):
            block, parent = chain[place], chain[place - 1] if place else ""
            self._parents[block] = parent
            self._children[parent] = self._children.get(parent, 0) + 1
            self._used[block] = self._clock
            self._note(block, self._inserted, self._evicted)

    def _touch(self, chain: Sequence[str]) -> None:
        self._clock += 1
        for block in chain:
            self._used[block] = self._clock
        if chain and self._evictable(chain[-1]):
            heapq.heappush(self._leaves, (self._clock, chain[-1]))

    def _evictable(self, block: str) -> bool:
        free = block in self._parents and block not in self._locks
        return free and not self._children.get(block)

    def _drop(self, block: str) -> None:
        parent = self._parents.pop(block)
        del self._used[block]
        self._children[parent] -= 1
        if not self._children[parent]:
            del self._children[parent]
            if self._evictable(parent):
                heapq.heappush(self._leaves, (self._used[parent], parent))
        self._note(block, self._evicted, self._inserted)

    @staticmethod
    def _note(block: str, here: dict[str, None], there: dict[str, None]) -> None:
        if block in there:
            del there[block]
        else:
            here[block] = None
