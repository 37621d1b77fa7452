"""What a job and the settings promise about themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.gate.job import Job, Level
from service.gate.settings import ATTRIBUTIONS, POLICIES, GateSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tenant_level": 1}, "tenant_level"),
        ({"tenant_level": -1}, "tenant_level"),
        ({"path": ()}, "tenant_level"),
        ({"block_size": 0}, "block_size"),
        ({"candidate_tokens": -1}, "negative"),
        ({"output_tokens": -1}, "negative"),
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


@pytest.mark.parametrize("name", ["", "a/b", "a\0b"])
def test_a_level_needs_a_name_that_fits_into_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="level"):
        Level(name)


@pytest.mark.parametrize("weight", [0, -1])
def test_a_level_needs_a_positive_weight(weight: int) -> None:
    with pytest.raises(ValueError, match="'acme' needs a weight of at least 1"):
        Level("acme", weight)


def test_a_job_names_its_leaf_and_its_tenant(make_job: Callable[..., Job]) -> None:
    job = make_job("job", "interactive:8/acme:2/alice", tenant_level=1)
    assert [level.weight for level in job.path] == [8, 2, 1]
    assert (job.tenant, job.tenant_id) == ("acme", "interactive/acme")
    assert job.leaf == "interactive/acme/alice"


def test_a_context_is_named_by_its_last_block(make_job: Callable[..., Job]) -> None:
    assert make_job("job", context="abc").context_id == "abc_____"
    assert make_job("job", context="").context_id == ""


def test_a_jobs_tokens_are_context_candidates_and_output(make_job: Callable[..., Job]) -> None:
    job = make_job("job", context="ab", short_by=3, candidate_tokens=7, output_tokens=5)
    assert job.tokens == 29 + 7 + 5


@pytest.mark.parametrize(
    "change",
    [
        {"quantum": 0},
        {"worker_quantum": 0},
        {"extend_weight": 0},
        {"output_weight": -1},
        {"overtakes": -1},
        {"max_attempts": 0},
        {"max_tenant_in_flight": 0},
        {"lease_ms": -1},
        {"policy": "random"},
        {"attribution": "nobody"},
    ],
)
def test_settings_that_would_stop_the_gate_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        GateSettings(**change)


def test_every_policy_attribution_and_lowest_value_is_accepted() -> None:
    for policy in POLICIES:
        for attribution in ATTRIBUTIONS:
            GateSettings(policy=policy, attribution=attribution, lease_ms=0, overtakes=0)
    assert GateSettings(output_weight=0).output_weight == 0
