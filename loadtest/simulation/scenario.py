"""One simulated experiment and the row of figures that it gives. Knows no particular workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.percentiles import percentile
from loadtest.simulation.clients import Client
from loadtest.simulation.engine import Simulation
from loadtest.simulation.hardware import Engine
from loadtest.simulation.measures import jain
from loadtest.simulation.routers import Router
from loadtest.simulation.totals import Due, Sample, Span
from service.gate.policy import gap_bound
from service.gate.settings import GateSettings


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is run and measured: `warmup_s` is left out of every figure but the charged gap."""

    suite: str
    workload: str
    policy: str  # as it is called in the row
    engine: Engine
    clients: Callable[[], Sequence[Client]]
    settings: GateSettings
    warmup_s: float
    until_s: float
    workers: int = 1
    router: Callable[[], Router] | None = None
    latency: str = "program"  # or "first_token"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's row, and what is drawn: services over time, by client."""

    row: dict[str, Any]
    names: tuple[str, ...]
    samples: tuple[Sample, ...]


def play(scenario: Scenario) -> Outcome:
    """Runs a scenario."""
    clients = list(scenario.clients())
    simulation = Simulation(
        scenario.engine,
        clients,
        scenario.settings,
        scenario.workers,
        scenario.router() if scenario.router else None,
        scenario.seed,
    )
    totals = simulation.run(1e3 * scenario.warmup_s)
    before = totals.snapshot(simulation.timeline.now)
    simulation.observer.delivered.restart()
    simulation.run(1e3 * scenario.until_s)
    after = totals.snapshot(simulation.timeline.now)
    row = identity(scenario) | services(before, after) | latencies(scenario, simulation)
    row |= gaps(scenario, simulation) | misses(scenario, simulation)
    row |= extras(scenario, simulation, before, after)
    return Outcome(row, tuple(client.name for client in clients), tuple(totals.samples))


def identity(scenario: Scenario) -> dict[str, Any]:
    """What tells one row from the others."""
    return {
        "suite": scenario.suite,
        "workload": scenario.workload,
        "policy": scenario.policy,
        "workers": scenario.workers,
        "quantum": scenario.settings.quantum if scenario.settings.policy == "dlpm" else None,
    }


def services(before: Sample, after: Sample) -> dict[str, Any]:
    """Tokens per second as clients see them, and Jain's indices of both services."""
    delivered, charged = difference(before, after)
    return {
        "throughput": round(1e3 * sum(delivered) / (after.at - before.at)),
        "jain": round(jain(delivered), 4),
        "jain_actual": round(jain(charged), 4),
    }


def difference(before: Sample, after: Sample) -> tuple[list[int], list[int]]:
    """Services delivered and charged in between, by client."""
    pairs = (before.delivered, after.delivered), (before.charged, after.charged)
    delivered, charged = ([b - a for a, b in zip(*pair, strict=True)] for pair in pairs)
    return delivered, charged


def latencies(scenario: Scenario, simulation: Simulation) -> dict[str, Any]:
    """Seconds of the well-behaved clients' programs or first tokens that ended after warm-up."""
    totals = simulation.totals
    spans = totals.programs if scenario.latency == "program" else totals.first_tokens
    seconds = [span.seconds for span in spans if _counts(span, scenario, simulation)]
    return {
        name: round(percentile(seconds, share), 3) if seconds else None
        for name, share in {"p50_s": 0.50, "p99_s": 0.99}.items()
    }


def _counts(span: Span | Due, scenario: Scenario, simulation: Simulation) -> bool:
    return simulation.clients[span.client].good and span.ended >= 1e3 * scenario.warmup_s


def misses(scenario: Scenario, simulation: Simulation) -> dict[str, Any]:
    """Share of the requests with deadlines that missed them, of all and of well-behaved clients.

    Nothing of a workload without deadlines.
    """
    measured = [due for due in simulation.totals.dues if due.ended >= 1e3 * scenario.warmup_s]
    good = [due for due in measured if _counts(due, scenario, simulation)]
    return {
        name: round(sum(due.missed for due in dues) / len(dues), 4)
        for name, dues in {"deadline_misses": measured, "deadline_misses_good": good}.items()
        if dues
    }


def gaps(scenario: Scenario, simulation: Simulation) -> dict[str, Any]:
    """Largest difference of charged service over windows in which both clients are backlogged.

    `gap_bound` is `policy.gap_bound` for the largest job and refund seen; only DLPM has one, and
    no client of many tenants.
    """
    single = all(len(client.accounts) == 1 for client in simulation.clients)
    bounded = single and scenario.settings.policy == "dlpm"
    refunds = sorted(simulation.totals.most_refundable)[-2:]
    bound = gap_bound(
        scenario.settings.quantum,
        max(pool.ledger.largest_cost for pool in simulation.pools),
        in_flight=(refunds[0], refunds[-1]),
    )
    return {
        "gap_max": round(simulation.observer.charged.largest),
        "gap_bound": round(bound) if bounded else None,
    }


def extras(
    scenario: Scenario, simulation: Simulation, before: Sample, after: Sample
) -> dict[str, Any]:
    """What else is worth knowing; `gap_delivered` is the gap of what clients see after warm-up."""
    delivered, _ = difference(before, after)
    prompt = after.prompt_tokens - before.prompt_tokens
    return {
        "gap_delivered": round(simulation.observer.delivered.largest),
        "first_share": round(delivered[0] / max(1, sum(delivered)), 4),
        "cached_share": round(1 - (after.extend_tokens - before.extend_tokens) / max(1, prompt), 4),
        "idle_with_work": simulation.totals.idle_with_work,
        "conditions": conditions(scenario, simulation.clients),
    }


def conditions(scenario: Scenario, clients: Sequence[Client]) -> dict[str, Any]:
    """What the row holds for; the workload's own parameters are in `loadtest.simulation`."""
    settings = scenario.settings
    parts = settings.quantum_parts  # of the papers' one refill a quantum nothing is said
    return {
        "seed": scenario.seed,
        "measured_s": [scenario.warmup_s, scenario.until_s],
        "latency": scenario.latency,
        "worker_quantum": settings.worker_quantum,
        "overtakes": settings.overtakes,
        "weights": [settings.extend_weight, settings.output_weight],
        **({"quantum_parts": parts} if parts > 1 else {}),
        "engine": asdict(scenario.engine),
        "clients": [_described(client) for client in clients],
    }


def _described(client: Client) -> str:
    behaviour = "good" if client.good else "bad"
    return f"{client.name} ({behaviour}): {client.about}; {client.arrivals}"
