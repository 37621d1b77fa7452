"""Overtakes by hand-made claims, and on a real Redis no more of them than the pool allows."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from service.engines.overtakes import REMEMBERED_MS, Overtakes
from service.gate.job import Claim, Claimed
from service.gate.settings import GateSettings
from tests.service.gate.jobs import build_job, chain
from tests.service.gate.remote import Remote

CLAIMS = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=3), min_size=1, max_size=20
)


def claimed(name: str, queue_ms: int, cached: int = 0) -> Claimed:
    return Claimed(name, 1, b"", "api", 1, cached, queue_ms)


def test_only_later_jobs_that_went_earlier_and_were_warm_overtook() -> None:
    overtakes = Overtakes()
    early = [claimed("first", 50), claimed("warm", 10, cached=16), claimed("cold", 5)]
    assert overtakes.count(Claim(tuple(early), 0, 1_000)) == {"first": 0, "warm": 0, "cold": 0}
    # Submitted at 980, before "warm" (990) and "cold" (995); "twin" together with "warm".
    late = [claimed("passed", 120), claimed("twin", 110), claimed("later", 101)]
    assert overtakes.count(Claim(tuple(late), 0, 1_100)) == {"passed": 1, "twin": 0, "later": 0}


@given(CLAIMS)
def test_overtakes_are_the_warm_among_all_earlier_picks_that_came_later(
    claims: list[list[tuple[int, bool]]],
) -> None:
    overtakes, picks, now = Overtakes(), list[tuple[int, bool]](), 1_000
    for rows in claims:
        now += 10
        jobs = [claimed(str(at), wait, cached=int(warm)) for at, (wait, warm) in enumerate(rows)]
        wanted = {}
        for at, (wait, warm) in enumerate(rows):
            wanted[str(at)] = sum(hot for came, hot in picks if came > now - wait)
            picks.append((now - wait, warm))
        assert overtakes.count(Claim(tuple(jobs), 0, now)) == wanted


def test_picks_are_forgotten_after_a_while() -> None:
    overtakes = Overtakes()
    overtakes.count(Claim((claimed("warm", 0, cached=16),), 0, 1_000))
    kept, gone = 1_000 + REMEMBERED_MS, 1_001 + REMEMBERED_MS
    assert overtakes.count(Claim((claimed("old", REMEMBERED_MS + 5),), 0, kept)) == {"old": 1}
    assert overtakes.count(Claim((claimed("old", REMEMBERED_MS + 5),), 0, gone)) == {"old": 0}


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_cold_job_in_credit_is_overtaken_as_often_as_the_pool_allows(
    service_redis_url: str, pool: str, most: int
) -> None:
    with redis.Redis.from_url(service_redis_url) as client:
        remote = Remote(client, service_redis_url, pool, GateSettings(overtakes=most))
        overtakes, counts = Overtakes(), dict[str, int]()
        remote.join("worker")
        for name, context in [("cold", ""), *((f"hot-{number}", "abc") for number in range(6))]:
            assert remote.submit(build_job(name, context=context)).answer == "queued"
            remote.pass_time(1)  # times of submit are told apart by whole milliseconds
        for number in range(7):
            held = chain("abc") if not number else ()
            counts |= overtakes.count(remote.claim("worker", 10_000, 1, inserted=held))
    assert counts == {"cold": most} | {f"hot-{number}": 0 for number in range(6)}
