"""Whatever shares pages and passes, a candidate meets its own context in the pages it reads."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from models.engines.group_plan import plan_group
from models.engines.paged_cache import WASTE_PAGE, PagedCache, PageShape
from models.engines.passes import PassPlanner, PassSize, Segment
from models.engines.runner import ContextGroup
from models.packing import TokenIds
from models.prompt import block_hashes

BLOCK = 3
SPARE = 4
SHAPE = PageShape(layers=1, page_size=BLOCK, kv_heads=1, head_dim=1)
PAGE_BYTES = 2 * BLOCK * 2

TOKENS = st.lists(st.integers(1, 2), max_size=SPARE * BLOCK).map(tuple)
CANDIDATES = st.lists(st.integers(1, 3).map(lambda length: (9,) * length), max_size=3)
BATCHES = st.lists(st.dictionaries(TOKENS, CANDIDATES, max_size=4), max_size=4)
LIMITS = st.builds(
    PassSize,
    tokens=st.integers(3, 16),
    items=st.integers(1, 4),
    groups=st.integers(1, 3),
    pages=st.integers(SPARE, 8),
)


def group_of(ids: TokenIds, candidates: Sequence[TokenIds] = ()) -> ContextGroup:
    return ContextGroup(ids, block_hashes(ids, BLOCK), candidates)


def new_cache(pages: int) -> PagedCache:
    cache = PagedCache(SHAPE, pages * PAGE_BYTES, SPARE)
    assert cache.keys.shape[1] == 1 + pages + SPARE
    return cache


class Pages:
    """What a device would hold: the token that each cell of each page was written for."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], int] = {}
        self.read: list[tuple[TokenIds, TokenIds]] = []  # each candidate behind what it saw
        self.computed = 0  # tokens of contexts

    def launch(self, segments: Sequence[Segment], _: PassSize) -> None:
        """A pass writes a layer's keys before it attends to them."""
        written: dict[tuple[int, int], int] = {}
        for segment in segments:
            if segment.kept:
                self.computed += len(segment.ids)
                for place, token in enumerate(segment.ids, segment.prefix_tokens):
                    cell = self._cell(segment, place)
                    assert cell not in written, "two write to one cell at once"
                    written[cell] = token
        self.cells |= written
        for segment in segments:
            places = range(segment.prefix_tokens)
            seen = tuple(self.cells[self._cell(segment, place)] for place in places)
            if not segment.kept:
                self.read.append((seen, segment.ids))

    def _cell(self, segment: Segment, place: int) -> tuple[int, int]:
        page = segment.pages[place // BLOCK]
        assert page != WASTE_PAGE
        return page, place % BLOCK


def run(cache: PagedCache, pages: Pages, limits: PassSize, groups: Sequence[ContextGroup]) -> int:
    """As a runner does; returns how many tokens of contexts were held."""
    planner = PassPlanner(limits, pages.launch)
    with cache.reservation([group.chain for group in groups]) as reservation:
        cached = sum(plan_group(group, planner, reservation, BLOCK) for group in groups)
        planner.flush()
    return cached


@given(st.integers(0, 8), LIMITS, BATCHES)
def test_every_candidate_sees_its_context_and_nothing_is_computed_twice(
    budget: int, limits: PassSize, batches: list[dict[TokenIds, list[TokenIds]]]
) -> None:
    cache, pages = new_cache(budget), Pages()
    for batch in batches:
        pages.read.clear()
        pages.computed = 0
        cached = run(cache, pages, limits, [group_of(*one) for one in batch.items()])
        assert pages.read == [(ids, one) for ids, candidates in batch.items() for one in candidates]
        assert cached + pages.computed == sum(map(len, batch))


def test_what_is_held_is_not_computed_again_also_of_a_short_last_block() -> None:
    cache, pages, limits = new_cache(8), Pages(), PassSize(99, 99, 99, 99)
    ids = (1, 2, 1, 2)
    assert run(cache, pages, limits, [group_of(ids, [(9,)])]) == 0
    assert run(cache, pages, limits, [group_of(ids, [(9,)])]) == 4
    assert run(cache, pages, limits, [group_of((*ids, 1, 1, 2), [(9,)])]) == 3
    assert pages.computed == 4 + 0 + 4


def test_passes_are_cut_short_only_for_spare_pages() -> None:
    launched: list[int] = []
    contexts = [group_of((token,) * 2 * BLOCK, [(9,)]) for token in range(4)]
    for budget, passes in ((8, [8]), (0, [4, 4])):
        launched.clear()
        cache = new_cache(budget)
        planner = PassPlanner(PassSize(99, 99, 99, 99), lambda some, _: launched.append(len(some)))
        with cache.reservation([one.chain for one in contexts]) as reservation:
            for one in contexts:
                plan_group(one, planner, reservation, BLOCK)
            planner.flush()
        assert launched == passes
