"""Which slices of the data a request belongs to. Knows no metrics; no model ever sees these names.

A slice is a tenant, a profile or a job zone, each where the data carry it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.data.requests import read_rows
from compress.measure.intervals import Scored, values

DIMENSIONS = ("tenant", "profile", "job_zone")
FEWEST = 10  # requests from which a slice can be the worst one


def slice_names(directory: Path, split: str) -> list[dict[str, str]]:
    """{dimension: slice} of every request, in the order of `load_requests`."""
    zones = {
        str(item["occ"]): str(item["job_zone"])
        for item in read_rows(directory / "items.jsonl.gz")
        if "occ" in item and "job_zone" in item
    }
    return [_names(row, zones) for row in read_rows(directory / f"{split}.jsonl.gz")]


def _names(row: Mapping[str, Any], zones: Mapping[str, str]) -> dict[str, str]:
    zone = zones.get(str(row.get("occ", "")))
    known = {"tenant": row.get("tenant"), "profile": row.get("profile"), "job_zone": zone}
    return {dimension: str(name) for dimension, name in known.items() if name is not None}


def by_slice(
    scored: Sequence[Scored],
    names: Sequence[Mapping[str, str]],
    metrics: Callable[[Sequence[Scored]], dict[str, float]] = values,
) -> dict[str, dict[str, dict[str, float]]]:
    """{dimension: {slice: its metrics, and its number of requests}}, slices in order."""
    parts: dict[str, dict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for item, belongs in zip(scored, names, strict=True):
        for dimension, name in belongs.items():
            parts[dimension][name].append(item)
    return {
        dimension: {
            name: {"requests": len(part)} | metrics(part) for name, part in sorted(slices.items())
        }
        for dimension, slices in parts.items()
    }


def worst(slices: Mapping[str, Mapping[str, float]], metric: str) -> tuple[str, float] | None:
    """The slice of at least FEWEST requests with the lowest value, and that value."""
    large = {name: part[metric] for name, part in slices.items() if part["requests"] >= FEWEST}
    known = {name: value for name, value in large.items() if value == value}
    return min(known.items(), key=lambda pair: pair[1]) if known else None
