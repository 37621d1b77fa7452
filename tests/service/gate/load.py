"""An API process and a worker that never pause, for tests of what goes wrong meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Settlement
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job


class Load:
    """An API process and a worker in two threads, until told to stop; remembers what was said."""

    def __init__(self, url: str, settings: GateSettings = SETTINGS) -> None:
        self.api, self.worker = Api(url, settings), WorkerGate(url, POOL, settings, "worker")
        self.accepted: set[str] = set()
        self.settled: Counter[str] = Counter()  # acknowledged, by job
        self.outages = 0
        self.last_outage = ""
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._submit, self._serve)]
        self.worker.join()
        for thread in self._threads:
            thread.start()

    def wait_for(self, jobs: int) -> None:
        """Returns when so many jobs have been settled."""
        try:
            wait_until(lambda: len(self.settled) >= jobs, 60.0, f"{jobs} settled jobs")
        except TimeoutError as error:
            error.add_note(f"{len(self.settled)} were; {self.outages} outages: {self.last_outage}")
            raise

    def stop(self) -> None:
        """Ends the threads after the call each is in."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _submit(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            job = build_job(f"job-{number}", f"tenant-{number % 7}", "abc"[: number % 4])
            try:
                self.api.submit(job)
            except GateUnavailableError as error:
                self._remember(error)
            else:
                self.accepted.add(job.job_id)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._settle(self.worker.claim(1_000, 8).jobs)
            except GateUnavailableError as error:
                self._remember(error)

    def _remember(self, outage: GateUnavailableError) -> None:
        self.outages += 1
        self.last_outage = f"{outage} ({outage.__cause__!r})"

    def _settle(self, jobs: tuple[Claimed, ...]) -> None:
        settlements = [scored(claimed) for claimed in jobs]
        taken = self.worker.settle(settlements)
        self.settled.update(
            item.job_id for item, flag in zip(settlements, taken, strict=True) if flag
        )


@contextmanager
def loading(url: str) -> Iterator[Load]:
    """A load that ends with the block, also when the block fails."""
    load = Load(url)
    try:
        yield load
    finally:
        load.stop()


def scored(claimed: Claimed) -> Settlement:
    return Settlement(claimed.job_id, claimed.epoch, claimed.charged, str(claimed.charged).encode())


def finish(url: str) -> tuple[Counter[str], int]:
    """Serves what is left; returns replies by job and the cost they tell."""
    api, worker = Api(url, SETTINGS), WorkerGate(url, POOL, SETTINGS, "worker")
    worker.join()
    while jobs := worker.claim(10_000, 100).jobs:
        worker.settle([scored(claimed) for claimed in jobs])
    replies, cost = Counter[str](), 0
    while some := api.replies():
        replies.update(reply.job_id for reply in some)
        cost += sum(int(reply.result) for reply in some)
    assert api.stats().queued_jobs == api.stats().leased_jobs == 0
    assert api.stats().service == cost
    return replies, cost
