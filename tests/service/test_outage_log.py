"""An outage is told at its beginning and at its end, however many tries lie between."""

from __future__ import annotations

import logging

import pytest

from service.outage_log import OutageLog


def test_each_outage_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(logging.getLogger("fairslate.test"), "leases are not renewed")
    for _ in range(2):
        outage.back()
        for _ in range(3):
            outage.away(OSError("gone"))
        outage.back()
    told = ["leases are not renewed: gone", "leases are not renewed: no more, Redis is back"]
    assert [record.getMessage() for record in caplog.records] == told * 2


def test_the_cause_which_names_the_address_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("gone")
    error.__cause__ = ConnectionError("connecting to 127.0.0.1:9")
    OutageLog(logging.getLogger("fairslate.test"), "cannot see the engines").away(error)
    [record] = caplog.records
    assert record.getMessage() == "cannot see the engines: gone (connecting to 127.0.0.1:9)"
