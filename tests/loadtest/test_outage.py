"""The measurement of an outage on a real server, in a size that only shows that it works."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from loadtest.gated import outage_rows
from loadtest.outage import measured, standing_alone

pytestmark = pytest.mark.long


def test_an_outage_is_timed_to_the_first_answer(tmp_path: Path, tiny_model_dir: Path) -> None:
    with standing_alone(tmp_path, tiny_model_dir) as (server, redis):
        row = measured(server, redis, signal.SIGKILL, count=1)
        with pytest.raises(AssertionError, match="that was to be lost"):
            measured(server, redis, signal.SIGCONT, count=1)  # takes nothing away
    assert row["first_answer_s"] == [row["median_s"]] == [row["worst_s"]]
    assert outage_rows([{"how": "killed", **row}])
