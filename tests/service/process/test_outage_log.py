"""An outage is told at its beginning and at its end, however many tries lie between."""

from __future__ import annotations

import logging

import pytest

from service.process.outage_log import OutageLog


def test_each_outage_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(logging.getLogger("fairslate.test"), "leases are not renewed")
    for _ in range(2):
        outage.back()
        for _ in range(3):
            outage.away(OSError("gone"))
        outage.back()
    told = ["leases are not renewed: gone", "leases are not renewed: no more, Redis is back"]
    assert [record.getMessage() for record in caplog.records] == told * 2


def test_an_outage_that_comes_and_goes_is_one_until_it_is_calm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("service.process.outage_log.time.monotonic", lambda: clock[0])
    outage = OutageLog(logging.getLogger("fairslate.test"), "slates are refused", 5.0)
    for clock[0] in (100.0, 104.0, 108.0):
        outage.away(OSError("full"))
        outage.back()
    assert [record.getMessage() for record in caplog.records] == ["slates are refused: full"]
    for clock[0] in (112.0, 113.0, 200.0):
        outage.back()
    told = [record.getMessage() for record in caplog.records]
    assert told[1:] == ["slates are refused: no more, Redis is back"]


def test_the_cause_which_names_the_address_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("gone")
    error.__cause__ = ConnectionError("connecting to 127.0.0.1:9")
    OutageLog(logging.getLogger("fairslate.test"), "cannot see the engines").away(error)
    [record] = caplog.records
    assert record.getMessage() == "cannot see the engines: gone (connecting to 127.0.0.1:9)"
