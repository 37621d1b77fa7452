"""A job is lost when it is missing from a whole read that began after the pool had forgotten it."""

from __future__ import annotations

from service.dispatch.lost_jobs import LostJobs


def test_a_read_that_was_under_way_proves_nothing() -> None:
    lost = LostJobs()
    under_way = lost.begin_read()
    lost.suspect("job")
    assert lost.end_read(under_way) == []
    assert lost.end_read(lost.begin_read()) == ["job"]


def test_a_suspicion_is_told_once_and_not_put_off_by_another() -> None:
    lost = LostJobs()
    lost.suspect("job")
    read = lost.begin_read()
    lost.suspect("job")
    lost.suspect("later")
    assert lost.end_read(read) == ["job"]
    assert lost.end_read(lost.begin_read()) == ["later"]
    assert lost.end_read(lost.begin_read()) == []


def test_a_read_that_failed_does_not_count() -> None:
    lost = LostJobs()
    lost.suspect("job")
    lost.begin_read()
    lost.suspect("later")
    assert lost.end_read(lost.begin_read()) == ["job", "later"]
