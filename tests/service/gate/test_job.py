"""What a job promises about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.gate.job import Job
from service.gate.settings import GateSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0}, "weight"),
        ({"block_size": 0}, "block_size"),
        ({"candidate_tokens": -1}, "negative"),
        ({"context_tokens": 33}, "one hash for each started block"),
        ({"context_hashes": ("a", "bc")}, "same length"),
        ({"job_id": ""}, "job_id"),
        ({"job_id": "a\0b"}, "NUL"),
    ],
)
def test_a_job_the_scripts_could_not_read_is_refused(
    make_job: Callable[..., Job], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_job("job"), **change)


def test_a_context_is_named_by_its_last_block(make_job: Callable[..., Job]) -> None:
    assert make_job("job", context="abc").context_id == "abc_____"
    assert make_job("job", context="").context_id == ""


@pytest.mark.parametrize("change", [{"quantum": 0}, {"max_attempts": 0}, {"lease_ms": -1}])
def test_settings_that_would_stop_the_gate_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        GateSettings(**change)
