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
