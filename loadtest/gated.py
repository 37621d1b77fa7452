"""README rows about the gate, from what measurements of it kept. Knows not how they were run."""

from __future__ import annotations

from typing import Any

Row = tuple[str, str, str]
Rows = list[dict[str, Any]]


def lone_rows(lone: dict[str, Any]) -> list[Row]:
    """What the gate costs a tenant that is alone."""
    shares = sorted(lone["shares"])
    spread = f"{100 * shares[0]:.0f} to {100 * shares[-1]:.0f} %"
    where = f"of the bare engine's with the same batches, median of {len(shares)} rounds, {spread}"
    return [("lone tenant's throughput through the gate", f"{100 * lone['share']:.1f} %", where)]


def gate_rows(gate: dict[str, Any]) -> list[Row]:
    """The gate alone, in its first three shapes."""
    shown = [figure for shape in gate["rows"][:3] for figure in _shape_rows(shape)]
    return [
        (what, figure, f"redis-server {gate['redis_version']}, {how}")
        for what, figure, how in shown
    ]


def _shape_rows(shape: dict[str, Any]) -> list[Row]:
    """How fast the gate admits and claims while the jobs of one shape wait."""
    name, quantum = shape["shape"], f"Q {shape['quantum']} in {shape['quantum_parts']}"
    waiting = f"{quantum}, {shape['queued']} jobs of {shape['tenants']} tenants waiting"
    claims = f"{waiting}, batches of {shape['batch']}, round trip included"
    busy = f"Redis busy for {100 * shape['redis_share']:.0f} %"
    load = f"{waiting}, two clients that pipeline, {busy}"
    per_core = (
        f"{shape['admissions_per_s']} ({shape['admissions_per_core_s']} per second of its CPU)"
    )
    times = f"{shape['claim_p50_ms']:.2f} / {shape['claim_p99_ms']:.2f}"
    return [
        (f"gate admissions per second, {name}", per_core, load),
        (f"gate claim p50 / p99 ms, {name}", times, claims),
    ]


def day_rows(hours: list[dict[str, Any]]) -> list[Row]:
    """What a day of tenants that come once leaves behind."""
    sizes = [hour["used_memory_mb"] for hour in hours[1:]]
    last = hours[-1]
    where = f"{last['tenants']:,} tenants with one job each in {last['hour']} simulated hours"
    spread = f"{min(sizes)} to {max(sizes)} MB from the second hour on"
    return [("Redis' memory while tenants come and go", spread, where)]


def failover_rows(lags: list[dict[str, Any]]) -> list[Row]:
    """How far a failover drives two tenants apart, at the worst lag of each setting."""
    settings: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in lags:
        settings.setdefault((row["quantum"], row["quantum_parts"]), []).append(row)
    return [_failover_row(*setting, rows) for setting, rows in settings.items()]


def _failover_row(quantum: int, parts: int, lags: list[dict[str, Any]]) -> Row:
    worst, longest = max(lags, key=lambda row: row["growth"]), lags[-1]["lag_claims"]
    return (
        f"failover widens the gap of two tenants, Q {quantum} in {parts}",
        f"by {worst['growth']} tokens to {worst['gap']}",
        f"{worst['lag_cost']} served in the lag, worst of {worst['runs']} runs each with lags of 0 "
        f"to {longest} claims; without any lag by {lags[0]['growth']}; the policy's bound without "
        f"a failover is {worst['bound']}",
    )


def outage_rows(kinds: list[dict[str, Any]]) -> list[Row]:
    """How long clients are refused when a server goes on without the shared Redis."""
    return [
        (
            f"shared Redis {row['how']}: first answer through the server's own",
            f"{row['median_s']:.2f} s (worst {row['worst_s']:.2f})",
            f"`make serve` with `local`, a client that asks again at once, {row['rounds']} rounds",
        )
        for row in kinds
    ]
