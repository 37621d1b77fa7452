"""What tenants get beside each other under overload: shares, gaps, waits, no gain by splitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate import policy
from service.gate.job import Level
from service.gate.pool import Pool
from service.gate.settings import GateSettings
from service.gate.tree import Node, Tree
from tests.service.gate.jobs import build_job, chain, scored
from tests.service.gate.overload import LARGEST_COST, NO_CAPS, WORKER, Overload

QUANTUM = 200
SETTINGS = replace(NO_CAPS, quantum=QUANTUM, quantum_parts=1)
STEPS = 1_500
CONTEXTS = "abc"
PAIRS = [("f", "g"), ("f", "g:3"), ("f:2", "g:100"), ("a/f", "a/g:2"), ("f:2/x", "g:1/y")]


def names(leaf: str) -> list[str]:
    """Ids of a leaf and the nodes above it, the top one first."""
    cells = [cell.partition(":")[0] for cell in leaf.split("/")]
    return ["/".join(cells[: depth + 1]) for depth in range(len(cells))]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seed", range(2))
def test_backlogged_siblings_never_drift_apart_by_more_than_the_bound(
    pair: tuple[str, str], seed: int
) -> None:
    """Net service per weight over every window, with late and partial refunds in flight."""
    overload = Overload(replace(SETTINGS, quantum_parts=1 + 4 * seed), pair, seed)
    overload.top_up(1)
    siblings = rivals(overload, pair)
    most_in_flight, drifts = [0, 0], [0.0]
    for _ in range(STEPS):
        overload.top_up(5)
        overload.claim(overload.random.choice([0, 900]))
        for place, leaf in enumerate(pair):
            flying = [
                job.charged for job in overload.in_flight if overload.owners[job.job_id] == leaf
            ]
            most_in_flight[place] = max(most_in_flight[place], sum(flying))
        overload.settle(
            overload.random.randrange(12),
            lambda job: overload.random.choice([job.charged, job.charged // 2, 0]),
        )
        one, other = (node.service / node.weight for node in siblings)
        drifts.append(one - other)
    first, second = siblings
    bound = policy.gap_bound(
        QUANTUM,
        LARGEST_COST,
        (first.weight, second.weight),
        (most_in_flight[0], most_in_flight[1]),
    )
    assert max(drifts) - min(drifts) <= bound
    assert min(node.service for node in siblings) > 3 * bound


def rivals(overload: Overload, pair: Sequence[str]) -> list[Node]:
    """The two nodes at which the leaves' ways part."""
    ways = zip(*map(names, pair), strict=True)
    ids = next(way for way in ways if len(set(way)) == 2)
    return [overload.pool.nodes[node] for node in ids]


@pytest.mark.parametrize("weights", [(1, 2, 3, 4), (1, 100)])
def test_shares_follow_the_weights(weights: tuple[int, ...]) -> None:
    leaves = [f"tenant-{weight}:{weight}" for weight in weights]
    overload = Overload(replace(SETTINGS, quantum=QUANTUM // 10), leaves)
    overload.serve(3_000)
    total = overload.service("")
    for weight in weights:
        share = overload.service(f"tenant-{weight}") / total
        assert share == pytest.approx(weight / sum(weights), rel=0.02)


def test_a_tenant_gains_nothing_by_splitting_over_a_thousand_users() -> None:
    def share(users: int, depth: int) -> float:
        honest = [f"honest/user-{user}" for user in range(5)]
        split = [f"splitter/user-{user}" for user in range(users)]
        overload = Overload(replace(SETTINGS, quantum=QUANTUM // 10), honest + split)
        overload.serve(300, depth)
        return overload.service("splitter") / overload.service("")

    assert share(1_000, depth=1) == pytest.approx(share(1, depth=5), rel=0.01)


@pytest.mark.parametrize("parts", [1, 7])
def test_idling_earns_no_more_than_one_quantum(parts: int) -> None:
    overload = Overload(replace(SETTINGS, quantum_parts=parts), ["busy"])
    overload.submit("idle:3")
    overload.serve(300)
    saved = overload.pool.nodes["idle"].deficit
    assert overload.waiting["idle:3"] == 0
    assert saved <= 3 * QUANTUM
    assert parts == 1 or saved > 3 * (QUANTUM - QUANTUM // parts)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("tenants", [2, 10, 100, pytest.param(1_000, marks=pytest.mark.long)])
def test_a_newcomer_waits_no_longer_than_the_published_bound_and_the_explained_one(
    tenants: int, parts: int
) -> None:
    settings = replace(SETTINGS, quantum_parts=parts)
    overload = Overload(settings, [f"busy-{number}" for number in range(tenants - 1)])
    overload.serve(5 * tenants)
    overload.top_up(5)
    job_id = overload.submit("newcomer")
    explained = overload.pool.explain(job_id, overload.now).bound
    before = overload.service("")
    while overload.pool.explain(job_id, overload.now).state == "queued":
        overload.claim(0, 1)
        overload.settle(0)
        overload.top_up(5)
    own = overload.service("newcomer")
    waited = overload.service("") - before - own
    assert waited <= 2 * (tenants - 1) * (QUANTUM + LARGEST_COST)
    assert waited <= explained


@pytest.mark.parametrize("overtakes", [0, 1, 5])
def test_hotter_jobs_overtake_no_more_often_than_allowed(overtakes: int) -> None:
    overload = Overload(replace(SETTINGS, overtakes=overtakes), [])
    pool, places = overload.pool, []
    for number in range(3):
        pool.submit(build_job(f"cold-{number}", context=""), overload.now)
    for number in range(60):
        pool.submit(build_job(f"hot-{number}", context="abc"), overload.now)
        claim = pool.claim(WORKER, 0, 1, overload.now, inserted=["a_______"] if not number else [])
        places += [number for job in claim.jobs if job.job_id.startswith("cold")]
    assert len(places) == 3
    assert all(after - before <= overtakes + 1 for before, after in pairwise([-1, *places]))


def test_only_one_of_many_jobs_pays_for_an_uncached_context() -> None:
    pool = Overload(replace(SETTINGS, quantum=10_000), []).pool
    for number in range(20):
        pool.submit(build_job(f"job-{number}", f"tenant-{number % 4}", "abcd"), 1_000)
    charges = [job.charged for job in pool.claim(WORKER, 10_000, 20, 1_001).jobs]
    assert charges == [4 * 16 + 10] + [10] * 19


@given(
    st.lists(
        st.tuples(st.integers(1, 7), st.integers(-50_000, 150), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_one_refill_of_a_deep_debt_equals_the_naive_loop(
    children: list[tuple[int, int, bool]],
) -> None:
    """Each child is its weight, its deficit and whether it waits."""
    tree = Tree(QUANTUM)
    leaves = [tree.leaf([Level(str(place), child[0])]) for place, child in enumerate(children)]
    for leaf, (_weight, deficit, waits) in zip(leaves, children, strict=True):
        tree.pay(leaf, -deficit)
        tree.enqueue(leaf, int(waits), 0)
    eligible = tree.eligible_leaves()
    if eligible:
        tree.refill(tree.nodes[min(eligible)])
    assert [leaf.deficit for leaf in leaves] == naive_refills(children)


def naive_refills(children: list[tuple[int, int, bool]]) -> list[int]:
    """Algorithm 1: as long as nobody who waits is positive, everybody in debt gets a quantum."""
    deficits = [deficit for _weight, deficit, _waits in children]
    waiting = [place for place, child in enumerate(children) if child[2]]
    while waiting and all(deficits[place] <= 0 for place in waiting):
        for place, (weight, _deficit, _waits) in enumerate(children):
            deficits[place] += weight * QUANTUM if deficits[place] <= 0 else 0
    return deficits


@pytest.mark.parametrize("overtakes", [7, 8, 9])
@pytest.mark.parametrize("weights", [(1, 1), (1, 2), (1, 3), (1, 8), (1, 2, 3)])
def test_a_cold_job_gets_its_turn_whatever_rhythm_the_tenants_turns_have(
    weights: tuple[int, ...], overtakes: int
) -> None:
    """All jobs cost half a refill, so that turns by weight and those by deadline may meet."""
    settings = replace(NO_CAPS, overtakes=overtakes)
    line = Rhythm(settings, weights, settings.refill // 2)
    for _ in range(40 + overtakes):
        line.serve()
    cold = line.submit(0, "")
    bound = line.pool.explain(cold, line.now).bound
    before = line.pool.nodes[""].service
    while line.pool.explain(cold, line.now).state == "queued":
        line.serve()
        assert line.pool.nodes[""].service - before <= bound


class Rhythm:
    """Tenants with work on a warm context each, served one job at a time."""

    def __init__(self, settings: GateSettings, weights: Sequence[int], tokens: int) -> None:
        self.pool, self.weights, self.tokens, self.now = Pool(settings), weights, tokens, 1_000
        self.pool.join(WORKER, self.now)
        self.pool.claim(WORKER, 0, 0, self.now, chain_of(weights))
        for tenant in range(len(weights)):
            for _ in range(5):
                self.submit(tenant, CONTEXTS[tenant])

    def submit(self, tenant: int, context: str) -> str:
        """One more job; returns its id."""
        path = f"{CONTEXTS[tenant]}-{self.weights[tenant]}:{self.weights[tenant]}"
        job_id = f"{tenant} {len(self.pool.entries)} {self.now}"
        job = build_job(job_id, path, context, candidate_tokens=self.tokens)
        assert self.pool.submit(job, self.now).answer == "queued"
        return job_id

    def serve(self) -> None:
        """One job, which another one of its tenant follows."""
        self.now += 1
        [claimed] = self.pool.claim(WORKER, 0, 1, self.now).jobs
        self.pool.settle(WORKER, [scored(claimed)], self.now)
        tenant = int(claimed.job_id.partition(" ")[0])
        self.submit(tenant, CONTEXTS[tenant])


def chain_of(weights: Sequence[int]) -> list[str]:
    """Blocks of all tenants' contexts."""
    return [block for tenant in range(len(weights)) for block in chain(CONTEXTS[tenant])]
