"""Pages are lent, kept, evicted and given back as the tree says, and never to two at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.engines.paged_cache import WASTE_PAGE, PagedCache, PageShape
from models.errors import ContextTooLongError

SHAPE = PageShape(layers=2, page_size=3, kv_heads=1, head_dim=4)
PAGE_BYTES = 2 * 2 * 3 * 1 * 4 * 4


def new_cache(pages: int, spare: int = 5) -> PagedCache:
    return PagedCache(SHAPE, pages * PAGE_BYTES + 7, spare, torch.float32)


def chain(path: str) -> tuple[str, ...]:
    return tuple(path[: end + 1] for end in range(len(path)))


def lend(cache: PagedCache, *paths: str) -> list[tuple[int, tuple[int, ...]]]:
    """Held blocks and pages of each path, all in one batch."""
    chains = [chain(path) for path in paths]
    with cache.reservation(chains) as reservation:
        found = [reservation.pages(names) for names in chains]
    return [(context.held_blocks, context.pages) for context in found]


def test_the_pool_is_the_budget_the_spare_pages_and_one_to_waste() -> None:
    cache = new_cache(4)
    assert cache.keys.shape == cache.values.shape == (2, 1 + 4 + 5, 3, 1, 4)
    assert SHAPE.nbytes(torch.float32) == PAGE_BYTES


def test_a_context_keeps_its_pages() -> None:
    cache = new_cache(4)
    ((held, pages),) = lend(cache, "abc")
    assert (held, len(set(pages)), WASTE_PAGE in pages) == (0, 3, False)
    assert lend(cache, "abc") == [(3, pages)]
    assert lend(cache, "abx")[0][1][:2] == pages[:2]
    assert (len(cache), cache.used_bytes) == (4, 4 * PAGE_BYTES)


def test_a_batch_computes_a_common_beginning_once() -> None:
    (held, pages), (shared, others) = lend(new_cache(6), "abc", "abd")
    assert (held, shared) == (0, 2)
    assert (pages[:2], pages[2] == others[2]) == (others[:2], False)


def test_what_does_not_fit_lies_in_spare_pages() -> None:
    cache = new_cache(2)
    ((_, pages),) = lend(cache, "abcd")
    assert [page > 2 for page in pages] == [False, False, True, True]
    assert lend(cache, "abcd")[0][0] == 2


def test_contexts_of_a_batch_share_no_spare_page_until_they_are_returned() -> None:
    cache = new_cache(0)
    with cache.reservation([]) as reservation:
        first = reservation.pages(chain("abc")).pages
        assert not reservation.needs_spare(chain("xy"))
        second = reservation.pages(chain("xy")).pages
        assert not set(first) & set(second)
        assert reservation.needs_spare(chain("z"))
        reservation.return_spare()
        assert reservation.pages(chain("zzz")).pages == first


def test_a_context_longer_than_the_spare_pages_is_refused() -> None:
    cache = new_cache(20, spare=3)
    with (
        pytest.raises(ContextTooLongError, match="4 blocks, the most served is 3"),
        cache.reservation([]) as reservation,
    ):
        reservation.pages(chain("abcd"))


def test_what_a_batch_matches_is_not_evicted_for_its_other_contexts() -> None:
    cache = new_cache(2)
    ((_, pages),) = lend(cache, "ab")
    (_, others), (held, again) = lend(cache, "xy", "ab")
    assert (held, again) == (2, pages)
    assert not set(others) & set(pages)


def test_a_failed_batch_leaves_nothing_it_reserved() -> None:
    cache = new_cache(4)
    lend(cache, "ab")
    cache.drain_events()

    def fail() -> None:
        with cache.reservation([chain("abc")]) as reservation:
            reservation.pages(chain("abc"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    events = cache.drain_events()
    assert (len(cache), events.inserted, events.evicted) == (2, (), ())
    assert lend(cache, "abcd")[0][0] == 2


def test_events_tell_what_came_and_went() -> None:
    cache = new_cache(2)
    lend(cache, "ab")
    assert cache.drain_events().inserted == ("a", "ab")
    lend(cache, "xy")
    events = cache.drain_events()
    assert (events.inserted, events.evicted) == (("x", "xy"), ("ab", "a"))


PATHS = st.text("abc", max_size=5)


@given(st.integers(0, 6), st.lists(st.lists(PATHS, max_size=4), max_size=12))
def test_no_page_is_lent_twice_and_none_is_lost(budget: int, batches: list[list[str]]) -> None:
    cache = new_cache(budget)
    mirror: dict[str, int] = {}
    for paths in batches:
        with cache.reservation([chain(path) for path in paths]) as reservation:
            lent: dict[int, str] = {}
            for path in paths:
                if reservation.needs_spare(chain(path)):
                    reservation.return_spare()
                    lent = {page: name for page, name in lent.items() if page <= budget}
                check_pages(reservation.pages(chain(path)).pages, path, lent, mirror, budget)
        replay(cache, mirror, lent)
    assert len(cache) == len(mirror) <= budget
    assert sorted([*cache._free, *mirror.values()]) == list(range(1, budget + 1))


def check_pages(
    pages: Sequence[int], path: str, lent: dict[int, str], mirror: dict[str, int], budget: int
) -> None:
    for name, page in zip(chain(path), pages, strict=True):
        if page > budget and page in lent:
            pytest.fail(f"spare page {page} lent to {lent[page]} and {name}")
        assert lent.setdefault(page, name) == name
        assert mirror.get(name, page) == page or page > budget


def replay(cache: PagedCache, mirror: dict[str, int], lent: dict[int, str]) -> None:
    events = cache.drain_events()
    for name in events.evicted:
        del mirror[name]
    places = {name: page for page, name in lent.items()}
    mirror.update({name: places[name] for name in events.inserted})
