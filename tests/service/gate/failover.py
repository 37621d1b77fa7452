"""Fails a saturated Redis over and measures how far that drives two tenants apart. Knows no policy.

python -m tests.service.gate.failover --json loadtest/results/gate_failover.json

The replica stops hearing of the primary, which serves on for some claims, the lag, and is killed.
The replica then serves with counters that know nothing of what was settled in the lag.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from loadtest.fresh import conditions
from service.gate import policy
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Settlement
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.gate.client import POOL, Api
from tests.service.gate.jobs import build_job
from tests.service.gate.overload import LARGEST_CANDIDATES, LARGEST_COST, NO_CAPS
from tests.service.gate.redis_servers import RedisServer, in_step, running

PAIR = ("ada", "bob")
DEPTH = 12  # jobs of each tenant that wait at least, three claims' worth
BUDGET, MOST_JOBS = 900, 4
CLAIMS = 300  # before the failover, and again behind it
SEEDS = 3
LAGS = (0, 1, 4, 16, 64)
PAPERS = replace(NO_CAPS, quantum=2_048, quantum_parts=1)
SERVICES = replace(NO_CAPS, quantum=4_096, quantum_parts=32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Costs. A gap is the most by which the tenants' services drifted apart in any window."""

    lag: dict[str, int]  # settled where the successor never heard of it, by tenant
    unknown: dict[str, int]  # what the successor's books lacked when it began
    gap_before: int  # as engines served, up to the failover
    gap: int  # and to the end
    gap_known: int  # to the end, without what was served in the lag
    bound: int  # of the policy, for a Redis that never fails

    @property
    def growth(self) -> int:
        return self.gap - self.gap_before


class Pair:
    """Two tenants with work waiting all the time, and one worker with a batch in flight."""

    def __init__(self, url: str, settings: GateSettings, seed: int) -> None:
        self._settings, self._random = settings, Random(seed)
        self._owners: dict[str, str] = {}
        self._in_flight: tuple[Claimed, ...] = ()
        self._most_in_flight: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.drifts = [0]
        self._move_to(url)

    def serve(self, claims: int) -> Counter[str]:
        """Claims and settles; returns what was settled, by tenant."""
        settled: Counter[str] = Counter()
        for _ in range(claims):
            self._top_up()
            jobs = self._worker.claim(BUDGET, MOST_JOBS).jobs
            settled += self._settle()
            self._in_flight = jobs
            costs = self._costs(jobs)
            self.delivered += costs
            self._most_in_flight |= costs
            self.drifts.append(self.delivered[PAIR[0]] - self.delivered[PAIR[1]])
        return settled

    def fail_over(self, primary: RedisServer, replica: RedisServer, lag: int) -> Outcome:
        """Serves as many claims as the replica never hears of, then goes on with that."""
        wait_until(lambda: in_step(primary, replica), 10.0, "the replica")
        replica.client().execute_command("REPLICAOF", "NO", "ONE")
        before = gap(self.drifts)
        lost = self.serve(lag)
        if lag:
            lost += self._settle()
        primary.kill()
        at_cut, delivered = len(self.drifts), Counter(self.delivered)
        self._move_to(replica.url)
        nodes = self._api.stats(*PAIR).nodes
        unknown = {name: delivered[name] - nodes[name].service for name in PAIR}
        self.serve(CLAIMS)
        step = lost[PAIR[0]] - lost[PAIR[1]]
        # In the successor's books the service of the lag has not been.
        known = [*self.drifts[: at_cut - lag], *[one - step for one in self.drifts[at_cut:]]]
        flying = self._most_in_flight[PAIR[0]], self._most_in_flight[PAIR[1]]
        bound = policy.gap_bound(self._settings.quantum, LARGEST_COST, (1, 1), flying)
        counts = {name: lost[name] for name in PAIR}
        return Outcome(counts, unknown, before, gap(self.drifts), gap(known), int(bound))

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()
        self._worker.close()

    def _move_to(self, url: str) -> None:
        """What is in flight is settled there, if it is known, before the worker joins anew."""
        if self.delivered:
            self.close()
        self._api = Api(url, self._settings)
        self._worker = WorkerGate(url, POOL, self._settings, "worker")
        self._settle()
        self._worker.join()

    def _top_up(self) -> None:
        nodes = self._api.stats(*PAIR).nodes
        for name in PAIR:
            waiting = nodes[name].queued_jobs if name in nodes else 0
            for _ in range(DEPTH - waiting):
                self._submit(name)

    def _submit(self, name: str) -> None:
        context = self._random.choice(["", "a", "ab", "xyz"])
        tokens = self._random.randrange(1, LARGEST_CANDIDATES + 1)
        job = build_job(f"job-{len(self._owners)}", name, context, candidate_tokens=tokens)
        self._api.submit(job)
        self._owners[job.job_id] = name

    def _settle(self) -> Counter[str]:
        jobs, self._in_flight = self._in_flight, ()
        rows = [Settlement(job.job_id, job.epoch, job.charged, b"") for job in jobs]
        if rows:
            assert self._worker.settle(rows) == [True] * len(rows)
        return self._costs(jobs)

    def _costs(self, jobs: tuple[Claimed, ...]) -> Counter[str]:
        costs: Counter[str] = Counter()
        for job in jobs:
            costs[self._owners[job.job_id]] += job.charged
        return costs


def gap(drifts: list[int]) -> int:
    """The widest over all windows."""
    return max(drifts) - min(drifts)


def failed_over(directory: Path, settings: GateSettings, lag: int, seed: int) -> Outcome:
    """One failover between two servers of its own."""
    primary, replica = (RedisServer(directory / name) for name in ("primary", "replica"))
    with running(primary, replica):
        replica.client().execute_command("REPLICAOF", "127.0.0.1", primary.port)
        pair = Pair(primary.url, settings, seed)
        pair.serve(CLAIMS)
        outcome = pair.fail_over(primary, replica, lag)
        pair.close()
    return outcome


def row(settings: GateSettings, lag: int) -> dict[str, Any]:
    """The worst of some runs with one lag."""
    outcomes = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as directory:
            outcomes.append(failed_over(Path(directory), settings, lag, seed))
    worst = max(outcomes, key=lambda outcome: outcome.growth)
    return {
        "quantum": settings.quantum,
        "quantum_parts": settings.quantum_parts,
        "lag_claims": lag,
        "lag_cost": sum(worst.lag.values()),
        "gap_before": worst.gap_before,
        "gap": worst.gap,
        "growth": worst.growth,
        "gap_most": max(outcome.gap for outcome in outcomes),
        "bound": max(outcome.bound for outcome in outcomes),
        "runs": SEEDS,
        "claims": CLAIMS,
        "largest_cost": LARGEST_COST,
    }


def main() -> None:
    """Writes one row for each setting and lag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    target: Path = parser.parse_args().json
    rows = [row(settings, lag) for settings in (PAPERS, SERVICES) for lag in LAGS]
    text = json.dumps({**conditions(), "rows": rows}, indent=1) + "\n"
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
