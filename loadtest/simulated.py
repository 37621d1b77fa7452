"""README rows from the kept simulations. Knows nothing of how they were run."""

from __future__ import annotations

import math
from typing import Any

Row = tuple[str, str, str]
Rows = list[dict[str, Any]]

UNFAIR = ("preble", "rr+lpm")
WHERE = "simulated"
UNTOLD = " untold"


def fig1_rows(kept: Rows) -> list[Row]:
    """One GPU, tree of thoughts: DLPM at quantum 1,000 beside LPM and VTC."""
    tot = [row for row in kept if row["workload"] == "s1-tot"]
    lpm, vtc = (_only(tot, policy=name) for name in ("lpm", "vtc"))
    dlpm = _only(tot, policy="dlpm", quantum=1000)
    vtc_share = f"{vtc['throughput'] / lpm['throughput']:.2f}"
    where = f"{WHERE} Fig. 1 of the paper, one GPU, VTC at {vtc_share} of LPM (published 0.70)"
    return [
        ("DLPM throughput of LPM's", f"{dlpm['throughput'] / lpm['throughput']:.3f}", where),
        ("DLPM throughput of VTC's", f"{dlpm['throughput'] / vtc['throughput']:.2f}x", where),
        ("Jain's index of DLPM / LPM", f"{dlpm['jain']:.3f} / {lpm['jain']:.3f}", where),
    ]


def fig7_rows(kept: Rows) -> list[Row]:
    """D2LPM over all panels beside VTC and the better of two unfair routers."""
    fair = [row for row in kept if row["policy"] == "d2lpm"]
    where = f"{WHERE} Fig. 7 of the paper, {len(fair)} points, 1 to 8 GPUs"
    by_vtc = [_ratio(row, kept, ("vtc",)) for row in fair]
    by_unfair = [_ratio(row, kept, UNFAIR) for row in fair]
    jain = [row["jain"] for row in fair]
    spread = f"{sum(jain) / len(jain):.3f} ({min(jain):.3f})"
    return [
        ("D2LPM throughput of VTC's, geometric mean", f"{_mean(by_vtc):.2f}x", where),
        ("D2LPM throughput of the best unfair router's", f"{_mean(by_unfair):.2f}x", where),
        ("Jain's index of D2LPM, mean (worst)", spread, where),
    ]


def overload_rows(kept: Rows) -> list[Row]:
    """Two tenants in overload, output lengths known."""
    dlpm, fcfs = (_only(kept, policy=name) for name in ("dlpm", "fcfs"))
    gaps = f"{dlpm['gap_max']:,} of at most {dlpm['gap_bound']:,} ({fcfs['gap_max']:,})"
    where = f"{WHERE}: 256 tokens in and out, 1.5 and 3 requests/s; one request costs 768"
    return [("largest gap of charged service, DLPM (FCFS)", gaps, where)]


def fig10_rows(kept: Rows) -> list[Row]:
    """D2LPM's throughput over its sweep of Q^w, with a misbehaving client."""
    swept = [row for row in kept if row["workload"] == "s1-tot" and "Q^w" in row["policy"]]
    first, last = (f"{row['policy'].partition('=')[2]}" for row in (swept[0], swept[-1]))
    figure = " / ".join(f"{row['throughput'] / swept[0]['throughput']:.2f}" for row in swept)
    what = f"D2LPM throughput over Q^w {int(first):,} to {int(last):,}, relative"
    jain = ", ".join(f"{row['jain']:.3f}" for row in swept)
    return [(what, figure, f"{WHERE} Fig. 10 of the paper, four GPUs; Jain's index {jain}")]


def attribution_rows(kept: Rows) -> list[Row]:
    """What the tenant who opens the documents that all read gets, by who pays for them."""
    shares = ", ".join(
        f"{row['policy'].removeprefix('dlpm ')} {100 * row['first_share']:.1f} %" for row in kept
    )
    jain = " / ".join(f"{row['jain']:.3f}" for row in kept)
    what = "share of one of three tenants who opens what all read, by attribution"
    return [(what, shares, f"{WHERE}, an even share is 33.3 %; Jain's index {jain}")]


def deadline_rows(kept: Rows) -> list[Row]:
    """Deadlines that well-behaved tenants missed, and the fairness gap beside them."""
    bound = {row["policy"]: row for row in kept if row["workload"] == "deadlines"}
    told = [name for name in bound if not name.endswith(UNTOLD)]
    figure = ", ".join(
        f"{name} {_missed(bound[name])} ({_missed(bound[name + UNTOLD])})" for name in told
    )
    fair = bound["dlpm"]
    limits = fair["conditions"]["clients"][0].partition("deadlines: ")[2].partition(";")[0]
    quantum = f"Q {fair['quantum']:,} in {fair['conditions']['quantum_parts']}"
    gap = f"DLPM's largest gap {fair['gap_max']:,} of at most {fair['gap_bound']:,} ({quantum})"
    where = f"{WHERE} ranking traffic beside an aggressor, {limits} for the pages of a session"
    what = "deadlines that tenants who ask for little missed (when the gate does not know them)"
    return [(what, figure, f"{where}; {gap}")]


def _missed(row: dict[str, Any]) -> str:
    return f"{100 * row['deadline_misses_good']:.1f} %"


def _only(rows: Rows, **cells: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[name] == value for name, value in cells.items()))
    return row


def _ratio(row: dict[str, Any], rows: Rows, policies: tuple[str, ...]) -> float:
    panel = [other for other in rows if _panel(other) == _panel(row)]
    best = max(other["throughput"] for other in panel if other["policy"] in policies)
    return float(row["throughput"] / best)


def _panel(row: dict[str, Any]) -> tuple[str, int]:
    return row["workload"], row["workers"]


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
