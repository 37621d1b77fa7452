"""The simulation keeps its books: tokens, credit, memory and time agree with the gate's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtest.simulation.clients import Client, Gamma
from loadtest.simulation.engine import Simulation
from loadtest.simulation.hardware import A10, LLAMA_3B, Engine, engine
from loadtest.simulation.papers import OVERTAKES, PAPERS
from loadtest.simulation.requests import Request
from loadtest.simulation.routers import ClientRoundRobin, PrebleLike, Router
from loadtest.simulation.worker import Task
from loadtest.simulation.workloads import overload, panel
from service.gate.job import Job
from service.gate.policy import gap_bound
from service.gate.pool import Pool
from service.gate.settings import GateSettings

SECONDS = 15_000.0
BLOCKS = {"tot": 32, "judge": 32, "qa": 128, "chat": 32}


def built(workload: str, policy: str = "dlpm", workers: int = 1, **how: object) -> Simulation:
    settings = replace(PAPERS, policy=policy, worker_quantum=100_000, overtakes=OVERTAKES)
    small = small_engine(BLOCKS[workload.split("-")[1]])
    return Simulation(small, panel(workload, 1), settings, workers, **how)  # type: ignore[arg-type]


def small_engine(block: int) -> Engine:
    return replace(engine(A10, LLAMA_3B, block), max_running=32)


@pytest.mark.parametrize("workload", ["s1-tot", "s2-judge", "s2-qa", "s1-chat"])
@pytest.mark.parametrize("workers", [1, 2])
def test_charges_are_the_tokens_that_the_engines_computed(workload: str, workers: int) -> None:
    simulation = built(workload, workers=workers)
    totals = simulation.run(SECONDS)
    (pool,) = simulation.pools
    reserved = sum(unused(task) for worker in simulation.workers for task in worker.running)
    reserved += sum(task.owner.charged for worker in simulation.workers for task in worker.waiting)
    used = totals.extend_tokens + 2 * totals.output_tokens
    assert 0 < used <= sum(totals.delivered)
    assert sum(totals.delivered) == totals.prompt_tokens + 2 * totals.output_tokens
    assert pool.nodes[""].service + pool.ledger.uncharged == used + reserved


def unused(task: Task) -> int:
    """Of a running job's reservation: its output cap less what is counted as generated."""
    generated = task.request.output_tokens - task.steps_left - task.steps_done
    return 2 * (task.request.output_cap - generated)


@pytest.mark.parametrize("router", [None, Router, ClientRoundRobin, PrebleLike])
def test_the_seed_decides_everything(router: type[Router] | None) -> None:
    def services(seed: int) -> object:
        how = {"router": router() if router else None, "seed": seed}
        simulation = built("s1-tot", "lpm" if router else "dlpm", 2, **how)
        return simulation.run(SECONDS).delivered

    assert services(1) == services(1)
    assert services(1) != services(2)


@pytest.mark.parametrize("policy", ["dlpm", "vtc", "lpm", "fcfs", "hrrn"])
@pytest.mark.parametrize("workload", ["s1-tot", "s1-qa"])
def test_no_worker_idles_beside_work(policy: str, workload: str) -> None:
    simulation = built(workload, policy, workers=2)
    assert simulation.run(SECONDS).idle_with_work == 0
    for worker in simulation.workers:
        assert worker.kv_tokens <= worker.engine.kv_tokens


def test_clients_in_overload_stay_within_the_bound_of_their_gap() -> None:
    settings = replace(PAPERS, quantum=500)
    tight = replace(small_engine(32), kv_tokens=8_192)
    simulation = Simulation(tight, overload(), settings)
    simulation.run(120_000.0)
    bound = gap_bound(500, simulation.pools[0].ledger.largest_cost)
    assert 0 < simulation.observer.charged.largest <= bound


def test_locality_pays_and_fairness_holds() -> None:
    rows = {}
    for policy in ("dlpm", "lpm", "vtc"):
        simulation = built("s1-tot", policy)
        totals = simulation.run(2 * SECONDS)
        rows[policy] = (
            totals.extend_tokens / totals.prompt_tokens,
            simulation.observer.charged.largest,
        )
    assert rows["lpm"][0] <= rows["dlpm"][0] < rows["vtc"][0]
    assert rows["dlpm"][1] < rows["lpm"][1] / 10


def test_a_routed_job_goes_where_its_context_is() -> None:
    router, seen = PrebleLike(), dict[str, list[int]]()
    simulation = built("s2-qa", "lpm", workers=2, router=router)
    place = router.place

    def noted(job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        seen.setdefault(job.context_id, []).append(place(job, gates, names))
        return seen[job.context_id][-1]

    router.place = noted  # type: ignore[method-assign]
    simulation.run(SECONDS)
    shared = [set(places) for places in seen.values() if len(places) > 3]
    assert shared
    assert all(len(places) == 1 for places in shared)


@pytest.mark.parametrize("told", [True, False])
def test_a_request_that_is_late_is_dropped_if_the_gate_knows_and_its_program_goes_on(
    told: bool,
) -> None:
    """Sessions of three pages, of which the second is worth nothing after a millisecond."""
    pages = [
        Request((), 3_000, 1, 1, delay_ms=5, deadline_ms=deadline_ms, deadline_told=told)
        for deadline_ms in (10**6, 1, 10**6)
    ]
    clients = [
        Client("reader", lambda _: Pages(pages), Gamma(1.0, 0.0, slots=1)),
        Client("bulk", lambda _: Pages([Request((), 3_000, 50, 50)] * 40), Gamma(1.0, 0.0, 4)),
    ]
    simulation = Simulation(small_engine(32), clients, GateSettings(policy="fcfs"))
    totals = simulation.run(2 * SECONDS)
    assert [due.missed for due in totals.dues if due.client == 0][:3] == [False, True, False]
    assert {due.client for due in totals.dues} == {0}
    ends = [span.ended for span in totals.programs if span.client == 0]
    served = [span for span in totals.first_tokens if span.client == 0 and span.ended <= ends[-1]]
    assert len(served) == (2 if told else 3) * len(ends)


class Pages:
    """One request after the other."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._rest = list(requests)

    def start(self) -> list[Request]:
        return [self._rest.pop(0)]

    def after(self, _request: Request) -> list[Request]:
        return self.start() if self._rest else []
