"""What the gate is told ahead of a batch is true once the batch is scored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import CacheEvents, ScoreJob
from service.engines.cache_updates import CacheUpdates

BLOCKS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


def job(*blocks: str) -> ScoreJob:
    return ScoreJob(tuple(range(len(blocks))), blocks, ())


def test_the_contexts_of_the_running_batch_count_as_held() -> None:
    updates = CacheUpdates()
    updates.expect([job("a", "b"), job("a", "c")])
    assert updates.take() == CacheEvents(("a", "b", "c"))
    assert updates.take() == CacheEvents()


def test_what_is_held_already_is_not_told_again() -> None:
    updates = CacheUpdates()
    updates.hear(CacheEvents(("a",)))
    assert updates.take() == CacheEvents(("a",))
    updates.expect([job("a", "b")])
    assert updates.take() == CacheEvents(("b",))


def test_what_a_batch_that_failed_did_not_leave_is_taken_back() -> None:
    updates = CacheUpdates()
    updates.expect([job("a", "b")])
    updates.take()
    updates.hear(CacheEvents(("a",)))
    assert updates.take() == CacheEvents(("a",), ("b",))


@given(st.lists(st.tuples(BLOCKS, BLOCKS, BLOCKS, st.booleans()), max_size=12))
def test_behind_every_batch_the_gate_believes_what_the_cache_holds(
    batches: list[tuple[list[str], list[str], list[str], bool]],
) -> None:
    updates, believed, held = CacheUpdates(), set[str](), set[str]()

    def tell() -> None:
        events = updates.take()
        assert not set(events.inserted) & set(events.evicted)
        believed.update(events.inserted)
        believed.difference_update(events.evicted)

    for expected, wanted, gone, looks_ahead in batches:
        if looks_ahead:
            updates.expect([job(*expected)])
            tell()
            assert believed >= set(expected) | held
        inserted = tuple(block for block in wanted if block not in held)
        evicted = tuple(block for block in gone if block in held)
        held = (held | set(inserted)) - set(evicted)
        updates.hear(CacheEvents(inserted, evicted))
        tell()
        assert believed == held
