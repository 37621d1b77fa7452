"""Who serves, what each has to do, and where a job is routed."""

from __future__ import annotations

from service.gate.fleet import Fleet
from service.gate.queues import Entry
from service.gate.tree import Node
from tests.service.gate.jobs import build_job, chain

WORKER_QUANTUM = 100


def fleet_of(*workers: str) -> Fleet:
    fleet = Fleet(WORKER_QUANTUM)
    fleet.workers.update(dict.fromkeys(workers, 0))
    return fleet


def entry_of(context: str = "ab") -> Entry:
    return Entry(build_job("job", context=context), Node("tenant", None), 1, 0, 60_000, 0)


def test_a_job_for_nobody_waits_in_the_nameless_queue_and_costs_no_credit() -> None:
    tenant = Node("tenant", None)
    assert fleet_of().route(entry_of(), tenant) == ""
    assert fleet_of("only").route(entry_of(), tenant) == "only"
    assert tenant.credits == {}


def test_a_job_is_routed_to_the_warm_worker_until_the_tenants_credit_there_is_spent() -> None:
    fleet, tenant = fleet_of("one", "two"), Node("tenant", None)
    fleet.belief.hear("two", chain("ab"), [])
    assert fleet.route(entry_of(), tenant) == "two"
    assert tenant.credits == {"one": 100, "two": 100 - 42}
    tenant.credits["two"] = 0
    assert fleet.route(entry_of(), tenant) == "one"


def test_jobs_of_one_context_follow_each_other_before_it_is_computed() -> None:
    fleet, tenant = fleet_of("one", "two"), Node("tenant", None)
    first = entry_of("xyz")
    assert fleet.route(first, tenant) == "one"
    fleet.loads["one"] = 500
    assert fleet.route(entry_of("xyz"), tenant) == "one"
    assert fleet.route(entry_of("q"), tenant) == "two"


def test_a_job_that_ended_promises_its_context_no_more() -> None:
    fleet, tenant = fleet_of("one", "two"), Node("tenant", None)
    entry = entry_of("xyz")
    fleet.route(entry, tenant)
    for _ in range(2):  # the second time nothing is left to take back
        fleet.unexpect(entry)
    fleet.loads["one"] = 500
    assert fleet.route(entry_of("xyz"), tenant) == "two"


def test_tokens_queued_and_leased_load_a_worker() -> None:
    fleet, entry = fleet_of("one", "two"), entry_of()
    entry.queue, entry.worker = "one", "two"
    fleet.count_queued(entry, 1)
    fleet.count_leased(entry, 1)
    assert (fleet.loads["one"], fleet.loads["two"]) == (42, 42)
    assert (fleet.idles("one"), fleet.idles("two")) == (True, False)
    fleet.count_queued(entry, -1)
    fleet.count_leased(entry, -1)
    assert (fleet.loads["one"], fleet.loads["two"]) == (0, 0)
    assert fleet.idles("two")


def test_only_workers_that_are_known_are_seen_or_idle() -> None:
    fleet = fleet_of("one", "two", "three")
    fleet.see("one", 50)
    fleet.see("stranger", 50)
    assert "stranger" not in fleet.workers
    assert fleet.idle(49) == ["three", "two"]
    assert not fleet.idles("stranger")


def test_a_dismissed_worker_takes_its_cache_along_but_not_its_queue() -> None:
    fleet, job = fleet_of("one"), build_job("job")
    fleet.belief.hear("one", job.context_hashes, [])
    fleet.loads["one"] = 42
    for _ in range(2):  # dismissing a stranger does nothing
        fleet.dismiss("one")
    assert fleet.workers == {}
    assert fleet.belief.matched("one", job) == 0
    assert fleet.loads["one"] == 42
