"""What the gate is told ahead of a batch is true once the batch is scored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import CacheEvents, ScoreJob
from service.cache_news import CacheNews

BLOCKS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


def job(*blocks: str) -> ScoreJob:
    return ScoreJob(tuple(range(len(blocks))), blocks, ())


def test_the_contexts_of_the_running_batch_count_as_held() -> None:
    news = CacheNews()
    news.expect([job("a", "b"), job("a", "c")])
    assert news.take() == CacheEvents(("a", "b", "c"))
    assert news.take() == CacheEvents()


def test_what_is_held_already_is_not_told_again() -> None:
    news = CacheNews()
    news.hear(CacheEvents(("a",)))
    assert news.take() == CacheEvents(("a",))
    news.expect([job("a", "b")])
    assert news.take() == CacheEvents(("b",))


def test_what_a_batch_that_failed_did_not_leave_is_taken_back() -> None:
    news = CacheNews()
    news.expect([job("a", "b")])
    news.take()
    news.hear(CacheEvents(("a",)))
    assert news.take() == CacheEvents(("a",), ("b",))


@given(st.lists(st.tuples(BLOCKS, BLOCKS, BLOCKS, st.booleans()), max_size=12))
def test_behind_every_batch_the_gate_believes_what_the_cache_holds(
    batches: list[tuple[list[str], list[str], list[str], bool]],
) -> None:
    news, believed, held = CacheNews(), set[str](), set[str]()

    def tell() -> None:
        events = news.take()
        assert not set(events.inserted) & set(events.evicted)
        believed.update(events.inserted)
        believed.difference_update(events.evicted)

    for expected, wanted, gone, looks_ahead in batches:
        if looks_ahead:
            news.expect([job(*expected)])
            tell()
            assert believed >= set(expected) | held
        inserted = tuple(block for block in wanted if block not in held)
        evicted = tuple(block for block in gone if block in held)
        held = (held | set(inserted)) - set(evicted)
        news.hear(CacheEvents(inserted, evicted))
        tell()
        assert believed == held
