"""Holds keys and values of context blocks in host memory. Knows no model and no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor

from models.engines.block_tree import BlockTree


class PrefixCache(BlockTree[Tensor]):
    """A block is (layers, 2, tokens, kv_heads, head_dim) and owns its storage."""

    def insert(self, chain: Sequence[str], blocks: Sequence[Tensor]) -> int:
        """Holds copies of `blocks`, the last ones of `chain`, whose ancestors are held already.

        Stops at the first block for which no room can be made; returns how many are now held.
        """
        start = len(chain) - len(blocks)
        assert self._blocks.keys() >= set(chain[:start]), "insert below a block that is not held"
        with ExitStack() as pins:
            pins.enter_context(self.pinned(chain[:start]))
            for depth, kv in enumerate(blocks, start):
                if not self.hold(chain[depth], kv.nbytes, kv.clone):
                    break
                pins.enter_context(self.pinned(chain[depth : depth + 1]))
        return self.match(chain) - start
