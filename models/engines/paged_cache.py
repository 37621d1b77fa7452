"""Holds keys and values of context blocks in pages on the device. Knows no model and no tokens.

A page is one block of every layer: `keys[:, page]` and `values[:, page]`, (layers, page_size,
kv_heads, head_dim). Page 0 belongs to nobody: what must not be kept is written there. The last
pages are spare, for contexts (or their ends) which the budget has no room for; as many blocks as
there are spare pages is the most a context may have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.config import DecoderConfig
from models.engines.base import CacheEvents
from models.engines.block_tree import BlockTree
from models.errors import ContextTooLongError

WASTE_PAGE = 0


@dataclass(frozen=True, slots=True)
class PageShape:
    """Size of one page in every layer."""

    layers: int
    page_size: int  # tokens
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: DecoderConfig, page_size: int) -> PageShape:
        """The pages of a model."""
        heads, width = config.num_key_value_heads, config.head_dim
        return cls(config.num_hidden_layers, page_size, heads, width)

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of one page, keys and values of all layers."""
        return 2 * self.layers * self.page_size * self.kv_heads * self.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class ContextPages:
    """Where one context lies: the pages of its blocks, in order, and how many were held before."""

    held_blocks: int
    pages: tuple[int, ...]


class PagedCache:
    """A pool of pages and the tree of blocks that lie in it; blocks cost whole pages.

    capacity_bytes: budget of the blocks kept. spare_pages: lent beside them while a batch runs.
    """

    keys: Tensor  # (layers, pages, page_size, kv_heads, head_dim)
    values: Tensor

    def __init__(
        self,
        shape: PageShape,
        capacity_bytes: int,
        spare_pages: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        self._page_bytes = shape.nbytes(dtype)
        kept = capacity_bytes // self._page_bytes
        pages = 1 + kept + spare_pages
        size = (shape.layers, pages, shape.page_size, shape.kv_heads, shape.head_dim)
        self.keys = _zeros(size, dtype, torch.device(device))
        self.values = _zeros(size, dtype, torch.device(device))
        self._free = list(range(kept, 0, -1))
        self._spare = tuple(range(1 + kept, pages))
        self._tree: BlockTree[int] = BlockTree(kept * self._page_bytes, self._free.append)

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks kept; spare pages count for nothing."""
        return self._tree.used_bytes

    @property
    def spare_pages(self) -> int:
        """The most blocks a context may have."""
        return len(self._spare)

    def drain_events(self) -> CacheEvents:
        """Net inserts and evictions since the last call."""
        return self._tree.drain_events()

    @contextmanager
    def reservation(self, chains: Sequence[Sequence[str]]) -> Iterator[PageReservation]:
        """Lends pages to the contexts of one batch; what the cache holds of them stays meanwhile.

        If the block raises, the blocks it reserved are dropped: nobody knows what they hold.
        """
        fresh: list[str] = []
        try:
            with ExitStack() as pins:
                for chain in chains:
                    pins.enter_context(self._tree.pinned(chain[: self._tree.match(chain)]))
                yield PageReservation(self, pins, fresh)
        except BaseException:
            self._tree.discard(fresh)
            raise

    def _keep(self, name: str) -> bool:
        return self._tree.hold(name, self._page_bytes, self._free.pop)


class PageReservation:
    """Pages lent to one batch, see `PagedCache.reservation`."""

    def __init__(self, cache: PagedCache, pins: ExitStack, fresh: list[str]) -> None:
        self._cache = cache
        self._pins = pins
        self._fresh = fresh
        self._lent = 0

    def needs_spare(self, chain: Sequence[str]) -> bool:
        """Whether `pages(chain)` may want more spare pages than are left; `return_spare` first."""
        missing = len(chain) - self._cache._tree.match(chain)
        return self._lent > 0 and missing > self._cache.spare_pages - self._lent

    def pages(self, chain: Sequence[str]) -> ContextPages:
        """Pages for every block of `chain`, kept as far as the budget allows, spare behind.

        Blocks reserved for an earlier context of the batch count as held: their keys and values are
        computed in the same pass or an earlier one. Raises ContextTooLongError.
        """
        tree, spare = self._cache._tree, self._cache._spare
        if len(chain) > len(spare):
            raise ContextTooLongError(
                f"a context has {len(chain)} blocks, the most served is {len(spare)}; shorten it"
            )
        held = kept = tree.match(chain)
        while kept < len(chain) and self._keep(chain[kept]):
            kept += 1
        tree.match(chain)
        start, self._lent = self._lent, self._lent + len(chain) - kept
        assert self._lent <= len(spare), "spare pages were not returned before"
        return ContextPages(held, (*tree.read(chain[:kept]), *spare[start : self._lent]))

    def return_spare(self) -> None:
        """Takes the spare pages back, once the passes that read them are launched."""
        self._lent = 0

    def _keep(self, name: str) -> bool:
        if not self._cache._keep(name):
            return False
        self._fresh.append(name)
        self._pins.enter_context(self._cache._tree.pinned((name,)))
        return True


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cells behind a context's end are read, weigh nothing, and must not be NaN.

    The CPU's take no memory before they are written, which torch's own zeros are at once.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    cells = np.zeros(math.prod(size) * dtype.itemsize, np.uint8)
    return torch.from_numpy(cells).view(dtype).view(size)
