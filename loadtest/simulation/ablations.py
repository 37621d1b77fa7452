"""Scenarios that vary one choice of the gate: Q^w as in Fig. 10, and who pays for shared contexts.

Knows no figure. Source of the sweep: arXiv 2501.14312, Fig. 10 (four GPUs, tree of thoughts, with
one bad client and with none).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from loadtest.simulation.hardware import A10, LLAMA_3B, engine
from loadtest.simulation.papers import OVERTAKES, PAPERS
from loadtest.simulation.routers import ClientRoundRobin, PrebleLike, Router
from loadtest.simulation.scenario import Scenario
from loadtest.simulation.shared import ShelfShape, readers
from loadtest.simulation.workloads import panel
from service.gate.settings import ATTRIBUTIONS, GateSettings

FIG10_WORKER_QUANTA = (2_000, 5_000, 10_000, 20_000, 40_000)
FIG10_WORKERS = 4
FIG10_BASELINES = (("preble", "lpm", PrebleLike), ("rr+lpm", "lpm", Router))
FIG10_SPAN_S = (60.0, 160.0)
ATTRIBUTION_SPAN_S = (20.0, 140.0)


def fig10(quick: bool) -> Iterator[Scenario]:
    """Four A10: D2LPM over a sweep of Q^w, beside what does not know it."""
    for workload in ("s1-tot", "s0-tot"):
        for worker_quantum in FIG10_WORKER_QUANTA:
            settings = replace(PAPERS, worker_quantum=worker_quantum, overtakes=OVERTAKES)
            yield fig10_point(workload, f"d2lpm Q^w={worker_quantum}", settings, None)
        for name, policy, router in FIG10_BASELINES:
            yield fig10_point(workload, name, replace(PAPERS, policy=policy), router)
        yield fig10_point(workload, "vtc", replace(PAPERS, policy="vtc"), ClientRoundRobin)


def fig10_point(
    workload: str, name: str, settings: GateSettings, router: type[Router] | None
) -> Scenario:
    """One point of Fig. 10."""
    return Scenario(
        suite="fig10",
        workload=workload,
        policy=name,
        engine=engine(A10, LLAMA_3B, 32),
        clients=partial(panel, workload, FIG10_WORKERS),
        settings=settings,
        warmup_s=FIG10_SPAN_S[0],
        until_s=FIG10_SPAN_S[1],
        workers=FIG10_WORKERS,
        router=router,
    )


def attribution(quick: bool) -> Iterator[Scenario]:
    """One A10, tenants that read the same documents, each way of paying for them."""
    for choice in ATTRIBUTIONS:
        yield Scenario(
            suite="attribution",
            workload="readers",
            policy=f"dlpm {choice}",
            engine=engine(A10, LLAMA_3B, 128),
            clients=partial(readers, ShelfShape()),
            settings=replace(PAPERS, overtakes=OVERTAKES, attribution=choice),
            warmup_s=ATTRIBUTION_SPAN_S[0],
            until_s=ATTRIBUTION_SPAN_S[1],
            latency="first_token",
        )
