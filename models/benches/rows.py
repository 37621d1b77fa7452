"""Sums up turns as rows, and keeps them as CSV with their conditions. Knows no provider's inside.

`gemm_fraction` sets the linear-layer operations a slate cannot do without over the rate of one
4096 x 4096 x 4096 product of the same type in the same rounds.
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.kept.conditions import commit
from models.benches.shapes import linear_operations
from models.benches.turns import Reading, Spec, Turns
from models.benches.worker import LIMIT_SIZE
from models.config import DecoderConfig


@dataclass(frozen=True, slots=True)
class Row:
    """One provider on one shape; milliseconds are of whole slates, rates in 10^9 a second.

    cache: "warm", the context seen and the candidates never, or "cold", neither. peak_mb: above
    what was resident after loading, loaded_mb: that less the process before it. Quality is against
    transformers in fp32, of a sample of the slates and of all, and not stated of random weights.
    note: why there are no figures.
    """

    shape: str
    provider: str
    dtype: str
    cache: str
    items_per_s: float | None = None
    items_p20: float | None = None
    items_p80: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    peak_mb: float | None = None
    loaded_mb: float | None = None
    gemm_fraction: float | None = None
    limit_gops: float | None = None
    max_abs_dp: float | None = None
    kendall_tau: float | None = None
    ndcg_10: float | None = None
    ndcg_1: float | None = None
    kendall_tau_all: float | None = None
    ndcg_10_all: float | None = None
    ndcg_1_all: float | None = None
    turns: int = 0
    note: str = ""


def rows_of(
    shape: str,
    cache: str,
    config: DecoderConfig,
    turns: Mapping[Spec, Turns],
    loaded_mb: Mapping[Spec, float],
) -> list[Row]:
    """One row a provider, in order; the limits themselves have none."""
    limits = {
        spec.dtype: 2 * LIMIT_SIZE**3 / _median([reading.seconds for reading in own.readings])
        for spec, own in turns.items()
        if spec.kind == "product"
    }
    found = []
    for spec, own in turns.items():
        if spec.kind != "product":
            empty = Row(shape, spec.provider, spec.dtype, cache, note=own.failure)
            loaded = replace(empty, loaded_mb=round(loaded_mb[spec], 1))
            found.append(
                _with_times(loaded, own.readings, config, limits[spec.dtype])
                if own.readings
                else loaded
            )
    return found


def conditions() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "commit": commit() or "unknown",
        "date": datetime.now(UTC).date().isoformat(),
    }


def keep_rows(path: Path, rows: Sequence[Any], stated: Mapping[str, Any]) -> None:
    """Puts the rows in place of the file's own of the same shapes."""
    measured = {row.shape for row in rows}
    before = [row for row in read_csv(path) if row["shape"] not in measured]
    lines = [*before, *({**asdict(row), **stated} for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        names = [item.name for item in fields(rows[0])]
        writer = csv.DictWriter(file, [*names, *stated], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(lines, key=lambda line: line["shape"]))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The file's rows as text; none when there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _with_times(row: Row, readings: Sequence[Reading], config: DecoderConfig, limit: float) -> Row:
    warm = row.cache == "warm"
    operations = [linear_operations(config, reading.job, warm) for reading in readings]
    seconds = np.array([reading.seconds for reading in readings])
    rates = np.array([len(reading.job.candidates) for reading in readings]) / seconds
    p20, p50, p80 = np.percentile(rates, (20, 50, 80)).tolist()
    return replace(
        row,
        items_per_s=round(p50, 1),
        items_p20=round(p20, 1),
        items_p80=round(p80, 1),
        p50_ms=round(_median(seconds) * 1e3, 1),
        p99_ms=round(float(np.percentile(seconds, 99)) * 1e3, 1),
        peak_mb=round(max(reading.peak_mb for reading in readings), 1),
        gemm_fraction=round(_median(np.array(operations) / seconds) / limit, 3),
        limit_gops=round(limit / 1e9, 1),
        turns=len(readings),
    )


def _median(values: Any) -> float:
    return float(np.median(values))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
