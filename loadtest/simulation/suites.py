"""Which scenarios make up each suite. Knows no figure; Q and Q^w are chosen here, or in `papers`.

`quick` shortens a suite to what a test can wait for: its figures mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from loadtest.simulation.ablations import attribution, fig10
from loadtest.simulation.hardware import A10, A100, LLAMA2_7B, LLAMA_3B, LLAMA_8B, RANKER, engine
from loadtest.simulation.papers import OVERTAKES, PAPERS, QUANTUM
from loadtest.simulation.ranking import RankingShape, ranking
from loadtest.simulation.routers import ClientRoundRobin, PrebleLike, Router
from loadtest.simulation.scenario import Scenario
from loadtest.simulation.workloads import overload, panel, sybil
from service.gate.settings import POLICIES, GateSettings

FIG1_QUANTA = (1_000, 2_000, 8_000, 32_000)
FIG1_LOAD = 1.5  # programs open per client, over those of one worker of fig7
WORKER_QUANTUM = 100_000_000  # Q^w: nobody leaves a warm worker; all workers share the deficits
FIG7_WORKERS = (1, 2, 4, 8)
FIG7_PANELS = ("s1-tot", "s2-tot", "s1-judge", "s2-judge", "s1-qa", "s2-qa")
BLOCKS = {"tot": 32, "judge": 32, "qa": 128, "chat": 32}
SPANS_S = {"tot": (30.0, 80.0), "judge": (60.0, 180.0), "qa": (120.0, 420.0), "chat": (60.0, 180.0)}
# What is compared: name, policy of the gates, router (None: one gate that routes by D2LPM).
FIG7_POLICIES: tuple[tuple[str, str, Callable[[], Router] | None], ...] = (
    ("d2lpm", "dlpm", None),
    ("preble", "lpm", PrebleLike),
    ("rr+lpm", "lpm", Router),
    ("vtc", "vtc", ClientRoundRobin),
)
VTC_KV_TOKENS = 10_000  # of VTC's overload suite (arXiv 2401.00588)
OVERLOAD_QUANTUM = 1  # strict turns: known lengths leave nothing to smooth


def scenarios(suite: str, seed: int, quick: bool) -> Iterator[Scenario]:
    """A suite's scenarios in order."""
    for scenario in SUITES[suite](quick):
        spans = (scenario.warmup_s / 10, scenario.until_s / 10)
        warmup, until = spans if quick else (scenario.warmup_s, scenario.until_s)
        yield replace(scenario, seed=seed, warmup_s=warmup, until_s=until)


def gate(policy: str, quantum: int) -> GateSettings:
    """The settings of the paper's workloads."""
    return replace(
        PAPERS,
        policy=policy,
        quantum=quantum,
        worker_quantum=WORKER_QUANTUM,
        overtakes=OVERTAKES,
    )


def fig1(quick: bool) -> Iterator[Scenario]:
    """One A10: tree of thoughts with one bad client over a sweep of Q; chat beside it."""
    trees, chats = fig1_base("s1-tot"), fig1_base("s1-chat")
    for quantum in FIG1_QUANTA:
        yield replace(trees, policy="dlpm", settings=gate("dlpm", quantum))
    for policy in ("lpm", "vtc", "fcfs", "hrrn"):
        yield replace(trees, policy=policy, settings=gate(policy, QUANTUM))
    for policy in ("dlpm", "lpm", "vtc"):
        yield replace(chats, policy=policy, settings=gate(policy, QUANTUM))


def fig1_base(workload: str) -> Scenario:
    """A workload of Fig. 1 without a policy."""
    kind = workload.split("-")[1]
    return Scenario(
        suite="fig1",
        workload=workload,
        policy="",
        engine=engine(A10, LLAMA_3B, BLOCKS[kind]),
        clients=partial(panel, workload, FIG1_LOAD),
        settings=PAPERS,
        warmup_s=SPANS_S[kind][0],
        until_s=2 * SPANS_S[kind][1],
    )


def fig7(quick: bool) -> Iterator[Scenario]:
    """A100s with one bad client: six panels, four policies, up to eight workers."""
    for workload in FIG7_PANELS:
        for workers in FIG7_WORKERS[: 2 if quick else None]:
            for name, policy, router in FIG7_POLICIES:
                if workers > 1 or router is not PrebleLike:  # with one worker Preble is rr+lpm
                    yield fig7_point(workload, workers, name, policy, router)


def fig7_point(
    workload: str, workers: int, name: str, policy: str, router: Callable[[], Router] | None
) -> Scenario:
    """One bar of Fig. 7."""
    kind = workload.split("-")[1]
    return Scenario(
        suite="fig7",
        workload=workload,
        policy=name,
        engine=engine(A100, LLAMA_8B, BLOCKS[kind]),
        clients=partial(panel, workload, workers),
        settings=gate(policy, QUANTUM),
        warmup_s=SPANS_S[kind][0],
        until_s=SPANS_S[kind][1],
        workers=workers,
        router=router,
        latency="first_token" if kind == "qa" else "program",
    )


def overload_suite(quick: bool) -> Iterator[Scenario]:
    """VTC's overload: two clients, known output lengths; the warm-up ends in steady overload."""
    for policy in ("dlpm", "vtc", "fcfs"):
        yield Scenario(
            suite="overload",
            workload="overload",
            policy=policy,
            engine=engine(A10, LLAMA2_7B, 32, VTC_KV_TOKENS),
            clients=overload,
            settings=gate(policy, OVERLOAD_QUANTUM),
            warmup_s=60.0,
            until_s=360.0,
        )


def ranking_suite(quick: bool) -> Iterator[Scenario]:
    """Our own traffic, alone and beside an aggressor, with the gate as it is shipped.

    Then beside the aggressor with deadlines that bind; "untold" are policies that do not know them.
    """
    tight = RankingShape(first_page_ms=500, deadline_ms=5_000)
    untold = replace(tight, deadlines_told=False)
    for workload in ("calm", "aggressor", "deadlines"):
        shape = tight if workload == "deadlines" else RankingShape()
        for policy in POLICIES:
            yield ranking_point(workload, policy, policy, shape)
    for policy in POLICIES:
        yield ranking_point("deadlines", f"{policy} untold", policy, untold)


def ranking_point(workload: str, name: str, policy: str, shape: RankingShape) -> Scenario:
    """One policy under our own traffic."""
    return Scenario(
        suite="ranking",
        workload=workload,
        policy=name,
        engine=RANKER,
        clients=partial(ranking, shape, workload != "calm"),
        settings=GateSettings(policy=policy),
        warmup_s=30.0,
        until_s=240.0,
        latency="first_token",
    )


def sybil_suite(quick: bool) -> Iterator[Scenario]:
    """One of four equal tenants splits its traffic over 1,000 ids."""
    for split in ("whole", "users", "tenants"):
        yield Scenario(
            suite="sybil",
            workload=split,
            policy="dlpm",
            engine=RANKER,
            clients=partial(sybil, split),
            settings=GateSettings(),
            warmup_s=5.0,
            until_s=45.0,
            latency="first_token",
        )


SUITES: dict[str, Callable[[bool], Iterator[Scenario]]] = {
    "fig1": fig1,
    "fig7": fig7,
    "overload": overload_suite,
    "ranking": ranking_suite,
    "sybil": sybil_suite,
    "fig10": fig10,
    "attribution": attribution,
}
