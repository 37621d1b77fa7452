"""The simulation keeps its books: tokens, credit, memory and time agree with the gate's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtest.simulation.engine import Simulation
from loadtest.simulation.hardware import A10, LLAMA_3B, Engine, engine
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
    settings = GateSettings(policy=policy, quantum=2_000, worker_quantum=100_000, overtakes=64)
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
    settings = GateSettings(quantum=500)
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
