"""Requests are drawn from the data, repeatably, in sessions. Knows nothing of a server."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from loadtest.traffic import SLATE_SIZE, Catalogue, RankCall, Traffic, load_catalogue

DATA = Path(__file__).parents[2] / "models" / "demo" / "onet_jobs"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(DATA)


def calls(catalogue: Catalogue, seed: int, sessions: int) -> list[list[RankCall]]:
    traffic = Traffic(catalogue, seed)
    return [list(traffic.session(traffic.draw_tenant())) for _ in range(sessions)]


def test_the_seed_decides_every_request(catalogue: Catalogue) -> None:
    assert calls(catalogue, 1, 20) == calls(catalogue, 1, 20)
    assert calls(catalogue, 1, 20) != calls(catalogue, 2, 20)


def test_a_session_keeps_its_context_and_changes_its_slate(catalogue: Catalogue) -> None:
    longest = max(calls(catalogue, 3, 50), key=len)
    assert len(longest) > 2
    assert len({call.body["context"] for call in longest}) == 1
    slates = {tuple(item["id"] for item in call.body["candidates"]) for call in longest}
    assert len(slates) == len(longest)


def test_slates_hold_distinct_known_postings(catalogue: Catalogue) -> None:
    for call in (call for session in calls(catalogue, 4, 50) for call in session):
        candidates = call.body["candidates"]
        assert len({item["id"] for item in candidates}) == SLATE_SIZE
        assert all(item["text"] == catalogue.postings[item["id"]] for item in candidates)


def test_the_first_slate_is_the_labelled_one(catalogue: Catalogue) -> None:
    labelled = {(m.text, m.slate) for ms in catalogue.members.values() for m in ms}
    for session in calls(catalogue, 5, 20):
        body = session[0].body
        assert (body["context"], tuple(c["id"] for c in body["candidates"])) in labelled


def test_tenants_share_by_zipf_and_members_return(catalogue: Catalogue) -> None:
    traffic = Traffic(catalogue, 6)
    shares = Counter(traffic.draw_tenant() for _ in range(4000))
    assert 0.25 < shares.most_common(1)[0][1] / 4000 < 0.36
    assert set(shares) == set(catalogue.members)
    tenant = shares.most_common(1)[0][0]
    drawn = Counter(next(traffic.session(tenant)).body["context"] for _ in range(400))
    assert drawn.most_common(1)[0][1] > 3 * 400 / len(catalogue.members[tenant])


def test_sessions_have_three_requests_on_average(catalogue: Catalogue) -> None:
    lengths = [len(session) for session in islice(calls(catalogue, 7, 600), 600)]
    assert 2.6 < sum(lengths) / len(lengths) < 3.4
