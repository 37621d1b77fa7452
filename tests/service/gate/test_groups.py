"""Contexts with many waiting jobs on Redis: a group stands by the arrival of its first job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.gate.gate import WorkerGate
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job


@pytest.fixture
def api(redis_url: str) -> Iterator[Api]:
    api = Api(redis_url, SETTINGS)
    yield api
    api.close()


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerGate]:
    worker = WorkerGate(redis_url, POOL, SETTINGS, "worker")
    worker.join()
    yield worker
    worker.close()


def submit(api: Api, **contexts: str) -> None:
    for name, context in contexts.items():
        api.submit(build_job(name, context=context))


def served(worker: WorkerGate) -> list[str]:
    """What goes first, alone: the rest of a batch would find its context held."""
    return [job.job_id for job in worker.claim(1_000, 1).jobs]


def test_a_job_that_comes_back_leads_its_group_again(api: Api, worker: WorkerGate) -> None:
    submit(api, oldest="ab")
    assert served(worker) == ["oldest"]
    submit(api, other="xy", rival="xy", younger="ab")
    worker.join()  # ends its lease
    assert served(worker) == ["oldest"]


def test_a_group_falls_behind_when_its_first_job_leaves(api: Api, worker: WorkerGate) -> None:
    submit(api, oldest="ab", other="xy", rival="xy", younger="ab", youngest="ab")
    assert api.cancel("oldest")
    assert served(worker) == ["other"]


def test_a_group_counts_its_jobs_anew_when_one_leaves(api: Api, worker: WorkerGate) -> None:
    submit(api, first="ab", second="ab", third="ab", other="xy", rival="xy")
    assert api.cancel("second")
    assert api.cancel("third")
    assert served(worker) == ["other"]


def test_a_context_that_nobody_waits_for_any_more_is_hot_no_longer(
    api: Api, worker: WorkerGate
) -> None:
    worker.claim(0, 0, inserted=build_job("any", context="ab").context_hashes)
    submit(api, hot="ab", cold="xy")
    assert api.cancel("hot")
    assert served(worker) == ["cold"]
    submit(api, first="cd", other="ab")
    assert served(worker) == ["other"]
