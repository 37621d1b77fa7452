"""Prepares, times and describes the providers of one row. Knows no operation's inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from kernels.base.variant import Cost
from kernels.bench import rivals
from kernels.bench.plan import Row
from kernels.bench.rivals import Rivals
from kernels.bench.roofline import Roofline
from kernels.bench.special import Special
from kernels.bench.timing import Call, Timing, time_side_by_side
from kernels.kept.figures import COPY

Record = dict[str, Any]
TIMING_COLUMNS = ("median_us", "p20_us", "p80_us", "repeats", "method")
LARGEST_COPY = 1 << 29  # of a larger one the rate of 1 GiB says the same
RATE_COLUMNS = ("gb_per_s", "tflop_per_s", "share", "share_of")


def measure(
    row: Row | Special,
    device: torch.device,
    providers: Sequence[str],
    window_ms: float,
    best: Roofline,
) -> list[Record]:
    """A record for each provider, those that failed included, without their figures."""
    found = prepared(row, device, providers)
    timings = time_side_by_side(found.calls, device, window_ms)
    return [
        {
            "op": row.name,
            "mode": row.mode,
            "model": row.model_names,
            "tokens": row.tokens,
            "dtype": "bfloat16",
            "provider": provider,
            **_figures(timings.get(provider), found.repeated.get(provider, 1), found.cost, best),
            "peak_mb": _rounded(found.peaks.get(provider), 1),
            "bytes": found.cost.bytes,
            "flops": found.cost.flops,
            "max_rel_error": _rounded(found.errors.get(provider), 8),
            "note": found.notes.get(provider, ""),
        }
        for provider in {**found.calls, **found.notes}
    ]


def prepared(row: Row | Special, device: torch.device, providers: Sequence[str]) -> Rivals:
    """The row's calls, each made once."""
    if isinstance(row, Special):
        return row.rivals(device)
    found = rivals.rivals_of(row, device, providers)
    if found.cost.bytes <= LARGEST_COPY and "ours" in found.calls:
        found.calls[COPY] = _copy_of(found.cost.bytes, device)
    return found


def _copy_of(moved: int, device: torch.device) -> Call:
    """Reads half of the bytes and writes them elsewhere: what a row of as many can reach."""
    source = torch.empty(moved // 2, dtype=torch.int8, device=device)
    return partial(torch.empty_like(source).copy_, source)


def compile_ahead(row: Row | Special, device: torch.device, providers: Sequence[str]) -> None:
    """Leaves compiled, in this process, whatever `measure` of the row will call."""
    if isinstance(row, Special):
        row.rivals(device)
    else:
        rivals.compile_row(row, device, [name for name in providers if name != "eager"])


def _figures(timing: Timing | None, repeated: int, cost: Cost, best: Roofline) -> Record:
    if timing is None:
        return dict.fromkeys((*TIMING_COLUMNS, *RATE_COLUMNS), "")
    median = timing.median_us / repeated
    share, limit = best.share(cost, median)
    return {
        "median_us": round(median, 2),
        "p20_us": round(timing.p20_us / repeated, 2),
        "p80_us": round(timing.p80_us / repeated, 2),
        "repeats": timing.repeats,
        "method": timing.method,
        "gb_per_s": round(cost.bytes / median / 1e3, 1),
        "tflop_per_s": round(cost.flops / median / 1e6, 2),
        "share": round(share, 4),
        "share_of": limit,
    }


def _rounded(value: float | None, digits: int) -> float | str:
    return "" if value is None else round(value, digits)
